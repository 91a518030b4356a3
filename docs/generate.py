"""Writes the pages of docs/reference that repeat the program's own tables.

    python docs/generate.py

tests/test_docs.py compares the pages with `pages()`.
"""

import argparse
import functools
import pathlib
import re

from inception.cli import flags, knobs
from inception.cli.main import COMMANDS, module, parser
from inception.knobs import GROUPS

ROOT = pathlib.Path(__file__).resolve().parents[1]
MADE = "<!-- Written by: python docs/generate.py -->"


def pages() -> dict[str, str]:
    """{path of a page in the project: its text}."""
    return {
        "docs/reference/commands.md": "\n".join(commands()) + "\n",
        "docs/reference/knobs.md": "\n".join(table_of_knobs()) + "\n",
    }


def commands() -> list[str]:
    """A section a command: its help without the usage, each group of flags once."""
    page = ["# Commands", MADE]
    page += ["A command follows `python launch.py`, or `inception` where pip installed it. Flags of several commands stand",
             "at the first. All take `--help`, and `--json`: the result as one JSON object, last on stdout.", ""]  # fmt: skip
    seen: set[str] = set()
    for command in COMMANDS:
        made = parser(command)
        made.usage = "-"
        made.formatter_class = functools.partial(
            argparse.HelpFormatter, max_help_position=36, width=118
        )
        _, _, *groups = made.format_help().split("\n\n")
        shown = []
        for group in re.split(r"\n\n(?=\S)", "\n\n".join(groups)):
            group = re.sub(r"\n  (-h, --help|--json) .*", "", group.strip("\n")).replace(
                "\n\n", "\n"
            )
            words = " ".join(group.split())  # columns differ from command to command
            if words not in seen and not group.startswith("Any knob"):
                shown.append(group.removeprefix("options:\n"))
            seen.add(words)
        job = (module(command).__doc__ or "").strip()
        takes = " Takes [knobs](knobs.md) too." if made.get_default("takes_knobs") else ""
        page += [f"## {command}", f"{job[0].upper()}{job[1:]}.{takes}"]
        page += ["```text", *"\n".join(shown).split("\n"), "```", ""]
    return page[:-1]


def table_of_knobs() -> list[str]:
    """A section a group of knobs, with a table."""
    page = ["# Knobs", "", MADE, ""]
    page += ["`--config.KNOB=VALUE` changes a knob of any command that takes `--config`.",
             "`launch.py knobs [PATTERN] [--config=FILE]` prints this with the values of an experiment."]  # fmt: skip
    for group, members in knobs.groups(knobs.rows(flags.BASE_CONFIG)).items():
        page += ["", f"## config{group and '.'}{group}", ""]
        page += [GROUPS[group], ""] if group in GROUPS else []
        page += ["| knob | default | type | reason |", "|---|---|---|---|"]
        page += [
            f"| `{row['name']}` | `{knobs.as_typed(row['value'])}` | {knobs.kind(row)} | {row['reason']} |"
            for row in members
        ]
    return page


if __name__ == "__main__":
    for path, text in pages().items():
        (ROOT / path).write_text(text)
