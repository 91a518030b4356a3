"""A study's page: the points of a sweep in one table, their curves, and which knobs mattered."""

import html
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

from inception import UserError
from inception.data import paths
from inception.reporting import figures, markup
from inception.reporting.markup import Cell, fixed, number, text
from inception.reporting.table import to_csv
from inception.sweeps.importance import (
    FEW_VALUES,
    Knob,
    best_of,
    by_error,
    differing,
    groups,
    importances,
    key,
)
from inception.sweeps.study import STATES

RESULTS = ("top1_error", "top5_error", "steps", "images_per_second")  # as in eval.json

UNFINISHED = dict.fromkeys(("running", "stopped", "waiting"), "unfinished")  # in CSS

CSS = """
.wide > figure { min-width: 620px }
.tall { max-height: 80vh; overflow-y: auto }
.tall th { position: sticky; top: 0; background: #fff }
td, th { white-space: nowrap }
th.n { text-align: right }
td.text { white-space: normal; min-width: 16rem; overflow-wrap: anywhere }
tr.best td { font-weight: 600; background: #eaf4ea }
tr.unfinished td { color: #667; font-style: italic }
tr.failed td { color: #a33 }
pre { white-space: pre-wrap; overflow-wrap: anywhere }
pre span { display: inline-block }
small { color: #566 }
.bar { display: inline-block; height: .7rem; background: #31688e }
"""


def _state(row: dict[str, Any]) -> str:
    if row["state"] in ("finished", "waiting"):
        return row["state"]
    state = f"{row['state']}, epoch {row['epoch']:.3g} of {row['epochs']:.3g}"
    left = number(row["seconds_left"])
    if row["state"] != "running" or left is None:
        return state
    duration = f"{left / 3600:.1f} h" if left >= 5400 else f"{left / 60:.0f} min"
    return f"{state}, {duration} left"


def _points(folder: str, rows: Sequence[dict[str, Any]], knobs: Sequence[Knob]) -> str:
    """All points, the best first; each links to its run page, where it has one."""
    best = best_of(rows)

    def rank(i: int) -> tuple[bool, float, int]:
        top1 = number(rows[i]["best_top1"])
        return top1 is None, -(top1 or 0), rows[i]["number"]

    lines, css = [], []
    for i in sorted(range(len(rows)), key=rank):
        row, result = rows[i], rows[i]["result"] or {}
        workdir, name = paths.at(row["workdir"]), str(row["number"])
        if workdir.parent == paths.at(folder) and (workdir / "report.html").exists():
            name = f'<a href="{html.escape(workdir.name)}/report.html">{name}</a>'
        errors = [number(result.get(name)) for name in ("top1_error", "top5_error")]
        css.append("best" if i == best else UNFINISHED.get(row["state"], row["state"]))
        lines.append(
            [
                Cell(f'<td class="n">{name}</td>'),
                fixed(number(row["best_top1"]), 2),
                *(knob.values[i] for knob in knobs),
                _state(row),
                *(fixed(None if error is None else 100 - error, 2) for error in errors),
                fixed(number(result.get("steps")), 0),
                fixed(number(result.get("images_per_second")), 1),
            ]
        )
    after = ["state", "final top-1, %", "final top-5, %", "steps", "images/s"]
    header = ["point", "best top-1, %", *(knob.label for knob in knobs), *after]
    numeric = [0, 1, *range(len(knobs) + 3, len(header))]
    return markup.table(lines, header, numeric=numeric, css=css)


