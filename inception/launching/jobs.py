"""Commands of launch.py as jobs of SLURM or tasks of SkyPilot."""

import importlib.util
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = (sys.executable, str(ROOT / "launch.py"))
Submit = Callable[[Sequence[Sequence[str]], str], list[str]]  # commands, folder -> jobs' ids


def submit(
    launcher: str,
    command: Sequence[str],
    workdir: str,
    *,
    dry_run: bool,
    resources: Mapping[str, Any],
) -> list[str] | list[int]:
    """One command as a job; its id, once it is submitted, or with `dry_run` what would be.

    Args:
        launcher: slurm or sky.
        command: what follows `python launch.py`, with --workdir.
        workdir: that --workdir.
        resources: further arguments of `slurm_submitter` or `sky_tasks`.
    """
    if launcher == "sky":
        from inception.launching import sky

        (task,) = sky_tasks([(command, workdir)], dry_run=dry_run, **resources)
        return [] if dry_run else sky.submit(task)
    if dry_run:
        print(shlex.join([*LAUNCH, *command]))
        return []
    submit_to_slurm = slurm_submitter(pathlib.Path(workdir).name, **resources)
    return submit_to_slurm([[*LAUNCH, *command]], f"{workdir}/slurm")


def slurm_submitter(
    name: str,
    *,
    cluster: str = "",
    at_once: int | None = None,
    one_task: bool = False,
    **flags: Any,
) -> Submit:
    """A function that submits commands with the resources of flags and of the cluster's file.

    Args:
        name: of the jobs.
        cluster: the file, as `slurm.read_profile` reads it.
        at_once: how many jobs run at a time at most; None: as `slurm.submit` says.
        one_task: one task a job, whatever flags and file say.
        flags: some of slurm.RESOURCES; None: the file's.

    Raises:
        UserError: no SLURM, a wrong file, an unknown partition.
    """
    from inception.launching import slurm

    slurm.check()
    resources = slurm.read_profile(cluster) if cluster else {}
    resources |= {key: value for key, value in flags.items() if value is not None}
    slurm.check_partition(resources.get("partition", ""))
    resources |= {"at_once": at_once} if at_once else {}
    resources |= {"nodes": 1, "tasks_per_node": 1} if one_task else {}

    def submit_to_slurm(commands: Sequence[Sequence[str]], folder: str) -> list[str]:
        jobs = slurm.submit(commands, folder=folder, name=name, **resources)
        ids = sorted({job.split("_")[0] for job in jobs})
        for line in (
            f"submitted: {' '.join(jobs)}",
            f"logs: {slurm.log(folder, '*')}",
            f"cancel: scancel {' '.join(ids)}",
        ):
            print(line, file=sys.stderr)
        return jobs

    return submit_to_slurm


def sky_tasks(
    commands: Iterable[tuple[Sequence[str], str]],
    *,
    dry_run: bool,
    nodes: int | None = None,
    copy: Iterable[tuple[str, str]] = (),
    env: Iterable[tuple[str, str]] = (),
    **resources: Any,
) -> list[dict[str, Any]]:
    """(command, its workdir) each as a task for SkyPilot; `resources` are arguments of `sky.task`.

    With `dry_run` their YAML is printed, and SkyPilot need not be installed.

    Raises:
        UserError: no SkyPilot, or what it refuses.
    """
    from inception.launching import sky

    tasks = [
        sky.task(
            command, workdir=workdir, name=re.sub(r"[^\w.-]+", "-", workdir.split("://")[-1]),
            nodes=nodes or 1, copies=dict(copy), environment=dict(env), checkout=str(ROOT),
            **resources,
        )
        for command, workdir in commands
    ]  # fmt: skip
    if not dry_run or importlib.util.find_spec("sky"):
        for task in tasks:
            sky.check(task)
    if dry_run:
        print("---\n".join(map(sky.to_yaml, tasks)), end="")
    return tasks
