"""launch.py convert: published weights as a checkpoint."""

import argparse
import json
from typing import Any

from inception.cli import flags
from inception.config import load_config

HELP = "published weights of another framework -> a checkpoint of ours"


def add_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_knobs(parser)
    add = parser.add_argument
    add("--source", required=True, choices=("caffe", "torchvision"))
    text = "bvlc_googlenet.caffemodel; or torchvision's googlenet, .pth or .safetensors"
    add("--input", required=True, metavar="FILE", help=text)
    add("--output", required=True, metavar="DIR", help="a new folder")
    text = "names of the outputs, a line each (default: ImageNet's if they are 1,000)"
    add("--classes", default="", metavar="FILE", help=text)


def run(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    load_config(flags.BASE_CONFIG, overrides)  # a wrong knob ends it before the file is read
    from inception import train
    from inception.formats import convert

    weights = convert.read(args.source, args.input)
    knobs = [f"--config.{knob}={value}" for knob, value in weights.knobs.items()]
    config = load_config(flags.BASE_CONFIG, [*knobs, *overrides])
    steps = 1000  # of an epoch: any number, for nothing in a first state depends on it
    _, tx = train.optimizer(config, steps, max(1, round(config.optim.epochs * steps)))
    result = convert.write(
        weights,
        json.loads(config.to_json()),
        args.output,
        init=train.initializer(config, tx),
        tx=tx,
        classes=args.classes,
    )
    print(
        f"{result['parameters']:,} parameters, {config.model.classes} classes, "
        f"{'with' if config.model.heads else 'without'} auxiliary heads: {args.output}"
    )
    for key, why in (
        ("ignored", "the network has no place for"),
        ("missing", "the network could have, and the file lacks"),
    ):
        if names := result[key]:
            more = f" and {len(names) - 12} more" if len(names) > 12 else ""
            print(f"{key}, what {why}: {', '.join(names[:12])}{more}")
    print(
        f"Evaluate it on class folders in FOLDER/val: launch.py eval --workdir={args.output} "
        "--config.data.path=FOLDER; on class folders in FOLDER itself, with --split=all"
    )
    return result
