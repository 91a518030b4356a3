"""The first page: what `launch.py` alone prints, and its answers without a command."""

import difflib
import sys
import textwrap

import inception
from inception.cli.main import COMMANDS, PROGRAM, module
from inception.config import STARTED_AS

WHAT = "GoogLeNet (Szegedy et al., 2014): train, evaluate, look."
FIRST = {  # what a newcomer types first, without data of one's own
    "train --config=digits --workdir=runs/digits": "a few minutes",
    "eval --workdir=runs/digits": "its errors",
    "predict --checkpoint=runs/digits PICTURE": "classes",
}
GROUPS = {
    "Networks": ("train", "eval", "sweep", "report"),
    "Pictures": ("predict", "features", "inspect"),
    "Data and weights": ("check-data", "prepare", "convert", "average", "export"),
    "The network and its cost": ("audit", "bench", "plan", "knobs"),
}
STATUS = (
    "Exit status: 0 done, 1 the work failed, 2 the command line was wrong, 75 stopped from "
    "outside: train and sweep resume with the same command."
)
WIDTH = 79


def page() -> str:
    """The first commands, then all commands in groups, each with its line, in 80 columns."""
    lines = [WHAT, "", "To begin:", ""]
    width = max(map(len, FIRST)) + len(STARTED_AS) + 3
    lines += [f"  {f'{STARTED_AS} {first}':<{width - 1}}# {what}" for first, what in FIRST.items()]
    for title, names in GROUPS.items():
        lines += ["", f"{title}:", ""]
        for name in names:
            text = (module(name).__doc__ or "").strip()
            first = f"  {name:<12}"
            lines += textwrap.wrap(
                text, WIDTH, initial_indent=first, subsequent_indent=" " * len(first)
            )
    lines += ["", f"{STARTED_AS} COMMAND --help lists the flags of a command.", ""]
    return "\n".join([*lines, *textwrap.wrap(STATUS, WIDTH)])


def run(argv: list[str]) -> int:
    """Answers a command line that begins with no command; returns the exit status."""
    flags = set(argv) if argv and argv[0].startswith("-") else set()
    if "--version" in flags:
        print(f"inception {inception.__version__}")
        return 0
    if not argv or {"-h", "--help"} & flags:
        print(page())
        return 0 if argv else 2
    wrong, fault = argv[0], "name a COMMAND first"
    if not wrong.startswith("-"):
        near = difflib.get_close_matches(wrong, COMMANDS, n=1, cutoff=0.0)[0]
        fault = f"no such command; the nearest is {near}"
    print(f"{PROGRAM}: {wrong}: {fault}; see {PROGRAM} --help", file=sys.stderr)
    return 2
