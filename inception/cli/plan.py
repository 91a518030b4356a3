"""launch.py plan: what a run would cost."""

import argparse
from typing import Any

from inception.cli import flags
from inception.config import CommandLineError, load_config

HELP = "steps, FLOPs, memory and hours of a run, before it"


def add_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_config(parser, default=flags.DEFAULT_CONFIG)
    text = "to train on, where the set is not here"
    parser.add_argument("--images", type=flags.whole_number, metavar="N", help=text)
    add = parser.add_mutually_exclusive_group().add_argument
    text = "in training, for the hours"
    add("--images_per_second", type=flags.positive, metavar="X", help=text)
    add("--measure", action="store_true", help="or at this machine's rate")


def run(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    if args.images and not any(o.startswith("--config.data.path=") for o in overrides):
        overrides = [*overrides, "--config.data.path=none"]
    try:
        config = load_config(args.config, overrides)
    except CommandLineError as error:
        without = ", or --images=N without the set" if "config.data.path=..." in str(error) else ""
        raise CommandLineError(f"{error}{without}") from error
    from inception.tools import plan
    from inception.tools.text import to_text

    result = plan.plan(
        config,
        images=args.images,
        images_per_second=args.images_per_second,
        measure=args.measure,
    )
    print(to_text(result))
    return result
