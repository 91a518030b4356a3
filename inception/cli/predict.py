"""print the likeliest classes of pictures"""

import collections
import itertools
import os
import pathlib
import sys

from inception.cli import flags, networks
from inception.config import CommandLineError, run_config


def add_flags(parser: flags.Parser) -> None:
    flags.add_knobs(parser)
    flags.add_processes(parser)
    add = parser.add_argument
    text = "a run, or converted weights; several are an ensemble"
    add("--checkpoint", type=networks.folders, required=True, metavar="DIR[,DIR...]", help=text)
    add("--best", action="store_true", help="the best checkpoint, not the newest")
    add("--topk", type=flags.whole_number, default=5, help="classes per image (default: 5)")
    add("--crops", type=networks.views, default=1, help="1 (default), 10 or 144, averaged")
    text = "draw where the central crop shows each of these classes, one PNG per image"
    add("--cam", default="", metavar="DIR", help=text)
    add("images", nargs="+", metavar="IMAGE", help="a file, a folder, or a .txt with a path a line")


def free_name(stem: str, taken: set[str]) -> str:
    """Takes STEM.png, or STEM-2.png, ... if that name is taken or a file; adds it to `taken`."""
    endings = itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
    names = (f"{stem}{ending}.png" for ending in endings)
    name = next(n for n in names if n not in taken and not os.path.lexists(n))
    taken.add(name)
    return name


def run(args: flags.Args, overrides: list[str]) -> flags.Result:
    import tqdm

    from inception.data import progress
    from inception.evaluation import cam, predict
    from inception.runtime import processes

    if "://" in args.cam:
        raise CommandLineError(f"--cam={args.cam}: draw into a local folder, then copy it there")
    paths = predict.find(args.images, others := collections.Counter[str]())
    configs = [run_config(workdir, overrides) for workdir in args.checkpoint]
    flags.join_processes(args)
    lines = predict.remarks(paths, others, bits=configs[0].data.bits)
    print("".join(f"{line}\n" for line in lines), end="", file=sys.stderr)
    predictor = predict.Predictor(*args.checkpoint, best=args.best, configs=configs)
    predictions, rejected = [], []
    drawn: set[str] = set()
    if args.cam:
        for config in configs:
            cam.check(config.model)
        pathlib.Path(args.cam).mkdir(parents=True, exist_ok=True)
    each = predictor.each(paths, topk=args.topk, crops=args.crops)
    for prediction in progress.bar(
        each, total=len(paths), unit="img", leave=False, disable=len(paths) < 10
    ):
        if "error" in prediction:
            rejected.append(prediction["error"])
            continue
        predictions.append(prediction)
        if not args.json:
            tqdm.tqdm.write(prediction["image"])
            for c in prediction["classes"]:
                tqdm.tqdm.write(f"  {c['probability']:7.2%}  {c['name']}")
        if args.cam:
            stem = pathlib.Path(prediction["image"]).stem
            prediction["cam"] = free_name(f"{args.cam}/{stem}", drawn)
            drawing = predictor.draw(prediction)  # by all processes: their devices take part
            if processes.is_main():
                drawing.save(prediction["cam"])
    if drawn:
        print(f"{len(drawn)} maps: {args.cam}", file=sys.stderr)
    return {"predictions": predictions, "rejected": rejected}
