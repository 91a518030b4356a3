"""print the likeliest classes of pictures"""

import itertools
import os
import pathlib
import sys

from inception.cli import flags, networks
from inception.config import CommandLineError


def add_flags(parser: flags.Parser) -> None:
    networks.add_pictures(parser, "a run, or converted weights; several are an ensemble")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--topk", type=flags.whole_number, default=5, help="classes per image (default: 5)")
    text = "these classes instead: names, or numbers from 0"
    add("--class", default="", metavar="NAME[,NAME...]", help=text)
    add = parser.add_argument
    text = "draw where the central crop shows each of these classes, one PNG per image"
    add("--cam", default="", metavar="DIR", help=text)
    text = "with --cam: also the maps, one .npy per image, float32 [classes, h, w]"
    add("--raw", action="store_true", help=text)


def free_name(stem: str, taken: set[str], suffixes: tuple[str, ...]) -> str:
    """Takes STEM, or STEM-2, ... if STEM is taken or STEM.png a file; adds it to `taken`."""
    endings = itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
    names = (f"{stem}{ending}" for ending in endings)
    name = next(
        n
        for n in names
        if n not in taken and not any(os.path.lexists(n + suffix) for suffix in suffixes)
    )
    taken.add(name)
    return name


def run(args: flags.Args, overrides: list[str]) -> flags.Result:
    import numpy as np
    import tqdm

    from inception.data import progress
    from inception.evaluation import cam
    from inception.runtime import processes

    if "://" in args.cam:
        raise CommandLineError(f"--cam={args.cam}: draw into a local folder, then copy it there")
    if args.raw and not args.cam:
        raise CommandLineError("--raw goes with --cam=DIR")
    args.cam = os.path.expanduser(args.cam)
    paths, predictor = networks.open_pictures(args, overrides)
    ids = predictor.ids(named) if (named := vars(args)["class"]) else []
    predictions, rejected = [], []
    drawn: set[str] = set()
    if args.cam:
        for config in predictor.configs:
            cam.check(config.model)
        pathlib.Path(args.cam).mkdir(parents=True, exist_ok=True)
    each = predictor.each(paths, topk=args.topk, crops=args.crops, classes=ids)
    hidden = len(paths) < 10 or not processes.is_main()
    for prediction in progress.bar(each, total=len(paths), unit="img", leave=False, disable=hidden):
        if "error" in prediction:
            rejected.append(prediction["error"])
            continue
        predictions.append(prediction)
        if not args.json:
            tqdm.tqdm.write(prediction["image"])
            for c in prediction["classes"]:
                tqdm.tqdm.write(f"  {c['probability']:7.2%}  {c['name']}")
        if args.cam:
            stem = f"{args.cam}/{pathlib.Path(prediction['image']).stem}"
            name = free_name(stem, drawn, (".png", ".npy")[: 1 + args.raw])
            prediction["cam"] = f"{name}.png"
            drawing = predictor.draw(prediction)  # by all processes: their devices take part
            if processes.is_main():
                drawing.save(prediction["cam"])
            if args.raw:
                prediction["raw"] = f"{name}.npy"
                shown = [c["id"] for c in prediction["classes"]]
                maps = predictor.maps([prediction["image"]], classes=shown)[0]
                if processes.is_main():
                    np.save(prediction["raw"], maps)
    if drawn and processes.is_main():
        print(f"{len(drawn)} maps: {args.cam}", file=sys.stderr)
    return {"predictions": predictions, "rejected": rejected}
