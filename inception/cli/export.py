"""write a trained network as one file, for other programs"""

import pathlib

from inception.cli import flags
from inception.config import CommandLineError


def add_flags(parser: flags.Parser) -> None:
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="DIR", help="what train or convert wrote")
    add("--best", action="store_true", help="the best checkpoint, not the newest")
    text = "the suffix chooses the format: .safetensors, .stablehlo or .onnx"
    add("--output", required=True, metavar="FILE", help=text)
    text = "for .stablehlo: a fixed batch size (default: any)"
    add("--batch_size", type=flags.whole_number, metavar="N", help=text)
    text = "for .onnx: 8-bit weights and activations; needs --calibration"
    add("--int8", action="store_true", help=text)
    text = (
        "for --int8: pictures for the ranges of activations, a folder or a .txt with a path a line"
    )
    add("--calibration", default="", metavar="PATH", help=text)


def run(args: flags.Args, _overrides: list[str]) -> flags.Result:
    from inception.formats import export

    suffix = pathlib.Path(args.output).suffix.lower()
    if suffix not in export.FORMATS:
        *others, last = export.FORMATS
        raise CommandLineError(
            f"--output={args.output}: its suffix chooses the format: {', '.join(others)} or {last}"
        )
    if args.batch_size and suffix != ".stablehlo":
        raise CommandLineError("--batch_size is for --output=FILE.stablehlo")
    if args.int8 and suffix != ".onnx":
        raise CommandLineError("--int8 is for --output=FILE.onnx")
    if args.int8 and not args.calibration:
        raise CommandLineError("--int8 needs --calibration=PATH, pictures like those to classify")
    if args.calibration and not args.int8:
        raise CommandLineError("--calibration is for --int8")
    if "://" in args.output:
        raise CommandLineError(f"--output={args.output}: write a local file, then copy it there")
    options = {k: v for k, v in flags.values(args, "batch_size", "calibration").items() if v}
    result = export.run(args.checkpoint, args.output, best=args.best, **options)
    print(f"wrote {result['file']}: {result['parameters']:,} parameters")
    return result
