"""A study while it runs: a live table, or a line whenever a point changes its state."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import rich.console
import rich.live
import rich.table
import rich.text

from inception.reporting import markup
from inception.sweeps.study import STATES, counted, differing, left

SHOWN = 40  # lines of the live table; finished points are left out first
LOOK_S = 2.0  # seconds between looks at the points' files


def table(rows: Sequence[dict[str, Any]]) -> rich.table.Table:
    """The rows as a table for people, running points first."""
    varied = differing(rows)
    view = rich.table.Table(title=counted(rows), title_justify="left")
    for name in ("", *(k.split(".")[-1] for k in varied), "state"):
        view.add_column(name)
    for name in ("epoch", "best top-1", "left"):
        view.add_column(name, justify="right")
    order = sorted(rows, key=lambda r: (STATES.index(r["state"]), r["number"]))
    for r in order[:SHOWN]:
        best = "" if r["best_top1"] is None else f"{r['best_top1']:.2f}%"
        epoch = f"{r['epoch']:.1f}" + ("" if math.isnan(r["epochs"]) else f" of {r['epochs']:g}")
        # rich reads [words] in strings as markup.
        values = [rich.text.Text(markup.text(r["knobs"].get(k))) for k in varied]
        view.add_row(str(r["number"]), *values, r["state"], epoch, best, left(r))
    if len(order) > SHOWN:
        view.caption = f"and {len(order) - SHOWN} more, {order[SHOWN]['state']} and so on"
    return view


class Show:
    """The live table; where stderr is no terminal, a line whenever a point changes its state."""

    def __init__(self, rows: Callable[[], Sequence[dict[str, Any]]]):
        self._rows = rows
        self._console = rich.console.Console(stderr=True)
        self._live = rich.live.Live(console=self._console, auto_refresh=False)
        self._states: dict[int, str] = {}
        self._next = 0.0

    def __enter__(self) -> "Show":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self._live.update(table(self._rows()))
        finally:
            self._live.stop()

    def __call__(self) -> None:
        """Shows the newest rows; call it often: it reads files only every LOOK_S seconds."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOK_S
        rows = self._rows()
        if self._console.is_terminal:
            self._live.update(table(rows), refresh=True)
            return
        for r in rows:
            if self._states.get(r["number"]) != r["state"] != "waiting":
                knobs = ", ".join(f"{k}={markup.text(v)}" for k, v in r["knobs"].items())
                best = "" if r["best_top1"] is None else f", best top-1 {r['best_top1']:.2f}%"
                why = f": {r['error']}" if r["error"] else ""
                line = f"[{r['number']}] {knobs}: {r['state']}{best}{why}"
                print(line, file=self._console.file, flush=True)
            self._states[r["number"]] = r["state"]
