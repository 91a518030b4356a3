"""Runs a launch.py command as a SkyPilot job: on TPU pods, GPU nodes of any cloud, Kubernetes."""

import contextlib
import copy
import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from inception import Interrupted, UserError
from inception.config import ROOT, CommandLineError, find

# Packages that write a workdir to a bucket. NOTE: s3fs needs an older dateutil than the pinned.
WRITERS = {"gs": "gcsfs", "s3": "s3fs boto3"}
RUNTIMES = {  # Google's for JAX; NOTE: for v5e SkyPilot would choose v5p's
    "tpu-v5litepod": "v2-alpha-tpuv5-lite",
    "tpu-v5p": "v2-alpha-tpuv5",
    "tpu-v6e": "v2-alpha-tpuv6e",
}
OLDER = "tpu-ubuntu2204-base"  # v4 and before

SETUP = """\
set -e
export PATH="$HOME/.local/bin:$PATH"
command -v uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
uv venv --allow-existing --python 3.12 .venv
. .venv/bin/activate
"""
# CUDA 13 needs driver 580; not every cloud has it yet.
GPU_SETUP = """\
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1 | cut -d . -f 1)
if [ "$driver" -ge 580 ]; then jax="-e .[gpu]"; else jax="-e . jax[cuda12]"; fi
"""
HOSTS = (
    ' --coordinator_address=$(echo "$SKYPILOT_NODE_IPS" | head -n 1):8476'
    " --num_processes=$SKYPILOT_NUM_NODES --process_id=$SKYPILOT_NODE_RANK"
)
# When the first host ends, SkyPilot kills the others and takes its status as the job's. A host that
# was only interrupted therefore waits, so that the others can save or report the real error.
END = " || (status=$?; [ $status = {status} ] && sleep 30; exit $status)\n"


def check_is_on_hosts(path: str, from_run: str) -> None:
    """Raises CommandLineError for --config or --from_run that the machines of a job would lack."""
    if from_run and "://" not in from_run:
        raise CommandLineError(
            f"--from_run={from_run} is a folder of this machine, which those of --on=sky lack: "
            "copy its config.json to a bucket, as gs://BUCKET/RUN, and give that"
        )
    if not path:
        return
    if not (ROOT / "requirements.txt").exists():
        raise CommandLineError(
            f"--on=sky copies a checkout to its machines, and {ROOT} is none: use a clone"
        )
    file, argument = find(path)
    given = "".join(f":{text}" for text in argument)
    root, file, name = ROOT.resolve(), file.resolve(), path.removesuffix(given)
    own = str(file.relative_to(root)) if file.is_relative_to(root) else ""
    if os.path.normpath(name) != own and not (own and name == file.stem):
        remedy = f"give --config={own}{given}" if own else f"put it into {ROOT}/experiments"
        raise CommandLineError(
            f"--config={path}: the machines of --on=sky have this checkout alone: {remedy}"
        )


def tasks(
    commands: Iterable[tuple[Sequence[str], str]], *, dry_run: bool, **given: Any
) -> list[dict[str, Any]]:
    """Makes a `task` of each (command, its workdir), and has SkyPilot check it.

    With `dry_run`, prints the tasks as YAML; SkyPilot then need not be installed.
    """
    made = [task(command, workdir=workdir, **given) for command, workdir in commands]
    if not dry_run or importlib.util.find_spec("sky"):
        for one in made:
            check(one)
    if dry_run:
        print("---\n".join(map(to_yaml, made)), end="")
    return made


def task(
    command: Sequence[str],
    *,
    workdir: str,
    accelerators: str,
    nodes: int | None = None,
    infra: str = "",
    spot: bool = False,
    copy: Iterable[tuple[str, str]] = (),
    env: Iterable[tuple[str, str]] = (),
) -> dict[str, Any]:
    """The SkyPilot task that runs a command on every host, as a dict with the keys of its YAML.

    Args:
        command: the arguments of `python launch.py`, with the same --workdir.
        accelerators: SkyPilot's name: tpu-v5litepod-64, or H100:8 for each node.
        nodes: the number of GPU nodes; a TPU slice is one node, however many hosts it has.
        infra: cloud[/region[/zone]] or k8s[/context]; the cheapest if empty.
        copy: (folder on the hosts, bucket that is copied there before the command runs).

    Raises:
        UserError: the workdir is not in gs:// or s3://, or TPUs with several nodes.
    """
    scheme, _, in_bucket = workdir.partition("://")
    if not in_bucket or scheme not in WRITERS:
        raise UserError(
            f"`workdir`={workdir} is lost with the machines of `on=sky`: give "
            "`workdir=gs://...` or s3://..."
        )
    nodes = 1 if nodes is None else nodes
    tpu = accelerators.lower().startswith("tpu-")
    if tpu and nodes > 1:
        raise UserError(
            f"`nodes`={nodes}: a TPU slice is one node, and all its hosts run: leave it out, and "
            "name a larger slice in `accelerators`"
        )
    jax = "-e '.[tpu]'" if tpu else "$jax"
    install = f"uv pip install -r requirements.txt {jax}\nuv pip install {WRITERS[scheme]}\n"
    address = HOSTS if nodes > 1 else ""  # hosts of a TPU slice find each other
    run = f"python launch.py {shlex.join(command)}{address}{END.format(status=Interrupted.status)}"
    return {
        "name": re.sub(r"[^\w.-]+", "-", in_bucket),
        "workdir": str(ROOT),
        "num_nodes": nodes,
        "resources": resources(accelerators, infra=infra, spot=spot),
        **({"envs": dict(env)} if env else {}),
        **({"file_mounts": dict(copy)} if copy else {}),
        "setup": SETUP + ("" if tpu else GPU_SETUP) + install,
        "run": f". .venv/bin/activate\n{run}",
    }


