"""A command of launch.py as a job of SLURM or of SkyPilot."""

import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from inception.config import ROOT

LAUNCH = (sys.executable, str(ROOT / "launch.py"))


def submit(
    launcher: str,
    command: Sequence[str],
    workdir: str,
    *,
    dry_run: bool,
    resources: Mapping[str, Any],
) -> list[str] | list[int]:
    """What follows `python launch.py`, with that --workdir, as a job of slurm or sky; its id.

    Args:
        dry_run: print what would be submitted.
        resources: of `slurm.resources` or `sky.task`.
    """
    if launcher == "sky":
        from inception.launching import sky

        (task,) = sky.tasks([(command, workdir)], dry_run=dry_run, **resources)
        return [] if dry_run else sky.submit(task)
    if dry_run:
        print(shlex.join([*LAUNCH, *command]))
        return []
    from inception.launching import slurm

    asked = slurm.resources(**resources)
    name, folder = pathlib.Path(workdir).name, f"{workdir}/slurm"
    return slurm.submit([[*LAUNCH, *command]], folder=folder, name=name, **asked)