def _curves(rows: Sequence[dict[str, Any]], knobs: Sequence[Knob], shares: Any) -> str:
    """Top-1 of all points, coloured by the knob that mattered most; until known, by themselves."""
    order = sorted({row["best_top1"] for row in rows if number(row["best_top1"]) is not None})
    shades = [
        order.index(row["best_top1"]) / max(1, len(order) - 1) if row["best_top1"] in order else 0
        for row in rows
    ]
    legend = [(0.0, "lowest top-1"), (1.0, "highest top-1")] if len(order) > 1 else []
    if isinstance(shares, dict):
        knob = next(knob for knob in knobs if knob.name == next(iter(shares)))
        shades = [max(0.0, knob.position(value)) for value in knob.values]
        legend = [(y, f"{knob.label} {name}") for y, name in knob.ticks(FEW_VALUES) if y >= 0]
    lines: list[tuple[figures.Series, float, bool]] = []
    best, chosen, label = best_of(rows), None, ""
    for row, shade in zip(rows, shades, strict=True):
        if row["curve"]:
            if best is not None and row is rows[best]:
                chosen, label = len(lines), f"the best, point {row['number']}"
            epochs, top1 = zip(*row["curve"], strict=True)
            known = [math.nan if number(y) is None else y for y in top1]
            lines.append(((epochs, known), shade, row["state"] == "finished"))
    if not lines:
        return "<p>No point has been evaluated yet.</p>"
    drawing = figures.study_curves(lines, legend=legend, best=chosen, best_label=label)
    return f'<div class="grid">{drawing}</div>'


def _importance(shares: dict[str, float] | str, knobs: Sequence[Knob]) -> str:
    if isinstance(shares, str):
        return f"<p>{html.escape(shares)}</p>"
    labels = {knob.name: knob.label for knob in knobs}
    lines = [
        [
            labels[name],
            fixed(100 * share, 0),
            Cell(f'<td><span class="bar" style="width:{15 * share:.2f}rem"></span></td>'),
        ]
        for name, share in shares.items()
    ]
    note = (
        "Shares of the variance of the best top-1 that single knobs explain among the finished "
        "points (fANOVA). A seed's share is that of chance: a knob below it may not matter."
    )
    left_out = [knob.label for knob in knobs if knob.name not in shares]
    if left_out:
        note += f" Not judged: {html.escape(', '.join(left_out))}."
    table = markup.table(lines, ["knob", "share, %", ""], numeric=[1])
    return f"{table}<p><small>{note}</small></p>"


def _parallel(rows: Sequence[dict[str, Any]], knobs: Sequence[Knob]) -> str:
    """The points that were evaluated, top-1 on a logarithmic scale of its error."""
    scored = [i for i, row in enumerate(rows) if number(row["best_top1"]) is not None]
    if not knobs or len({rows[i]["best_top1"] for i in scored}) < 2:
        return "<p>Nothing to draw before a knob and top-1 differ.</p>"
    top1, ticks = by_error([rows[i]["best_top1"] for i in scored])
    axes: list[figures.Axis] = [
        (knob.label, [knob.position(knob.values[i]) for i in scored], knob.ticks(FEW_VALUES))
        for knob in knobs
    ]
    drawing = figures.parallel_coordinates([*axes, ("best top-1, %", top1, ticks)], top1)
    caption = f"{len(scored)} of {len(rows)} points, the brighter the better"
    return f'<div class="wide">{figures.captioned(drawing, caption)}</div>'