def resources(accelerators: str, *, infra: str, spot: bool) -> dict[str, Any]:
    """The task's machines, and the exit status after which SkyPilot restarts it."""
    kind = accelerators.lower().rpartition("-")[0]  # tpu-v5p-8 -> tpu-v5p
    on_kubernetes = infra.lower().startswith(("k8s", "kubernetes"))
    runtime = {"runtime_version": RUNTIMES.get(kind, OLDER)}
    found = {
        "accelerators": accelerators,
        "job_recovery": {"recover_on_exit_codes": [Interrupted.status]},
        "accelerator_args": runtime if kind.startswith("tpu") and not on_kubernetes else None,
        "infra": infra,
        "use_spot": spot,
    }
    return {key: value for key, value in found.items() if value}


def check(task: Mapping[str, Any]) -> Any:
    """The task as SkyPilot's own object; UserError if SkyPilot is missing or refuses the task.

    NOTE: SkyPilot looks for a cloud with such machines only when the task is submitted.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the YAML
            import sky

            found = sky.Task.from_yaml_config(copy.deepcopy(dict(task)))
            found.validate_name()
            return found
    except ImportError as error:
        raise UserError(
            "`on=sky` needs SkyPilot: pip install -c requirements.txt -e '.[sky]', and your "
            f"cloud's part of it, as in pip install 'skypilot[gcp]' ({error})"
        ) from error
    except OSError as error:  # SkyPilot downloads its list of accelerators
        raise UserError(
            f"SkyPilot cannot look up `accelerators`={task['resources']['accelerators']}: "
            f"{_line(error)}"
        ) from error
    except Exception as error:  # SkyPilot raises many types, even AssertionError
        raise UserError(f"SkyPilot refuses the task: {_line(error)}") from error


def submit(task: Mapping[str, Any]) -> list[int]:
    """Submits the task to SkyPilot as a managed job; returns its ids once it waits for machines.

    SkyPilot restarts a managed job when its machines are taken away or break, and when the
    command ends with 75. It gives the machines back when the job ends.
    """
    ready = check(task)
    import sky
    from sky import jobs

    try:
        ids, _ = sky.stream_and_get(jobs.launch(ready))  # waits for the submission, not for the job
    except Exception as error:  # whatever SkyPilot raises: no cloud, no rights, no machines
        raise UserError(f"SkyPilot did not take the job: {_line(error)}") from error
    for job in ids or []:
        print(f"job {job}. Its logs: sky jobs logs {job}; to end it: sky jobs cancel {job}")
    return list(ids or [])


def alive(ids: Iterable[int]) -> dict[int, str]:
    """{id: name} of the managed jobs among `ids` that have not ended."""
    wanted = list(ids)
    if not wanted:
        return {}
    import sky
    from sky import jobs

    try:
        found, *_ = sky.get(jobs.queue_v2(refresh=False, skip_finished=True, job_ids=wanted))
    except Exception as error:
        status = str(getattr(error, "cluster_status", "")).removeprefix("ClusterStatus.")
        if status in ("None", "STOPPED"):  # SkyPilot removes its controller after the last job
            return {}
        raise UserError(f"SkyPilot does not report which jobs still run: {_line(error)}") from error
    return {job.job_id: job.job_name for job in found}


def to_yaml(task: Mapping[str, Any]) -> str:
    """The task as a YAML file for `sky jobs launch FILE`."""
    return yaml.dump(dict(task), Dumper=_Dumper, sort_keys=False, width=10_000)


class _Dumper(yaml.SafeDumper):
    """Writes scripts as literal blocks, line by line."""


def _script(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _script)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
