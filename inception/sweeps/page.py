"""A study's page: the points of a sweep in one table, their curves, and which knobs mattered."""

import html
import re
import statistics
from collections.abc import Sequence
from typing import Any

from etils import epath

from inception.data import paths
from inception.reporting import markup
from inception.reporting.markup import Cell, fixed, number
from inception.reporting.table import to_csv
from inception.sweeps import importance
from inception.sweeps.study import counted, differing, finished, left

RESULTS = ("top1_error", "top5_error", "steps", "images_per_second")  # as in result.json
UNFINISHED = dict.fromkeys(("running", "stopped", "waiting"), "unfinished")  # state -> CSS class

CSS = """
.wide > figure { min-width: 620px }
.tall { max-height: 80vh; overflow-y: auto }
.tall th { position: sticky; top: 0; background: #fff }
td, th { white-space: nowrap }
th.n { text-align: right }
td:last-child { white-space: normal; min-width: 16rem; overflow-wrap: anywhere }
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


def _means(rows: Sequence[dict[str, Any]]) -> str:
    """A table of the finished points' mean top-1 over seeds; '' unless a seed and a knob vary."""
    knobs = differing(rows)
    names = [name for name in knobs if name.split(".")[-1] != "seed"]
    if not names or len(names) == len(knobs) or not any(map(finished, rows)):
        return ""
    alike: dict[tuple, list[dict[str, Any]]] = {}
    for row in filter(finished, rows):
        alike.setdefault(tuple(str(row["knobs"].get(name)) for name in names), []).append(row)
    lines = []
    for points in alike.values():
        top1 = [row["best_top1"] for row in points]
        spread = f"{min(top1):.2f} to {max(top1):.2f}, {len(top1)} points"
        values = [points[0]["knobs"].get(name) for name in names]
        lines.append([*values, fixed(statistics.mean(top1), 2), spread if len(top1) > 1 else ""])
    table = markup.table(lines, [*names, "mean", ""], numeric=[len(names)])
    return f"<h2>Best top-1 of finished points over seeds, %</h2>{table}"


def _table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """A header, and a line per point."""
    knobs, lines = differing(rows), []
    for row in rows:
        chosen = [row["knobs"].get(name) for name in knobs]
        result = row["result"] or {}
        values = [number(row["best_top1"]), *(number(result.get(name)) for name in RESULTS)]
        lines.append([row["number"], row["state"], *chosen, *values, row["workdir"], row["error"]])
    return ["number", "state", *knobs, "best_top1", *RESULTS, "workdir", "error"], lines


def _rank(row: dict[str, Any]) -> tuple[bool, bool, float]:
    """Sorts finished points first and the best of them first, points without a top-1 last."""
    top1 = number(row["best_top1"])
    return top1 is None, not finished(row), -(top1 or 0)


def _page(folder: epath.Path, rows: Sequence[dict[str, Any]], name: str) -> str:
    """The page's HTML, of rows in the order of `_rank`."""
    title = html.escape(f"Study: {name}")
    parts = [f"<h1>{title}</h1><p>{counted(rows)}. "]
    parts += ['The same as a table: <a href="study.csv">study.csv</a></p>']
    header, lines = _table(rows)
    css = [UNFINISHED.get(row["state"], row["state"]) for row in rows]
    for row, line in zip(rows, lines, strict=True):
        line[1] = _state(row)
        line[-4:-2] = fixed(line[-4], 0), fixed(line[-3], 1)
        report = f"{row['number']}/report.html"
        if (folder / report).exists():
            line[0] = Cell(f'<td class="n"><a href="{report}">{row["number"]}</a></td>')
    if rows and number(rows[0]["best_top1"]) is not None:
        best, css[0] = rows[0], "best"
        parts += [f"<h2>The best: point {best['number']}, {best['best_top1']:.2f}% top-1</h2>"]
        command = re.sub(r"(--\S+)", r"<span>\1</span>", html.escape(best["command"]))
        parts += [f"<pre>{command}</pre>"]
    parts += ['<div class="grid"><div><h2>Curves</h2>', importance.curves(rows)]
    parts += ["</div><div><h2>Which knobs mattered</h2>", importance.importances(rows)]
    parts += ["</div></div>", _means(rows)]
    parts += ["<h2>Knobs and top-1</h2>", importance.parallel(rows)]
    parts += ["<h2>Points</h2>", markup.table(lines, header, css=css)]
    return markup.document(f"Study: {name}", CSS, "".join(parts))


def write(folder: str, rows: Sequence[dict[str, Any]], *, name: str) -> dict[str, str]:
    """Writes FOLDER/study.html, which loads no other file, and FOLDER/study.csv.

    Args:
        folder: the study's; its points are linked to their run pages.
        rows: one dict per point. number: the point's. knobs: {"optim.learning_rate": 0.01}, flat.
            state: waiting, running, stopped, failed, pruned or finished. workdir. epoch, epochs:
            done and planned. best_top1: percent; None before an evaluation. seconds: of
            training, before each evaluation. curve: [(epoch,
            percent)]. seconds_left: None if unknown. error: one line if failed, else ''. result:
            the content of result.json, or None. command: what runs it again, in another folder.
        name: the title.

    Returns:
        {"page": path, "csv": path}.

    Raises:
        UserError: a file cannot be written.
    """
    output = paths.at(folder)
    files = {"page": output / "study.html", "csv": output / "study.csv"}
    with paths.explained(f"{folder}: the study's page cannot be written"):
        output.mkdir(parents=True, exist_ok=True)
        paths.write_whole(files["csv"], to_csv(*_table(rows)))
        paths.write_whole(files["page"], _page(output, sorted(rows, key=_rank), name))
    return {kind: str(file) for kind, file in files.items()}
