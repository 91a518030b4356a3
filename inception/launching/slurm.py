"""SLURM jobs through submitit: submits them, requeues them when cut short, reports their state."""

import os
import pathlib
import shutil
import subprocess
import sys
import time as clock
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import submitit

from inception import Interrupted, UserError
from inception.data import paths

SAVE_S = 120  # seconds between SIGTERM and the end of a job's time
TRIES, RETRY_S = 12, 5.0  # calls of squeue, and the seconds between them
REQUEUES = 100  # the most times that a job requeues itself
# Keys of a cluster file: flags, and `setup` (shell lines) and `sbatch` (its other parameters).
RESOURCES = {
    "partition": str, "account": str, "time": str, "nodes": int, "gpus_per_node": int,
    "tasks_per_node": int, "cpus_per_task": int, "setup": list, "sbatch": dict,
}  # fmt: skip


def resources(*, cluster: str = "", **flags: Any) -> dict[str, Any]:
    """The RESOURCES for `submit`: those of a cluster's file, overridden by the given flags.

    Raises:
        UserError: no SLURM, a faulty file, a partition that the cluster lacks.
    """
    if not shutil.which("sbatch"):
        raise UserError(
            "`on=slurm`: there is no sbatch on this machine: use the cluster's login node, or "
            "apt install slurm-client on a machine that is configured for the cluster"
        )
    found = read_profile(cluster) if cluster else {}
    found |= {key: value for key, value in flags.items() if value is not None}
    done = subprocess.run(
        ["sinfo", "--noheader", "--format=%R"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"`on=slurm`: sinfo: {_reason(done.stderr)}")
    known = done.stdout.split()
    if wrong := set(filter(None, found.get("partition", "").split(","))) - set(known):
        raise UserError(f"`partition`={min(wrong)}: this cluster has {', '.join(known)}")
    return {key: value for key, value in found.items() if value}


def read_profile(file: str) -> dict[str, Any]:
    """Reads a cluster's TOML file; UserError if it is unreadable, or a key or type is unknown."""
    with paths.explained(f"`cluster`={file} cannot be read", errors=(OSError, ValueError)):
        profile = tomllib.loads(pathlib.Path(file).expanduser().read_text(encoding="utf-8"))
    for key, value in profile.items():
        if not (kind := RESOURCES.get(key)):
            raise UserError(f"`cluster`={file}: {key} is none of {', '.join(RESOURCES)}")
        if not isinstance(value, kind):
            raise UserError(f"`cluster`={file}: {key}={value!r}: must be a {kind.__name__}")
    return profile


def execute(command: Sequence[str]) -> None:
    """In the job: replaces this process by the command, which gets signals and sets the status."""
    sys.stdout.flush()
    os.execv(command[0], list(command))


def submit(
    commands: Sequence[Sequence[str]],
    *,
    folder: str,
    name: str,
    at_once: int = 256,
    **resources: Any,
) -> list[str]:
    """Submits each command as a job; several commands become one job array.

    A job that is preempted, or whose time is nearly over, gets SIGTERM, saves and ends with status
    75. A job that lost a peer also ends with 75. Both requeue themselves and resume.

    Args:
        commands: every task of a job runs the same one; jax.distributed finds the other tasks.
        folder: for scripts and logs, shared by all nodes.
        at_once: the most jobs of the array that run at a time.
        resources: the arguments of `parameters`.

    Returns:
        The jobs' ids; UserError if sbatch refuses them.
    """
    if "://" in folder:
        raise UserError(
            f"`on=slurm` writes scripts and logs to {folder}: give a `workdir` on a disk"
        )
    executor = submitit.SlurmExecutor(folder=folder)
    try:
        executor.update_parameters(
            job_name=name, array_parallelism=at_once, **parameters(**resources)
        )
        jobs = executor.map_array(execute, [list(command) for command in commands])
    except submitit.core.utils.FailedJobError as error:
        raise UserError(f"SLURM refused the job: {_reason(str(error))}") from error
    ids = [job.job_id for job in jobs]
    print(f"submitted: {' '.join(ids)}", file=sys.stderr)
    print(f"logs: {log(folder, '*')}", file=sys.stderr)
    print(f"cancel: {cancel(ids)}", file=sys.stderr)
    return ids


def cancel(jobs: Iterable[str]) -> str:
    """The command that cancels jobs, or the whole arrays that contain them."""
    return f"scancel {' '.join(sorted({job.split('_')[0] for job in jobs}))}"


def parameters(
    *,
    time: str = "24:00:00",
    gpus_per_node: int = 0,
    tasks_per_node: int = 0,
    setup: Sequence[str] = (),
    sbatch: Mapping[str, Any] | None = None,
    **others: Any,
) -> dict[str, Any]:
    """submitit's parameters of one job.

    Args:
        time: in sbatch's format. A job that needs longer resumes in its next turn.
        tasks_per_node: 0: one for each GPU, or one without GPUs. A single task uses all GPUs.
        others: the rest of RESOURCES.
    """
    tasks = tasks_per_node or max(1, gpus_per_node)
    # The number of XLA's threads, on which rounding depends: a cluster may let a task run on more
    # cores than its own.
    lines = [f"export NPROC=$((SLURM_CPUS_ON_NODE / {tasks}))", *setup]
    if gpus_per_node > 1 and tasks == 1:  # JAX would use the first GPU alone
        lines.append(f"export JAX_LOCAL_DEVICE_IDS={','.join(map(str, range(gpus_per_node)))}")
    requeue = (
        "status=$?",
        f'if [ $status -eq {Interrupted.status} ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt '
        f'{REQUEUES} ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
        "exit $status",
    )
    more = {"signal": f"TERM@{SAVE_S}", "requeue": True, "time": time, **(sbatch or {})}
    return others | {
        "gpus_per_node": gpus_per_node or None,
        "ntasks_per_node": tasks,
        "setup": lines,
        "teardown": list(requeue),
        "stderr_to_stdout": True,
        "additional_parameters": more,
    }


def _reason(text: str) -> str:
    errors = [line for line in text.splitlines() if "error:" in line]
    line = (errors or text.strip().splitlines() or ["no message"])[-1]
    return line.removeprefix("sbatch: error: ").strip()


def states(jobs: Iterable[str]) -> dict[str, str]:
    """{job: 'running' or 'waiting'} of the jobs that are in the queue.

    Repeats squeue for a minute while SLURM's controller does not answer.
    """
    if not (wanted := set(jobs)):
        return {}
    command = ["squeue", "--noheader", "--array", "--me", "--format=%i %F_%K %T"]
    for attempt in range(TRIES):
        clock.sleep(RETRY_S if attempt else 0)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        if attempt == 0:
            print(f"squeue: {_reason(done.stderr)}; asking again", file=sys.stderr)
    else:
        raise UserError(f"squeue: {_reason(done.stderr)}")
    found = {}
    for line in done.stdout.splitlines():
        own, of_array, state = line.split()
        for job in {own, of_array} & wanted:
            found[job] = "running" if state in ("RUNNING", "COMPLETING") else "waiting"
    return found


def log(folder: str, job: str) -> str:
    """The log file of a job's first task."""
    return f"{folder}/{job}_0_log.out"