def _means(rows: Sequence[dict[str, Any]], knobs: Sequence[Knob]) -> str:
    """A table of mean top-1 over seeds; empty where knobs or their values are too many."""
    found = groups(rows, knobs)
    if found is None:
        return ""
    down, across, cells = found
    shades = dict(zip(cells, by_error([sum(v) / len(v) for v in cells.values()])[0], strict=True))
    lines = []
    for combination in itertools.product(*(knob.choices for knob in down)):
        line = [*combination]
        for choice in across.choices:
            at = (*map(key, combination), key(choice))
            if at not in cells:
                line.append(None)
                continue
            top1, n = cells[at], len(cells[at])
            spread = f"<br><small>{min(top1):.2f} to {max(top1):.2f}, {n} points</small>"
            shade = f"background:rgba(49,104,142,{0.5 * shades[at]:.2f})"
            mean = f"{sum(top1) / n:.2f}{spread if n > 1 else ''}"
            line.append(Cell(f'<td class="n" style="{shade}">{mean}</td>'))
        lines.append(line)
    choices = [f"{across.label} {text(choice)}" for choice in across.choices]
    header = [*(knob.label for knob in down), *choices]
    table = markup.table(lines, header, numeric=range(len(down), len(header)))
    return f"<h2>Best top-1 of finished points, mean over seeds, %</h2>{table}"


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    knobs = differing(rows)
    names = [knob.name for knob in knobs]
    lines = []
    for i, row in enumerate(rows):
        result = row["result"] or {}
        values = [number(row["best_top1"]), *(number(result.get(name)) for name in RESULTS)]
        chosen = [knob.values[i] for knob in knobs]
        lines.append([row["number"], row["state"], *chosen, *values, row["workdir"], row["error"]])
    header = ["number", "state", *names, "best_top1", *RESULTS, "workdir", "error"]
    return to_csv(header, lines)


def _page(folder: str, rows: Sequence[dict[str, Any]], name: str) -> str:
    knobs = differing(rows)
    shares = importances(rows, knobs)
    title = f"Study: {name}"
    states = [row["state"] for row in rows]
    counts = ", ".join(f"{states.count(s)} {s}" for s in reversed(STATES) if s in states)
    parts = [
        f"<h1>{html.escape(title)}</h1><p>{len(rows)} points{': ' if counts else ''}{counts}. "
    ]
    parts += ['The same as a table: <a href="study.csv">study.csv</a></p>']
    best = best_of(rows)
    if best is not None:
        top1 = f"{rows[best]['best_top1']:.2f}% top-1"
        parts += [f"<h2>The best: point {rows[best]['number']}, {top1}</h2>"]
        command = re.sub(r"(--\S+)", r"<span>\1</span>", html.escape(rows[best]["command"]))
        parts += [f"<pre>{command}</pre>"]
    failed = []
    for row in rows:
        if row["state"] == "failed":
            error = html.escape(row["error"] or "no message")
            cell = Cell(f'<td class="text">{error}</td>')
            failed.append([row["number"], cell, row["workdir"]])
    if failed:
        parts += ["<h2>Failed</h2>", markup.table(failed, ["point", "error", "folder"])]
    parts += ["<h2>Curves</h2>", _curves(rows, knobs, shares)]
    parts += ["<h2>Which knobs mattered</h2>", _importance(shares, knobs)]
    parts += [_means(rows, knobs), "<h2>Knobs and top-1</h2>", _parallel(rows, knobs)]
    parts += ["<h2>Points</h2>", _points(folder, rows, knobs)]
    return markup.document(title, CSS, "".join(parts))


def write(folder: str, rows: Sequence[dict[str, Any]], *, name: str) -> dict[str, str]:
    """Writes FOLDER/study.html, into which nothing is loaded, and FOLDER/study.csv.

    Args:
        folder: the study's; points in it are linked with their run pages.
        rows: one dict a point, finished or not. number: its own. knobs: {"optim.learning_rate":
            0.01}, flat. state: waiting, running, stopped, failed, pruned or finished. workdir.
            epoch, epochs: done and planned. best_top1: percent; None before an evaluation. curve:
            [(epoch, percent)]. seconds_left: None where unknown. error: a line, of failed ones.
            result: what eval.json holds, or None. command: what runs it again.
        name: the title.

    Returns:
        {"page": path, "csv": path}.

    Raises:
        UserError: a file cannot be written.
    """
    output = paths.at(folder)
    files = {"page": output / "study.html", "csv": output / "study.csv"}
    try:
        output.mkdir(parents=True, exist_ok=True)
        paths.write_whole(files["csv"], _csv(rows))
        paths.write_whole(files["page"], _page(folder, rows, name))
    except OSError as error:
        raise UserError(f"{folder}: the study's page cannot be written: {error}") from error
    return {kind: str(file) for kind, file in files.items()}
