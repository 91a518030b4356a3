"""launch.py train: one run, here or as a job; or several processes of it on this machine."""

from __future__ import annotations

import argparse
import functools
import shlex
from typing import TYPE_CHECKING, Any

from inception.cli import flags
from inception.config import TRAINING, CommandLineError, load_config, run_config

if TYPE_CHECKING:
    from ml_collections import ConfigDict

HELP = "train, or go on where DIR stopped"
LESS_MEMORY = (
    "config.optim.accumulate=2 or more, config.model.remat=true, or for its evaluation a smaller "
    "config.run.eval_batch_size"
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_config(parser, default="", shown=flags.DEFAULT_CONFIG)
    flags.add_processes(parser)
    add = parser.add_argument
    add("--workdir", required=True, metavar="DIR", help="the run's folder")
    add("--from_run", default="", metavar="DIR", help="instead of --config: as that run was")
    flags.add_launchers(parser)
    add = parser.add_argument_group("--on=local").add_argument
    number = flags.whole_number
    add("--processes", type=number, default=1, metavar="N", help="so many on this machine")
    text = "start again up to K times when a process was killed or lost"
    number = functools.partial(number, least=0)
    add("--restarts", type=number, default=0, metavar="K", help=text)


def train_config(args: argparse.Namespace, overrides: list[str]) -> ConfigDict:
    """Of --config, or with --from_run of another run."""
    if not args.from_run:
        return load_config(args.config or flags.DEFAULT_CONFIG, overrides)
    if args.config:
        raise CommandLineError("give --config or --from_run, not both")
    return run_config(args.from_run, overrides, TRAINING)


def start_processes(args: argparse.Namespace, overrides: list[str]) -> int | None:
    """The exit status of --processes or --restarts; None where the run is this process."""
    flags.launcher_flags(args)
    if args.on != "local":
        return None
    if args.dry_run:
        raise CommandLineError("--dry_run is for --on=slurm and --on=sky")
    if args.processes == 1 and not args.restarts:
        return None
    if args.coordinator_address:
        raise CommandLineError("--processes and --restarts start all processes here")
    train_config(args, overrides)  # a wrong knob ends it here, once
    from inception.launching import jobs, local

    command = [*jobs.LAUNCH, *args.argv, "--processes=1", "--restarts=0"]  # the last flags count
    return local.run(command, processes=args.processes, restarts=args.restarts)


def run(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    config = train_config(args, overrides)
    if args.on == "sky":
        flags.check_is_on_hosts(args.config, args.from_run)
    if args.on != "local":
        from inception.launching import jobs

        command, resources = flags.without_launchers(args.argv), flags.launcher_flags(args)
        submitted = jobs.submit(
            args.on, command, args.workdir, dry_run=args.dry_run, resources=resources
        )
        return {"jobs": submitted, "workdir": args.workdir}
    flags.join_processes(args)
    from inception import train

    command_line = shlex.join(["python", "launch.py", *args.argv])
    result = train.run(config, args.workdir, command=command_line)
    print(
        f"top-1 error {result['top1_error']:.2f}%, top-5 error {result['top5_error']:.2f}% on "
        f"{result['count']} images after {result['steps']} steps, "
        f"{result['images_per_second']:.0f} images/s. Page: {args.workdir}/report.html"
    )
    return result
