"""read every image before a run: damaged, odd and doubled ones, and counts by class"""

import sys

from inception.cli import flags
from inception.config import load_config

SHOWN = 30  # classes whose counts are printed; --json has all


def add_flags(parser: flags.Parser) -> None:
    flags.add_config(parser, flags.DEFAULT_CONFIG)


def run(args: flags.Args, overrides: list[str]) -> flags.Result:
    config = load_config(args.config, overrides)
    from inception.tools import check_data

    result = check_data.run(config)
    for split, counts in result["splits"].items():
        total, there = sum(counts.values()), [n for n in counts.values() if n]
        fewest = f", {min(there):,} to {max(there):,} of a class" if there else ""
        print(f"{split}: {total:,} images of {len(there):,} of {len(counts):,} classes{fewest}")
        if len(counts) <= SHOWN:
            print("".join(f"  {n:>7,}  {name}\n" for name, n in counts.items()), end="")
    if problems := len(result["problems"]):
        print(f"{problems} problems", file=sys.stderr)
    return result
