"""Where commands of launch.py run instead of here: jobs of SLURM, tasks of SkyPilot."""

import importlib.util
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from inception.config import ROOT, CommandLineError, find

LAUNCH = (sys.executable, str(ROOT / "launch.py"))
Submit = Callable[[Sequence[Sequence[str]], str], list[str]]  # commands, folder -> jobs' ids


def submit(
    on: str, command: Sequence[str], workdir: str, *, dry_run: bool, asked: Mapping[str, Any]
) -> list[str] | list[int]:
    """One command as a job; its id, once it is submitted, or with `dry_run` what would be.

    Args:
        on: slurm or sky.
        command: what follows `python launch.py`, with --workdir.
        workdir: that --workdir.
        asked: what `slurm_submitter` or `sky_tasks` takes.
    """
    if on == "sky":
        from inception.launching import sky

        (task,) = sky_tasks([(command, workdir)], dry_run=dry_run, **asked)
        return [] if dry_run else sky.submit(task)
    if dry_run:
        print(shlex.join([*LAUNCH, *command]))
        return []
    submit_to_slurm = slurm_submitter(pathlib.Path(workdir).name, **asked)
    return submit_to_slurm([[*LAUNCH, *command]], f"{workdir}/slurm")


def slurm_submitter(
    name: str, *, cluster: str = "", at_once: int | None = None, alone: bool = False, **flags: Any
) -> Submit:
    """What submits commands with the resources of the flags and of the cluster's file.

    Args:
        name: of the jobs.
        cluster: the file, as `slurm.read_profile` reads it.
        at_once: how many jobs run at a time at most; None: as `slurm.submit` says.
        alone: one task a job, whatever else is said.
        flags: some of slurm.RESOURCES; None where the file's holds.

    Raises:
        UserError: no SLURM, a wrong file, a partition that is not there.
    """
    from inception.launching import slurm

    slurm.check()
    resources = slurm.read_profile(cluster) if cluster else {}
    resources |= {key: value for key, value in flags.items() if value is not None}
    slurm.check_partition(resources.get("partition", ""))
    resources |= {"at_once": at_once} if at_once else {}
    resources |= {"nodes": 1, "tasks_per_node": 1} if alone else {}

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


def check_is_on_hosts(config: str, from_run: str = "") -> None:
    """Raises CommandLineError for what machines of --on=sky lack: the checkout is all they have.

    Args:
        config: --config, or '' for the default.
        from_run: --from_run, or ''.
    """
    if from_run and "://" not in from_run:
        raise CommandLineError(
            f"--from_run={from_run} is a folder of this machine, which those of --on=sky lack: "
            "copy its config.json into a bucket, as to gs://BUCKET/RUN, and name that"
        )
    if not config:
        return
    root, file = ROOT.resolve(), find(config).resolve()
    own = str(file.relative_to(root)) if file.is_relative_to(root) else ""
    if os.path.normpath(config) != own:
        remedy = f"give --config={own}" if own else f"put it into {ROOT}/experiments"
        raise CommandLineError(
            f"--config={config}: the machines of --on=sky have this checkout alone: {remedy}"
        )


def sky_tasks(
    commands: Iterable[tuple[Sequence[str], str]],
    *,
    dry_run: bool,
    accelerators: str = "",
    nodes: int | None = None,
    infra: str = "",
    spot: bool = False,
    copy: Iterable[tuple[str, str]] = (),
    env: Iterable[tuple[str, str]] = (),
) -> list[dict[str, Any]]:
    """(command, its workdir) each as a task that SkyPilot takes, as in `sky.task`.

    With `dry_run` their YAML is printed, and SkyPilot need not be there.

    Raises:
        CommandLineError: no accelerators.
        UserError: no SkyPilot, or what it refuses.
    """
    from inception.launching import sky

    if not accelerators:
        raise CommandLineError("--on=sky needs --accelerators, as in tpu-v5litepod-64 or H100:8")
    tasks = [
        sky.task(
            command, workdir=workdir, name=re.sub(r"[^\w.-]+", "-", workdir.split("://")[-1]),
            accelerators=accelerators, nodes=nodes or 1, infra=infra, spot=spot,
            copies=dict(copy), environment=dict(env), checkout=str(ROOT),
        )
        for command, workdir in commands
    ]  # fmt: skip
    if not dry_run or importlib.util.find_spec("sky"):
        for task in tasks:
            sky.check(task)
    if dry_run:
        print("---\n".join(map(sky.to_yaml, tasks)), end="")
    return tasks
