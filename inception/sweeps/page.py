"""A study's page: the points of a sweep in one table, their curves, and which knobs mattered."""

import csv
import html
import io
import itertools
import re
from collections.abc import Sequence
from typing import Any

from inception import UserError
from inception.data import paths
from inception.reporting import figures, markup
from inception.sweeps.importance import (
    FEW_VALUES,
    Knob,
    by_error,
    differing,
    groups,
    importances,
    key,
    number,
    text,
)
from inception.sweeps.importance import best as best_of
from inception.sweeps.study import STATES

RESULTS = ("top1_error", "top5_error", "steps", "images_per_second")  # as in eval.json
LONG_TABLE = 60  # lines; a longer one scrolls in itself

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


def _cell(value: Any, digits: int | None = None) -> str:
    """Numbers to the right, with so many digits after the point where that is given."""
    known = number(value)
    if known is None:
        css = "" if digits is None else ' class="n"'
        return f"<td{css}>{html.escape(text(value))}</td>"
    return f'<td class="n">{text(value) if digits is None else f"{known:,.{digits}f}"}</td>'


def _table(header: Sequence[str], lines: Sequence[str], *, numeric: Sequence[int] = ()) -> str:
    """Lines of <td> cells below a header; `numeric` are the columns that stand to the right."""
    head = "".join(
        f"<th{' class=n' if i in numeric else ''}>{html.escape(title)}</th>"
        for i, title in enumerate(header)
    )
    tall = " tall" if len(lines) > LONG_TABLE else ""
    return f'<div class="wide{tall}"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _state(row: dict[str, Any]) -> str:
    if row["state"] in ("finished", "waiting"):
        return row["state"]
    said = f"{row['state']}, epoch {row['epoch']:.3g} of {row['epochs']:.3g}"
    left = number(row.get("seconds_left"))
    if row["state"] != "running" or left is None:
        return said
    return (
        f"{said}, {left / 3600:.1f} h left" if left >= 5400 else f"{said}, {left / 60:.0f} min left"
    )


def _points(folder: str, rows: Sequence[dict[str, Any]], knobs: Sequence[Knob]) -> str:
    """All points, the best first; each links to its run page, where it has one."""
    best = best_of(rows)

    def rank(i: int) -> tuple[bool, float, int]:
        top1 = number(rows[i]["best_top1"])
        return top1 is None, -(top1 or 0), rows[i]["number"]

    lines = []
    for i in sorted(range(len(rows)), key=rank):
        row, result = rows[i], rows[i].get("result") or {}
        workdir, name = paths.at(row["workdir"]), str(row["number"])
        if workdir.parent == paths.at(folder) and (workdir / "report.html").exists():
            name = f'<a href="{html.escape(workdir.name)}/report.html">{name}</a>'
        unfinished = row["state"] in ("running", "stopped", "waiting")
        errors = [number(result.get(name)) for name in ("top1_error", "top5_error")]
        cells = [
            f'<td class="n">{name}</td>',
            _cell(number(row["best_top1"]), 2),
            *(_cell(knob.values[i]) for knob in knobs),
            _cell(_state(row)),
            *(_cell(None if error is None else 100 - error, 2) for error in errors),
            _cell(result.get("steps"), 0),
            _cell(number(result.get("images_per_second")), 1),
        ]
        css = "best" if i == best else "unfinished" if unfinished else row["state"]
        lines.append(f'<tr class="{css}">{"".join(cells)}</tr>')
    names = [knob.label for knob in knobs]
    after = ["state", "final top-1, %", "final top-5, %", "steps", "images/s"]
    header = ["point", "best top-1, %", *names, *after]
    right = [2 + i for i, k in enumerate(knobs) if number(k.choices[0]) is not None]
    return _table(header, lines, numeric=[0, 1, *right, *range(len(names) + 3, len(header))])


def _curves(rows: Sequence[dict[str, Any]], knobs: Sequence[Knob], shares: Any) -> str:
    """Top-1 of all points, coloured by the knob that mattered most; until known, by themselves."""
    order = sorted({row["best_top1"] for row in rows if number(row["best_top1"]) is not None})
    places = [
        order.index(row["best_top1"]) / max(1, len(order) - 1) if row["best_top1"] in order else 0
        for row in rows
    ]
    legend = [(0.0, "lowest top-1"), (1.0, "highest top-1")] if len(order) > 1 else []
    if isinstance(shares, dict):
        knob = next(knob for knob in knobs if knob.name == next(iter(shares)))
        places = [max(0.0, knob.place(value)) for value in knob.values]
        legend = [(y, f"{knob.label} {name}") for y, name in knob.ticks(FEW_VALUES) if y >= 0]
    nan = float("nan")
    lines: list[tuple[figures.Series, float, bool]] = []
    drawn = {i: row for i, row in enumerate(rows) if row["curve"]}
    for i, row in drawn.items():
        epochs, top1 = zip(*row["curve"], strict=True)
        known = [nan if number(y) is None else y for y in top1]
        lines.append(((epochs, known), places[i], row["state"] == "finished"))
    if not lines:
        return "<p>No point has been evaluated yet.</p>"
    best = best_of(rows)
    label = "" if best is None else f"the best, point {rows[best]['number']}"
    chosen = list(drawn).index(best) if best in drawn else None
    drawing = figures.study_curves(lines, legend=legend, best=chosen, best_label=label)
    return f'<div class="grid">{drawing}</div>'


