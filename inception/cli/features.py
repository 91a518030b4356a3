"""write a layer's activations for pictures as one .npz file"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from inception.cli import flags, networks
from inception.config import CommandLineError

if TYPE_CHECKING:
    import numpy as np


def add_flags(parser: flags.Parser) -> None:
    networks.add_pictures(parser, "a run, or converted weights")
    add = parser.add_argument
    text = "NumPy's format: features, float32 [n, ...], and images, their n names"
    add("--output", required=True, metavar="FILE.npz", help=text)
    text = "pool5 (default), which the classifier reads; or conv1, 3a, 4a/3x3, ...: [h, w, c]"
    add("--layer", default="pool5", metavar="NAME", help=text)


def run(args: flags.Args, overrides: list[str]) -> flags.Result:
    if len(args.checkpoint) > 1:
        raise CommandLineError("--checkpoint: features are those of one network: give one folder")
    if "://" in args.output:
        raise CommandLineError(f"--output={args.output}: write a local file, then copy it there")
    if not args.output.endswith(".npz"):
        raise CommandLineError(f"--output={args.output}: its name must end in .npz")
    from inception.data import progress
    from inception.evaluation import features
    from inception.runtime import processes

    paths, predictor = networks.open_pictures(args, overrides)
    rejected: list[str] = []
    shape = features.shape(predictor, args.layer)
    size = 4 * len(paths) * math.prod(shape)
    processes.together(lambda: features.check(args.output, size) if processes.is_main() else None)
    each = features.each(predictor, paths, layer=args.layer, crops=args.crops)
    hidden = len(paths) < 10 or not processes.is_main()
    bar = progress.bar(each, total=len(paths), unit="img", leave=False, disable=hidden)

    def rows() -> "Iterator[tuple[str, np.ndarray]]":
        for image, error, row in bar:
            if error:
                rejected.append(error)
            else:
                yield image, row

    if not processes.is_main():
        return {"count": sum(1 for _ in rows()), "rejected": rejected}
    found = features.write(args.output, rows(), shape)
    if found[0]:
        print(f"wrote {args.output}: {args.layer}, float32 {list(found)}")
    return {"file": args.output if found[0] else "", "shape": list(found), "rejected": rejected}
