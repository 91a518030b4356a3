"""train every point of the experiment's sweep(), except finished ones"""

from inception.cli import flags, submit


def add_flags(parser: flags.Parser) -> None:
    flags.add_config(parser, default="experiments/ensemble.py")
    add = parser.add_argument
    add("--workdir", required=True, metavar="DIR", help="a folder of runs: 0, 1, ...")
    add("--sweep", default="", metavar="NAME", help="the experiment's sweep_NAME(), not sweep()")
    text = "instead: Optuna chooses TRIALS points from the experiment's space()"
    add("--search", type=flags.whole_number, metavar="TRIALS", help=text)
    add("--minutes", type=flags.positive, metavar="M", help="of each point, as of train --minutes")
    text = "points at a time; local ones share the cores (default: 1; of a SLURM sweep 256)"
    add("--workers", type=flags.whole_number, metavar="N", help=text)
    flags.add_launchers(parser)


def run(args: flags.Args, overrides: list[str]) -> flags.Result:
    resources = flags.launcher_flags(args)
    from inception.sweeps import command

    return command.sweep(
        args.config,
        overrides,
        args.workdir,
        name=args.sweep,
        trials=args.search,
        minutes=args.minutes,
        workers=args.workers,
        launcher=args.on,
        dry_run=args.dry_run,
        resources=resources,
        worker_command=[*submit.without_launchers(args.argv), "--workers=1"],
    )
