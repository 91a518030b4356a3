"""Jobs of a SLURM cluster through submitit: submitted, requeued when cut short, looked up."""

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

SAVE_S = 120  # a job gets SIGTERM so long before its time is over
TRIES, RETRY_S = 12, 5.0  # of squeue, and the seconds between them
REQUEUES = 100  # a job puts itself into the queue again so often at most
# Keys of a cluster's file: `setup` shell lines, `sbatch` more of its parameters, the others flags.
RESOURCES = {
    "partition": str, "account": str, "time": str, "nodes": int, "gpus_per_node": int,
    "tasks_per_node": int, "cpus_per_task": int, "setup": list, "sbatch": dict,
}  # fmt: skip


def resources(*, cluster: str = "", **flags: Any) -> dict[str, Any]:
    """What `submit` takes of RESOURCES: from a cluster's file, and from the flags that are given.

    Raises:
        UserError: no SLURM, a wrong file, a partition that the cluster lacks.
    """
    if not shutil.which("sbatch"):
        raise UserError(
            "`on=slurm`: there is no sbatch on this machine: run it on the cluster's login node; "
            "apt install slurm-client on one whose cluster is configured"
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
    """A cluster's TOML file; UserError where it is none, or has other keys than RESOURCES."""
    with paths.explained(f"`cluster`={file} cannot be read", errors=(OSError, ValueError)):
        profile = tomllib.loads(pathlib.Path(file).expanduser().read_text(encoding="utf-8"))
    for key, value in profile.items():
        if not (kind := RESOURCES.get(key)):
            raise UserError(f"`cluster`={file}: {key} is none of {', '.join(RESOURCES)}")
        if not isinstance(value, kind):
            raise UserError(f"`cluster`={file}: {key}={value!r}: must be a {kind.__name__}")
    return profile


def execute(command: Sequence[str]) -> None:
    """In the job: becomes the command, which gets the signals and gives the exit status."""
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
    """Submits each command as a job, several as one array.

    A job that is preempted, or whose time is nearly over, gets SIGTERM, saves, ends with status 75
    and is put into the queue again, where it continues; so is one that lost a peer.

    Args:
        commands: every task of a job runs the same; jax.distributed finds the others.
        folder: for scripts and logs, seen by all nodes.
        at_once: how many jobs of the array run at a time at most.
        resources: of `parameters`.

    Returns:
        The jobs' ids; UserError where sbatch refuses them.
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
    """The command that cancels jobs: of an array all."""
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
        time: as sbatch takes it. What is not done by then is done in the next turn.
        tasks_per_node: 0 is one for each GPU, or one. One for several GPUs drives them all.
        others: the rest of RESOURCES.
    """
    tasks = tasks_per_node or max(1, gpus_per_node)
    # XLA's threads, on a cluster that lets a task run on more cores than its own: rounding depends
    # on their number.
    lines = [f"export NPROC=$((SLURM_CPUS_ON_NODE / {tasks}))", *setup]
    if gpus_per_node > 1 and tasks == 1:  # JAX would take the first alone
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
    """'running' or 'waiting', of the jobs that are in the queue.

    It is asked again for a minute where the controller does not answer.
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
    """The file of what the first task of a job prints."""
    return f"{folder}/{job}_0_log.out"
