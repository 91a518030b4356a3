"""write a page or a table about one run or several"""

from inception.cli import flags


def add_flags(parser: flags.Parser) -> None:
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="a run's folder, or a study's")
    add("--output", required=True, metavar="FILE", help="page.html, or table.csv")


def run(args: flags.Args, _overrides: list[str]) -> flags.Result:
    from inception.reporting import page

    page.check_output(args.output)
    page.write(args.runs, args.output)
    print(f"wrote {args.output}")
    return {"page": args.output}
