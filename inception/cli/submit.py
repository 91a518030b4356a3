"""Submits `launch.py train` as a job."""

import argparse
import os
import pathlib
import shlex
from typing import Any

from inception.cli import flags


def submit(args: flags.Args, resources: dict[str, Any]) -> list[str] | list[int]:
    """Submits the same command as a job, or prints it with --dry_run; returns the jobs' ids."""
    command = without_launchers(args.argv)
    if args.on == "sky":
        from inception.launching import sky

        (task,) = sky.tasks([(command, args.workdir)], dry_run=args.dry_run, **resources)
        return [] if args.dry_run else sky.submit(task)
    from inception.launching import local

    whole = [*local.LAUNCH, *command]
    if args.dry_run:
        print(shlex.join(whole))
        return []
    from inception.launching import slurm

    name, folder = pathlib.Path(args.workdir).name, f"{os.path.expanduser(args.workdir)}/slurm"
    return slurm.submit([whole], folder=folder, name=name, **slurm.resources(**resources))


def without_launchers(argv: list[str]) -> list[str]:
    """The command line that runs in the job, without the launchers' flags."""
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    flags.add_launchers(known)
    return known.parse_known_args(argv)[1]
