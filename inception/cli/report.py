"""a page about one run or several, or a table"""

import argparse
from typing import Any


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="a run's folder, or a study's")
    add("--output", required=True, metavar="FILE", help="page.html, or table.csv")


def run(args: argparse.Namespace, _overrides: list[str]) -> dict[str, Any]:
    from inception.reporting import page

    written = page.write(args.runs, args.output)
    print(f"wrote {written}")
    return {"page": written}
