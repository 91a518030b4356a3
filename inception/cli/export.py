"""a trained network as one file, for other programs"""

import pathlib

from inception.cli import flags
from inception.config import CommandLineError


def add_flags(parser: flags.Parser) -> None:
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="DIR", help="what train or convert wrote")
    add("--best", action="store_true", help="the best checkpoint, not the newest")
    text = "the suffix chooses the format: .safetensors, .stablehlo or .onnx"
    add("--output", required=True, metavar="FILE", help=text)
    text = "of .stablehlo, for that batch size alone (default: any)"
    add("--batch_size", type=flags.whole_number, metavar="N", help=text)


def run(args: flags.Args, _overrides: list[str]) -> flags.Result:
    from inception.formats import export

    if pathlib.Path(args.output).suffix.lower() not in export.FORMATS:
        *others, last = export.FORMATS
        raise CommandLineError(
            f"--output={args.output}: its suffix chooses the format: {', '.join(others)} or {last}"
        )
    if args.batch_size and pathlib.Path(args.output).suffix.lower() != ".stablehlo":
        raise CommandLineError("--batch_size is for --output=FILE.stablehlo")
    if "://" in args.output:
        raise CommandLineError(f"--output={args.output}: write a local file, then copy it there")
    result = export.run(args.checkpoint, args.output, best=args.best, batch_size=args.batch_size)
    print(f"wrote {result['file']}: {result['parameters']:,} parameters")
    return result