def _importance(shares: dict[str, float] | str, knobs: Sequence[Knob]) -> str:
    if isinstance(shares, str):
        return f"<p>{html.escape(shares)}</p>"
    labels = {knob.name: knob.label for knob in knobs}
    lines = [
        f"<tr>{_cell(labels[name])}{_cell(100 * share, 0)}"
        f'<td><span class="bar" style="width:{15 * share:.2f}rem"></span></td></tr>'
        for name, share in shares.items()
    ]
    note = (
        "Shares of the variance of the best top-1 that single knobs explain among the finished "
        "points (fANOVA). A seed's share is that of chance: a knob below it may not matter."
    )
    left_out = [knob.label for knob in knobs if knob.name not in shares]
    if left_out:
        note += f" Not judged: {html.escape(', '.join(left_out))}."
    return _table(["knob", "share, %", ""], lines, numeric=[1]) + f"<p><small>{note}</small></p>"


def _parallel(rows: Sequence[dict[str, Any]], knobs: Sequence[Knob]) -> str:
    """The points that were evaluated, top-1 on a logarithmic scale of its error."""
    scored = [i for i, row in enumerate(rows) if number(row["best_top1"]) is not None]
    if not knobs or len({rows[i]["best_top1"] for i in scored}) < 2:
        return "<p>Nothing to draw before a knob and top-1 differ.</p>"
    places, ticks = by_error([rows[i]["best_top1"] for i in scored])
    axes: list[figures.Axis] = [
        (knob.label, [knob.place(knob.values[i]) for i in scored], knob.ticks(FEW_VALUES))
        for knob in knobs
    ]
    drawing = figures.parallel_coordinates([*axes, ("best top-1, %", places, ticks)], places)
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
        line = "".join(map(_cell, combination))
        for choice in across.choices:
            at = (*map(key, combination), key(choice))
            if at not in cells:
                line += _cell(None, 2)
                continue
            top1, n = cells[at], len(cells[at])
            spread = f"<br><small>{min(top1):.2f} to {max(top1):.2f}, {n} points</small>"
            line += (
                f'<td class="n" style="background:rgba(49,104,142,{0.5 * shades[at]:.2f})">'
                f"{sum(top1) / n:.2f}{spread if n > 1 else ''}</td>"
            )
        lines.append(f"<tr>{line}</tr>")
    choices = [f"{across.label} {text(choice)}" for choice in across.choices]
    header = [*(knob.label for knob in down), *choices]
    table = _table(header, lines, numeric=range(len(down), len(header)))
    return f"<h2>Best top-1 of finished points, mean over seeds, %</h2>{table}"


def _csv(rows: Sequence[dict[str, Any]], knobs: Sequence[Knob]) -> str:
    out = io.StringIO()
    names = [knob.name for knob in knobs]
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(["number", "state", *names, "best_top1", *RESULTS, "workdir", "error"])
    for i, row in enumerate(rows):
        result = row.get("result") or {}
        values = [number(row["best_top1"]), *(number(result.get(name)) for name in RESULTS)]
        chosen = [knob.values[i] for knob in knobs]
        error = row.get("error") or ""
        lines.writerow([row["number"], row["state"], *chosen, *values, row["workdir"], error])
    return out.getvalue()


def _page(folder: str, rows: Sequence[dict[str, Any]], name: str) -> str:
    knobs = differing(rows)
    shares = importances(rows, knobs)
    title = f"Study: {html.escape(name)}"
    states = [row["state"] for row in rows]
    counts = ", ".join(f"{states.count(s)} {s}" for s in reversed(STATES) if s in states)
    parts = [f"<h1>{title}</h1><p>{len(rows)} points{': ' if counts else ''}{counts}. "]
    parts += ['The same as a table: <a href="study.csv">study.csv</a></p>']
    best = best_of(rows)
    if best is not None:
        top1 = f"{rows[best]['best_top1']:.2f}% top-1"
        parts += [f"<h2>The best: point {rows[best]['number']}, {top1}</h2>"]
        command = re.sub(r"(--\S+)", r"<span>\1</span>", html.escape(rows[best]["command"]))
        parts += [f"<pre>{command}</pre>"]
    failed = [row for row in rows if row["state"] == "failed"]
    if failed:
        lines = [
            f"<tr>{_cell(row['number'])}"
            f'<td class="text">{html.escape(row.get("error") or "no message")}</td>'
            f"{_cell(row['workdir'])}</tr>"
            for row in failed
        ]
        parts += ["<h2>Failed</h2>", _table(["point", "error", "folder"], lines, numeric=[0])]
    parts += ["<h2>Curves</h2>", _curves(rows, knobs, shares)]
    parts += ["<h2>Which knobs mattered</h2>", _importance(shares, knobs)]
    parts += [_means(rows, knobs), "<h2>Knobs and top-1</h2>", _parallel(rows, knobs)]
    parts += ["<h2>Points</h2>", _points(folder, rows, knobs)]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{markup.CSS}{CSS}</style>{''.join(parts)}</html>\n"
    )


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
    page, table = output / "study.html", output / "study.csv"
    try:
        output.mkdir(parents=True, exist_ok=True)
        paths.write_whole(table, _csv(rows, differing(rows)))
        paths.write_whole(page, _page(folder, rows, name))
    except OSError as error:
        raise UserError(f"{folder}: the study's page cannot be written: {error}") from error
    return {"page": str(page), "csv": str(table)}
