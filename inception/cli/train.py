"""train a network, or resume the run in DIR"""

import functools
import shlex
from typing import Any

from inception.cli import flags
from inception.config import STARTED_AS, TRAINING, CommandLineError, load_config, run_config


def add_flags(parser: flags.Parser) -> None:
    flags.add_config(parser, default="", shown=flags.DEFAULT_CONFIG)
    flags.add_processes(parser)
    add = parser.add_argument
    add("--workdir", required=True, metavar="DIR", help="the run's folder")
    add("--from_run", default="", metavar="DIR", help="instead of --config: that run's config")
    text = "train for M minutes of steps, as bench times them, not for config.optim.epochs"
    add("--minutes", type=flags.positive, metavar="M", help=text)
    flags.add_launchers(parser)
    add = parser.add_argument_group("--on=local").add_argument
    number = flags.whole_number
    add("--processes", type=number, default=1, metavar="N", help="processes on this machine")
    text = "restart up to K times after a process was killed or lost"
    number = functools.partial(number, least=0)
    add("--restarts", type=number, default=0, metavar="K", help=text)


def train_config(args: flags.Args, overrides: list[str]) -> Any:
    """Loads --config, or another run's config with --from_run."""
    if not args.from_run:
        return load_config(args.config or flags.DEFAULT_CONFIG, overrides)
    if args.config:
        raise CommandLineError("give --config or --from_run, not both")
    return run_config(args.from_run, overrides, TRAINING)


def run(args: flags.Args, overrides: list[str]) -> flags.Result | int:
    resources = flags.launcher_flags(args)
    config = train_config(args, overrides)
    for knob in ("optim.epochs", "run.eval_every_epochs", "run.checkpoint_every_epochs"):
        if args.minutes and any(flag.startswith(f"--config.{knob}=") for flag in overrides):
            raise CommandLineError(f"--minutes sets --config.{knob}: leave one of them out")
    if args.on != "local":
        from inception.cli import submit

        return {"jobs": submit.submit(args, resources), "workdir": args.workdir}
    if args.dry_run:
        raise CommandLineError("--dry_run is for --on=slurm and --on=sky")
    if args.processes > 1 or args.restarts:
        if args.coordinator_address:
            raise CommandLineError("--processes, --restarts: leave out --coordinator_address")
        from inception.launching import local

        command = [*local.LAUNCH, *args.argv, "--processes=1", "--restarts=0"]  # the last counts
        return local.run(command, processes=args.processes, restarts=args.restarts)
    flags.join_processes(args)
    from inception import train

    if args.minutes:
        from inception.tools import budget

        budget.set_epochs(config, args.minutes, args.workdir)
    command_line = f"{STARTED_AS} {shlex.join(args.argv)}"
    result = train.run(config, args.workdir, command=command_line)
    print(
        f"{flags.errors(result, config.model.classes)} after {result['steps']} steps, "
        f"{result['images_per_second']:.0f} images/s. Page: {args.workdir}/report.html"
    )
    return result
