"""convert published weights of another framework to a checkpoint"""

import json

from inception.cli import flags
from inception.config import NETWORK, load_config


def add_flags(parser: flags.Parser) -> None:
    flags.add_knobs(parser)
    add = parser.add_argument
    add("--source", required=True, choices=("caffe", "torchvision", "onnx", "slim"))
    text = "a .caffemodel; a .pth or .safetensors; a .onnx; a TensorFlow checkpoint"
    add("--input", required=True, metavar="FILE", help=text)
    add("--output", required=True, metavar="DIR", help="a new folder")
    text = "class names, one per line (default: ImageNet's for 1,000 classes)"
    add("--classes", default="", metavar="FILE", help=text)


def run(args: flags.Args, overrides: list[str]) -> flags.Result:
    from inception import train
    from inception.formats import convert
    from inception.runtime import sharding

    weights = convert.read(args.source, args.input)
    knobs = [f"--config.{knob}={value}" for knob, value in weights.knobs.items()]
    config = load_config(flags.BASE_CONFIG, [*knobs, *overrides], NETWORK)
    # Any number of steps: nothing in a first state depends on it.
    training = train.build(config, sharding.make_mesh(), steps_per_epoch=1e6, total_steps=10**8)
    result = convert.write(
        weights,
        json.loads(config.to_json()),
        args.output,
        init=training.init,
        tx=training.tx,
        classes=args.classes,
    )
    print(
        f"{result['parameters']:,} parameters, {config.model.classes} classes, "
        f"{'with' if config.model.heads else 'without'} auxiliary heads: {args.output}"
    )
    for key, why in (
        ("ignored", "not in the network"),
        ("missing", "not in the file"),
    ):
        if names := result[key]:
            more = f" and {len(names) - 12} more" if len(names) > 12 else ""
            print(f"{key}, {why}: {', '.join(names[:12])}{more}")
    print(
        f"Evaluate it on class folders in FOLDER/val: launch.py eval --workdir={args.output} "
        "--config.data.path=FOLDER; on class folders in FOLDER itself, with --split=all"
    )
    return result
