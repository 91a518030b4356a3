"""list every knob: its value, type, choices or bounds, and reason"""

import difflib
import re
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from inception import UserError
from inception.cli import flags
from inception.config import apply_overrides, experiment_config, flat
from inception.knobs import GROUPS, KNOBS

NAME_WIDTH = 2 + max(map(len, KNOBS))


def add_flags(parser: flags.Parser) -> None:
    parser.set_defaults(takes_knobs=True)
    add = parser.add_argument
    add("pattern", nargs="?", default="", metavar="PATTERN", help="part of a knob's name or reason")
    text = f"experiment whose values to list (default: {flags.BASE_CONFIG}, the defaults)"
    add("--config", default=flags.BASE_CONFIG, metavar="FILE[:ARG]", help=text)


def run(args: flags.Args, overrides: list[str]) -> flags.Result:
    found = rows(args.config, overrides, args.pattern)
    print(to_text(found, width=shutil.get_terminal_size().columns))
    return {"knobs": found}


def rows(config: str, overrides: Sequence[str] = (), pattern: str = "") -> list[dict[str, Any]]:
    """The knobs with `pattern` in their name or reason; UserError if there is none.

    A value that the experiment file `config` leaves to the user is None.
    """
    values = flat(apply_overrides(experiment_config(config), overrides), prefix="")
    wanted = pattern.lstrip("-").removeprefix("config.").lower()
    found = [
        {
            "name": name,
            "value": values[name],
            "type": knob.type,
            "choices": list(knob.allowed.choices) or None,
            "bounds": None if knob.allowed.choices else knob.allowed.words or None,
            "reason": knob.reason,
        }
        for name, knob in KNOBS.items()
        if wanted in name.lower() or wanted in knob.reason.lower()
    ]
    if not found:
        near = difflib.get_close_matches(wanted, KNOBS, n=1, cutoff=0.0)[0]
        raise UserError(f"{pattern}: in no knob's name or reason; the nearest is {near}")
    return found


def to_text(found: Sequence[dict[str, Any]], *, width: int) -> str:
    """The rows for a terminal: names on the left, values and reasons on the right."""
    lines, right, width = [], " " * NAME_WIDTH, max(width, NAME_WIDTH + 30)
    for group, members in groups(found).items():
        if group in GROUPS:
            lines += ["", *textwrap.wrap(f"{group}: {GROUPS[group]}", width), ""]
        for row in members:
            default = KNOBS[row["name"]].default
            changed = "" if row["value"] == default else f"; default {as_typed(default)}"
            value = f"{as_typed(row['value'])}  ({kind(row)}{changed})"
            first = f"{row['name']:<{NAME_WIDTH}}"
            for start, text in ((first, value), (right, row["reason"])):
                lines += textwrap.wrap(text, width, initial_indent=start, subsequent_indent=right)
    return "\n".join(lines).strip("\n")


def groups(found: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows by the part of their names before the last dot."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        groups.setdefault(row["name"].rpartition(".")[0], []).append(row)
    return groups


def as_typed(value: Any) -> str:
    """A value as a flag takes it."""
    if value is None:
        return "yours to give"
    return str(value).replace(" ", "") if value != "" else "''"


def kind(row: dict[str, Any]) -> str:
    """A knob's type, with its choices or bounds."""
    words = re.sub("^(choose (one of )?|must be )", "", KNOBS[row["name"]].allowed.words)
    return f"{row['type']}: {words}" if words else row["type"]
