"""write ImageNet's tars or a TFDS set as ArrayRecord, or a store that trains faster"""

import functools

from inception.cli import flags
from inception.config import CommandLineError


def add_flags(parser: flags.Parser) -> None:
    add = parser.add_argument
    text = "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar"
    add("--tars", default="", metavar="DIR", help=text)
    add("--name", default="", help="another TFDS set, downloaded by TFDS")
    text = "instead: a folder of class folders, or what TFDS prepared"
    add("--source", default="", metavar="DIR", help=text)
    text = "of --source: a list of pictures and classes, as config.data.labels"
    add("--labels", default="", metavar="FILE", help=text)
    add("--output", required=True, metavar="DIR", help="a new folder")
    text = "write a store: a copy of every image, its shorter side at most PX"
    add("--short_side", type=flags.whole_number, metavar="PX", help=text)
    percent = functools.partial(flags.whole_number, most=100)
    add("--quality", type=percent, default=90, help="of the store's JPEGs, 1 to 100 (default: 90)")
    text = "format of the store: rgb is plain pixels, 9 to 10 times the bytes, no decoding"
    add("--format", choices=("jpeg", "rgb"), default="jpeg", help=text)
    bits = functools.partial(flags.whole_number, least=8, most=32)
    text = "bits in use, of pictures with 16 or 32 per channel (default: 16)"
    add("--bits", type=bits, default=0, metavar="N", help=text)


def run(args: flags.Args, _overrides: list[str]) -> flags.Result:
    if bool(args.source) == bool(args.tars or args.name):
        raise CommandLineError("give --tars, --name or both; or else --source")
    if args.source and args.short_side is None:
        raise CommandLineError("--source is for writing a store: give --short_side")
    if args.labels and not args.source:
        raise CommandLineError("--labels is for --source=DIR, a folder of pictures")
    if args.bits and args.short_side is None:
        raise CommandLineError("--bits is for a store; for records it is --config.data.bits")
    from inception.data import prepare

    names = (
        "tars",
        "name",
        "source",
        "labels",
        "output",
        "short_side",
        "quality",
        "format",
        "bits",
    )
    result = prepare.prepare(**flags.values(args, *names))
    bits = f"--config.data.bits={args.bits} " if args.bits else ""
    kind = "store" if args.short_side else f"tfds --config.data.name={args.name or 'imagenet2012'}"
    print(
        f"Train on it: --config.data.path={args.output} --config.data.source={kind} "
        f"{bits}--config.data.eval_split={list(result['splits'])[-1]}, and its number of classes "
        "as --config.model.classes"
    )
    return result
