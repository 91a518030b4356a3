"""A study: many runs of one experiment, each in a folder of its own, as its files tell of them."""

import contextlib
import dataclasses
import json
import math
import pathlib
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import rich.console
import rich.live
import rich.table
import rich.text

from inception import UserError
from inception.data import paths

SHOWN = 40  # lines of the live table; finished points are left out first
STATES = ("running", "waiting", "stopped", "failed", "pruned", "finished")


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a study.

    Attributes:
        knobs: {name from config on: value}, what this point changes.
        workdir: STUDY/number.
        command: after `python launch.py`.
    """

    number: int
    knobs: dict[str, Any]
    workdir: str
    command: tuple[str, ...]

    @property
    def folder(self) -> pathlib.Path:
        return pathlib.Path(self.workdir)

    def result(self) -> dict[str, Any] | None:
        """What the run gave at its end; None before."""
        return _read_json(self.folder / "result.json")

    def in_use(self) -> bool:
        """Whether a run lives in its folder, as one that saves after its sweep was killed."""
        return paths.is_locked(self.folder / "lock")

    def log(self) -> pathlib.Path:
        """What the run printed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / "log.txt"

    def mark(self, ending: str, text: str = "") -> None:
        """Notes that the run 'failed', or was 'pruned'."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / ending).write_text(text + "\n")

    def unmark(self) -> None:
        """Forgets a failure, before the run starts again."""
        (self.folder / "failed").unlink(missing_ok=True)

    def fail(self, why: str, log: pathlib.Path) -> None:
        """Notes the failure: launch.py's own line at the end of the log, or `why` and the log."""
        lines = log.read_text(errors="replace") if log.exists() else ""
        told = [line.strip() for line in lines.splitlines() if line.strip()]
        why = f"{why}; see {log}"
        self.mark("failed", told[-1] if told and told[-1].startswith("launch.py ") else why)


def _read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return None


def create(folder: str, kind: dict[str, Any]) -> None:
    """Makes STUDY/study.json say what the study is of; the same study may be there already.

    Args:
        kind: JSON; all that must not change: the experiment, its points or its space.

    Raises:
        UserError: the folder has another study.
    """
    path = pathlib.Path(folder) / "study.json"
    kind = json.loads(json.dumps(kind))
    if (path.parent / "config.json").exists():
        raise UserError(f"--workdir={folder} is a run, not a study: choose another --workdir")
    if not path.exists() and (path.parent / "0" / "config.json").exists():
        raise UserError(f"--workdir={folder} has runs of no study: choose another --workdir")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+") as file:
            paths.lock(file, path, wait=True)  # of several that begin at once one is the first
            file.seek(0)
            if not (text := file.read()):
                file.write(text := json.dumps(kind, indent=2) + "\n")
        there = json.loads(text)
    except OSError as error:
        raise UserError(f"--workdir={folder} cannot be written: {error}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}): choose another --workdir") from error
    if there != kind:
        key = next(k for k in {**kind, **there} if there.get(k) != kind.get(k))
        was, now = there.get(key), kind.get(key)
        if isinstance(was, list) and isinstance(now, list):
            pairs = enumerate(zip([*was, "nothing"], [*now, "nothing"], strict=False))
            number, (was, now) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
            key = f"{key}[{number}]"
        raise UserError(
            f"--workdir={folder} has another sweep: {key} is {was} there and {now} here. Choose "
            "another --workdir"
        )


