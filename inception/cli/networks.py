"""Flags that name networks, the views of an image that they see, and pictures for them."""

import argparse
import collections
import sys
from typing import TYPE_CHECKING

from inception import config
from inception.cli import flags

if TYPE_CHECKING:
    from inception.evaluation.predict import Predictor


def folders(text: str) -> list[str]:
    """As `config.folders`, of which there must be one."""
    if not (names := config.folders(text)):
        raise argparse.ArgumentTypeError("give a folder")
    return names


def views(text: str) -> int:
    """'10' -> 10 crops of an image."""
    from inception.data.cropping import VIEWS

    if text not in map(str, VIEWS):
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(map(str, VIEWS))}")
    return int(text)


def several_views(text: str) -> list[int]:
    """'1,10' -> [1, 10]."""
    return [views(number) for number in text.split(",")]


def add_pictures(parser: flags.Parser, checkpoint: str) -> None:
    """The flags of `open_pictures`, and --crops; `checkpoint` is the help of --checkpoint."""
    flags.add_knobs(parser)
    flags.add_processes(parser)
    add = parser.add_argument
    add("--checkpoint", type=folders, required=True, metavar="DIR[,DIR...]", help=checkpoint)
    add("--best", action="store_true", help="the best checkpoint, not the newest")
    add("--crops", type=views, default=1, help="1 (default), 10 or 144, averaged")
    add("images", nargs="+", metavar="IMAGE", help="a file, a folder, or a .txt with a path a line")


def open_pictures(args: flags.Args, overrides: list[str]) -> tuple[list[str], "Predictor"]:
    """Finds the pictures, prints remarks about them, joins other processes, loads the networks."""
    from inception.evaluation import pictures, predict

    paths = pictures.find(args.images, others := collections.Counter[str]())
    configs = [config.run_config(workdir, overrides) for workdir in args.checkpoint]
    flags.join_processes(args)
    lines = pictures.remarks(paths, others, bits=configs[0].data.bits)
    print("".join(f"{line}\n" for line in lines), end="", file=sys.stderr)
    return paths, predict.Predictor(*args.checkpoint, best=args.best, configs=configs)
