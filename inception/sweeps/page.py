"""A study's page: the points of a sweep in one table, their curves, and which knobs mattered."""

import html
import math
import re
import statistics
from collections.abc import Sequence
from typing import Any

from inception import UserError
from inception.data import paths
from inception.reporting import markup
from inception.reporting.markup import Cell, fixed, number
from inception.reporting.table import to_csv
from inception.sweeps import importance
from inception.sweeps.study import STATES, differing, left

Knobs = dict[str, list[Any]]  # {name: a value of each point}
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
"""


def _state(row: dict[str, Any]) -> str:
    if row["state"] in ("finished", "waiting"):
        return row["state"]
    state = f"{row['state']}, epoch {row['epoch']:.3g} of {row['epochs']:.3g}"
    return f"{state}, {time} left" if (time := left(row)) else state


def best_of(rows: Sequence[dict[str, Any]]) -> int | None:
    """Index of the finished point with the highest top-1; while there is none, of any point."""
    scored = [i for i, row in enumerate(rows) if number(row["best_top1"]) is not None]
    finished = [i for i in scored if rows[i]["state"] == "finished"]
    return max(finished or scored, key=lambda i: rows[i]["best_top1"], default=None)


def _means(rows: Sequence[dict[str, Any]], knobs: Knobs) -> str:
    """A table of the finished points' top-1 over seeds, where these differ."""
    names = [name for name in knobs if name.split(".")[-1] != "seed"]
    if not names or len(names) == len(knobs):
        return ""
    alike: dict[tuple, list[int]] = {}
    for i, row in enumerate(rows):
        if importance.finished(row):
            alike.setdefault(tuple(str(knobs[name][i]) for name in names), []).append(i)
    lines = []
    for points in alike.values():
        top1 = [rows[i]["best_top1"] for i in points]
        spread = f"{min(top1):.2f} to {max(top1):.2f}, {len(top1)} points"
        values = [knobs[name][points[0]] for name in names]
        lines.append([*values, fixed(statistics.mean(top1), 2), spread if len(top1) > 1 else ""])
    table = markup.table(lines, [*names, "mean", ""], numeric=[len(names)])
    return f"<h2>Best top-1 of finished points over seeds, %</h2>{table}"


def _table(rows: Sequence[dict[str, Any]], knobs: Knobs) -> tuple[list[str], list[list[Any]]]:
    """A header, and a line a point."""
    lines = []
    for i, row in enumerate(rows):
        result = row["result"] or {}
        values = [number(row["best_top1"]), *(number(result.get(name)) for name in RESULTS)]
        chosen = [column[i] for column in knobs.values()]
        lines.append([row["number"], row["state"], *chosen, *values, row["workdir"], row["error"]])
    return ["number", "state", *knobs, "best_top1", *RESULTS, "workdir", "error"], lines


def _points(folder: str, rows: Sequence[dict[str, Any]], knobs: Knobs, best: int | None) -> str:
    """The same for people: the best first; each is linked with its run page, where it has one."""
    header, lines = _table(rows, knobs)
    for row, line in zip(rows, lines, strict=True):
        workdir, name = paths.at(row["workdir"]), str(row["number"])
        if workdir.parent == paths.at(folder) and (workdir / "report.html").exists():
            name = f'<a href="{html.escape(workdir.name)}/report.html">{name}</a>'
        error = html.escape(row["error"])
        line[:2] = Cell(f'<td class="n">{name}</td>'), _state(row)
        line[-1] = Cell(f'<td class="text">{error}</td>')

    def rank(i: int) -> float:
        top1 = number(rows[i]["best_top1"])
        return math.inf if top1 is None else -top1

    order = sorted(range(len(rows)), key=rank)
    css = ["best" if i == best else UNFINISHED.get(s := rows[i]["state"], s) for i in order]
    return markup.table([lines[i] for i in order], header, numeric=[0], css=css)


def _page(folder: str, rows: Sequence[dict[str, Any]], name: str) -> str:
    knobs = differing(rows)
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
    parts += ["<h2>Curves</h2>", importance.curves(rows)]
    parts += ["<h2>Which knobs mattered</h2>", importance.importances(rows)]
    parts += [_means(rows, knobs), "<h2>Knobs and top-1</h2>", importance.parallel(rows)]
    parts += ["<h2>Points</h2>", _points(folder, rows, knobs, best)]
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
        header, lines = _table(rows, differing(rows))
        paths.write_whole(files["csv"], to_csv(header, lines))
        paths.write_whole(files["page"], _page(folder, rows, name))
    except OSError as error:
        raise UserError(f"{folder}: the study's page cannot be written: {error}") from error
    return {kind: str(file) for kind, file in files.items()}
