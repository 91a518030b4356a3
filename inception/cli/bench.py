"""launch.py bench: the speed of this machine."""

import argparse
from typing import Any

from inception.cli import flags
from inception.config import NETWORK, TRAINING, load_config

HELP = "how fast it is on this machine, compilation apart"
LESS_MEMORY = "a smaller --batch_size"


def add_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_config(parser, default=flags.DEFAULT_CONFIG)
    add = parser.add_argument
    text = "a training step (default), a forward pass, or the loader's batches"
    add("--what", choices=("train", "eval", "input"), default="train", help=text)
    text = "default: the config's own"
    add("--batch_size", type=flags.whole_number, metavar="N", help=text)
    text = "and where the time goes, layer by layer"
    add("--profile", action="store_true", help=text)


def run(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    rules = TRAINING if args.what == "input" else NETWORK
    config = load_config(args.config, overrides, rules)
    from inception.tools import bench
    from inception.tools.text import to_text

    result = bench.run(config, what=args.what, batch_size=args.batch_size, profile=args.profile)
    print(to_text(result))
    return result
