"""The HTML of the pages: their style, cells, tables, and the whole document."""

import html
import itertools
import math
from collections.abc import Collection, Sequence
from typing import Any

KIND = b"<style>\nbody { font: 15px/1.5 system-ui"  # in all our pages, and in few other files
RIGHT = ' class="n"'
LONG_TABLE = 60  # lines; a longer table scrolls
CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2330; background: #fff;
  margin: 0 auto; max-width: 1240px; padding: 1rem 1.25rem 3rem }
h1 { font-size: 1.6rem; margin: .5rem 0 1rem }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem }
.grid { display: grid; gap: 1.5rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)) }
figure { margin: 0 }
figure svg, figure img { width: 100%; height: auto; display: block }
figcaption { color: #566; font-size: .85rem; overflow-wrap: anywhere }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: .4rem 0 }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #e4e7ee }
td.n { text-align: right; font-variant-numeric: tabular-nums }
pre { background: #f5f6f9; padding: .7rem .9rem; border-radius: 6px; overflow-x: auto;
  font-size: .85rem }
@media (prefers-color-scheme: dark) {
  body { color: #dfe3ea; background: #14171c }
  figcaption { color: #9aa3b0 }
  td, th { border-color: #2c323c }
  pre { background: #1d2229 }
  figure svg { filter: invert(.92) hue-rotate(180deg) } /* black on white, as matplotlib draws */
}
"""


def number(value: Any) -> float | None:
    """A finite float, or None for everything else."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if known and math.isfinite(value) else None


def text(value: Any) -> str:
    """A value as text: four digits of a float, '-' for None."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def fixed(value: float | None, digits: int) -> str:
    """A number with `digits` digits after the point, '-' for None."""
    return text(None) if value is None else f"{value:,.{digits}f}"


class Cell(str):
    """A value of a table that is already a whole <td>."""


def table(
    rows: Sequence[Sequence[Any]],
    header: Sequence[str] = (),
    *,
    numeric: Collection[int] = (),
    css: Sequence[str] = (),
) -> str:
    """A table of values below an optional header; columns with numbers are right-aligned.

    Args:
        numeric: columns that are right-aligned whatever they contain.
        css: the CSS class of each row.
    """
    right = {i for row in rows for i, value in enumerate(row) if number(value) is not None}
    right |= set(numeric)

    def cell(tag: str, column: int, value: Any) -> str:
        if isinstance(value, Cell):
            return value
        return f"<{tag}{RIGHT if column in right else ''}>{html.escape(text(value))}</{tag}>"

    def line(tag: str, values: Sequence[Any], name: str | None) -> str:
        cells = "".join(cell(tag, i, value) for i, value in enumerate(values))
        return f'<tr class="{name or ""}">{cells}</tr>'

    lines = [line("th", header, "")] if header else []
    lines += [line("td", row, name) for row, name in itertools.zip_longest(rows, css)]
    tall = " tall" if len(rows) > LONG_TABLE else ""
    return f'<div class="wide{tall}"><table>{"".join(lines)}</table></div>'


def document(title: str, css: str, body: str) -> str:
    """The whole page, which loads no other file; `css` is added to CSS."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{CSS}{css}</style>{body}</html>\n"
    )