class InUse(UserError):
    """Somebody else works on the folder."""


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Within it nobody else runs this folder; InUse if somebody does."""
    path = pathlib.Path(folder) / "worker"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            paths.lock(file, path)
        except BlockingIOError as error:
            raise InUse(f"{folder} is being worked on: wait for it, or stop it") from error
        yield


def row(point: Point, *, state: str = "") -> dict[str, Any]:
    """How far a point is, from its files; see `inception.sweeps.page` for the keys.

    Args:
        state: 'running' or 'waiting', where a scheduler knows it.
    """
    metrics = paths.read_lines(paths.at(point.workdir) / "metrics.jsonl")
    config = _read_json(point.folder / "config.json") or {}
    epochs = float(config.get("optim", {}).get("epochs", math.nan))
    curve = [(r["epoch"], 100 * r["top1"]) for r in metrics if r["kind"] == "eval"]
    newest = next((r for r in reversed(metrics) if r["kind"] == "train"), None)
    images = next((r["images"] for r in metrics if r["kind"] == "start"), 0)
    epoch = newest["epoch"] if newest else 0.0
    result = point.result()
    error = ""
    if result:
        state, epoch = "finished", epochs
    elif (point.folder / "pruned").exists():
        state = "pruned"
    elif not state and (point.folder / "failed").exists():
        state, error = "failed", (point.folder / "failed").read_text().strip()
    elif not state:
        state = "stopped" if metrics else "waiting"
    own = f"--workdir={point.workdir}"
    again = [f"{own}-again" if word == own else word for word in point.command]
    left = None
    if state == "running" and newest and newest["images_per_second"]:
        left = (epochs - epoch) * images / newest["images_per_second"]
    return {
        "number": point.number,
        "knobs": point.knobs,
        "state": state,
        "workdir": point.workdir,
        "epoch": epoch,
        "epochs": epochs,
        "best_top1": max((top1 for _, top1 in curve), default=None),
        "curve": curve,
        "seconds_left": left,
        "error": error,
        "result": result,
        "command": f"python launch.py {shlex.join(again)}",
    }


def table(rows: Sequence[dict[str, Any]]) -> rich.table.Table:
    """The rows as people read them: those that run first."""
    knobs = sorted({knob for r in rows for knob in r["knobs"]})
    varied = [k for k in knobs if len({str(r["knobs"].get(k)) for r in rows}) > 1]
    count = {state: sum(r["state"] == state for r in rows) for state in STATES}
    title = ", ".join(f"{n} {state}" for state, n in count.items() if n)
    view = rich.table.Table(title=f"{len(rows)} points: {title}", title_justify="left")
    for name in ("", *(k.split(".")[-1] for k in varied), "state", "epoch", "best top-1", "left"):
        view.add_column(
            name, justify="right" if name in ("epoch", "best top-1", "left") else "left"
        )
    order = sorted(rows, key=lambda r: (STATES.index(r["state"]), r["number"]))
    for r in order[:SHOWN]:
        best = "" if r["best_top1"] is None else f"{r['best_top1']:.2f}%"
        left = "" if r["seconds_left"] is None else _duration(r["seconds_left"])
        epoch = f"{r['epoch']:.1f}" + ("" if math.isnan(r["epochs"]) else f" of {r['epochs']:g}")
        values = [_short(r["knobs"].get(k, "")) for k in varied]
        view.add_row(
            str(r["number"]), *map(rich.text.Text, values), r["state"], epoch, best, left
        )  # rich reads [words] in strings as markup
    if len(order) > SHOWN:
        view.caption = f"and {len(order) - SHOWN} more, {order[SHOWN]['state']} and so on"
    return view


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Show:
    """The live table; where stderr is no terminal, a line whenever a point changes its state."""

    def __init__(self, rows: Callable[[], Sequence[dict[str, Any]]]):
        self._rows = rows
        console = rich.console.Console(stderr=True)
        self._live = rich.live.Live(console=console, auto_refresh=False, transient=True)
        self._terminal, self._console = console.is_terminal, console
        self._states: dict[int, str] = {}
        self._next = 0.0

    def __enter__(self) -> "Show":
        if self._terminal:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()
        if self._terminal:
            self._console.print(table(self._rows()))

    def __call__(self, *, every_s: float = 2.0) -> None:
        """To be called often; looks at the files every so many seconds."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + every_s
        rows = self._rows()
        if self._terminal:
            self._live.update(table(rows), refresh=True)
            return
        for r in rows:
            if self._states.get(r["number"]) != r["state"] != "waiting":
                knobs = ", ".join(f"{k}={_short(v)}" for k, v in r["knobs"].items())
                best = "" if r["best_top1"] is None else f", best top-1 {r['best_top1']:.2f}%"
                why = f": {r['error']}" if r["error"] else ""
                print(
                    f"[{r['number']}] {knobs}: {r['state']}{best}{why}",
                    file=self._console.file,
                    flush=True,
                )
            self._states[r["number"]] = r["state"]
