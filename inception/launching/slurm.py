"""Jobs of a SLURM cluster through submitit: submitted, requeued when cut short, looked up."""

import os
import pathlib
import shutil
import subprocess
import sys
import time as clock
import tomllib
from collections.abc import Iterable, Sequence
from typing import Any

import submitit

from inception import Interrupted, UserError

SAVE_S = 120  # before its time is over a job is told to save
ASKED, ASK_S = 12, 5.0  # squeue, before it is given up, and how long between
REQUEUES = 100  # times that a job puts itself into the queue again, at most
# Of a cluster's profile file and, all but the last, launch.py's flags of the same names.
RESOURCES = (
    "partition", "account", "time", "nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task",
    "setup", "sbatch",
)  # fmt: skip
KINDS = {
    "partition": str, "account": str, "time": str, "setup": list, "sbatch": dict,
}  # fmt: skip


def read_profile(file: str) -> dict[str, Any]:
    """A cluster's TOML file: RESOURCES, `setup` a list of shell lines, `sbatch` a table of more.

    Raises:
        UserError: no such file, no TOML, or a key that is none of RESOURCES.
    """
    try:
        profile = tomllib.loads(pathlib.Path(file).expanduser().read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"--cluster={file} cannot be read: {error}") from error
    if wrong := profile.keys() - set(RESOURCES):
        raise UserError(f"--cluster={file}: {min(wrong)} is none of {', '.join(RESOURCES)}")
    for key, value in profile.items():
        kind = KINDS.get(key, int)
        if not isinstance(value, kind):
            raise UserError(f"--cluster={file}: {key}={value!r}: must be a {kind.__name__}")
    return profile


def execute(command: Sequence[str]) -> None:
    """In the job: becomes the command, which so has the signals and the exit status."""
    sys.stdout.flush()
    os.execv(command[0], list(command))


def submit(
    commands: Sequence[Sequence[str]],
    *,
    folder: str,
    name: str,
    at_once: int = 256,
    partition: str = "",
    account: str = "",
    time: str = "24:00:00",
    nodes: int = 1,
    gpus_per_node: int = 0,
    tasks_per_node: int = 0,
    cpus_per_task: int = 0,
    setup: Sequence[str] = (),
    sbatch: dict[str, Any] | None = None,
) -> list[str]:
    """Submits each command as a job, several as one array.

    A job that is preempted or whose time is nearly over is told so (SIGTERM), saves, ends with
    status 75 and is put into the queue again, where it goes on; so is one whose peer died.

    Args:
        commands: of which every task of a job runs its own; jax.distributed finds the others.
        folder: for scripts and logs, seen by all nodes.
        at_once: how many jobs of the array run at a time at most.
        time: as sbatch has it. What is not done then is done in the next turn.
        tasks_per_node: 0 is one for each GPU, or one. One for several GPUs drives them all.
        setup: shell lines before the command.
        sbatch: more of its parameters.

    Returns:
        The jobs' ids.

    Raises:
        UserError: no SLURM, or what sbatch refuses.
    """
    check()
    if "://" in folder:
        raise UserError(
            f"--on=slurm writes scripts and logs to {folder}: give a --workdir on a disk"
        )
    executor = submitit.SlurmExecutor(folder=folder)
    tasks = tasks_per_node or max(1, gpus_per_node)
    # XLA's threads, on a cluster that lets a task run on more cores than are its own: rounding
    # depends on their number.
    lines = [f"export NPROC=$((SLURM_CPUS_ON_NODE / {tasks}))", *setup]
    if gpus_per_node > 1 and tasks == 1:  # JAX would take the first alone
        lines.append(f"export JAX_LOCAL_DEVICE_IDS={','.join(map(str, range(gpus_per_node)))}")
    requeue = (
        "status=$?",
        f'if [ $status -eq {Interrupted.status} ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt '
        f'{REQUEUES} ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
        "exit $status",
    )
    parameters: dict[str, Any] = {
        "job_name": name,
        "nodes": nodes,
        "ntasks_per_node": tasks,
        "partition": partition or None,
        "account": account or None,
        "gpus_per_node": gpus_per_node or None,
        "cpus_per_task": cpus_per_task or None,
        "setup": lines,
        "teardown": list(requeue),
        "array_parallelism": at_once,
        "stderr_to_stdout": True,
        "additional_parameters": {
            "signal": f"TERM@{SAVE_S}",
            "requeue": True,
            "time": time,
            **(sbatch or {}),
        },
    }
    try:
        executor.update_parameters(**{k: v for k, v in parameters.items() if v is not None})
        jobs = executor.map_array(execute, [list(command) for command in commands])
    except submitit.core.utils.FailedJobError as error:
        raise UserError(f"SLURM refused the job: {_reason(str(error))}") from error
    return [job.job_id for job in jobs]


def check() -> None:
    """Raises UserError where this is no machine of a SLURM cluster."""
    if not shutil.which("sbatch"):
        raise UserError(
            "--on=slurm: there is no sbatch on this machine: run it on the cluster's login node; "
            "apt install slurm-client on one whose cluster is configured"
        )


def _reason(text: str) -> str:
    told = [line for line in text.splitlines() if "error:" in line]
    return (
        (told or text.strip().splitlines() or ["no message"])[-1]
        .removeprefix("sbatch: error: ")
        .strip()
    )


def check_partition(partition: str) -> None:
    """Raises UserError for a partition that the cluster has not."""
    done = subprocess.run(
        ["sinfo", "--noheader", "--format=%R"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"--on=slurm: sinfo: {_reason(done.stderr)}")
    known = done.stdout.split()
    if wrong := set(filter(None, partition.split(","))) - set(known):
        raise UserError(f"--partition={min(wrong)}: this cluster has {', '.join(known)}")


def states(jobs: Iterable[str]) -> dict[str, str]:
    """Those of the jobs that are in the queue: 'running' or 'waiting'."""
    wanted = set(jobs)
    if not wanted:
        return {}
    found = {}
    for line in _squeue().splitlines():
        own, of_array, state = line.split()
        for job in {own, of_array} & wanted:
            found[job] = "running" if state in ("RUNNING", "COMPLETING") else "waiting"
    return found


def _squeue() -> str:
    """A line a job, 'id array_index STATE'; a controller that does not answer is asked again."""
    for left in reversed(range(ASKED)):
        done = subprocess.run(
            ["squeue", "--noheader", "--array", "--me", "--format=%i %F_%K %T"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return done.stdout
        if left == ASKED - 1:
            print(f"squeue: {_reason(done.stderr)}; asking again", file=sys.stderr)
        if left:
            clock.sleep(ASK_S)
    raise UserError(f"squeue: {_reason(done.stderr)}")


def log(folder: str, job: str) -> str:
    """What the first task of a job printed."""
    return f"{folder}/{job}_0_log.out"
