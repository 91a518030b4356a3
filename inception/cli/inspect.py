"""write a page about what a network has learnt"""

import collections
import sys

from inception.cli import flags, networks
from inception.config import run_config


def add_flags(parser: flags.Parser) -> None:
    flags.add_knobs(parser)
    add = parser.add_argument
    text = "a run, or converted weights"
    add("--checkpoint", type=networks.folders, required=True, metavar="DIR", help=text)
    add("--best", action="store_true", help="the best checkpoint, not the newest")
    add("--output", required=True, metavar="PAGE.html", help="the page")
    add("--figures", default="", metavar="DIR", help="also each figure as a file, in a new folder")
    text = "pictures: files, folders, or .txt files; best in folders of their classes"
    add("--images", nargs="+", default=[], metavar="PATH", help=text)
    text = "whose features to draw: 4a, 4a/3x3, ... (default: the nine modules)"
    add("--layers", default="", metavar="NAME[,NAME...]", help=text)
    text = "channels of each layer (default: 4)"
    add("--channels", type=flags.whole_number, default=4, metavar="N", help=text)


def run(args: flags.Args, overrides: list[str]) -> flags.Result:
    from inception.evaluation import pictures, predict
    from inception.model import TABLE_1
    from inception.tools import inspect

    found = pictures.find(args.images, others := collections.Counter[str]())
    configs = [run_config(workdir, overrides) for workdir in args.checkpoint]
    for line in pictures.remarks(found, others, bits=configs[0].data.bits) if found else ():
        print(line, file=sys.stderr)
    predictor = predict.Predictor(*args.checkpoint, best=args.best, configs=configs)
    layers = args.layers.split(",") if args.layers else list(TABLE_1)
    own, rejected = inspect.subject(predictor, found, layers, args.channels)
    result = inspect.write(own, args.output, args.figures)
    for line in result["left_out"]:
        print(line, file=sys.stderr)
    print(f"wrote {args.output}")
    return {**result, "rejected": rejected}
