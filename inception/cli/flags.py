"""Flags that several commands share: their types, and flags of the config, processes and jobs."""

import argparse
import itertools
import math
import os
import sys
from typing import Any

from inception.config import CommandLineError

Parser = argparse.ArgumentParser
Args = argparse.Namespace
Result = dict[str, Any]  # of a command, for --json
DEFAULT_CONFIG = "experiments/digits.py"
BASE_CONFIG = "experiments/base.py"
LAUNCHER_FLAGS = {  # --on -> flags for it
    "slurm": (
        "cluster", "partition", "account", "time", "gpus_per_node", "tasks_per_node",
        "cpus_per_task", "nodes",
    ),
    "sky": ("nodes", "accelerators", "infra", "spot", "copy", "env"),
    "local": ("processes", "restarts"),
}  # fmt: skip


def values(args: Args, *names: str) -> dict[str, Any]:
    """{name: value} of some flags, as keyword arguments of a function."""
    return {name: getattr(args, name) for name in names}


def errors(result: Result, classes: int) -> str:
    """The line about an evaluation; no top-5 for five classes or fewer, where it is always 0."""
    top5 = f", top-5 error {result['top5_error']:.2f}%" if classes > 5 else ""
    return f"top-1 error {result['top1_error']:.2f}%{top5} on {result['count']} images"


# Types for argparse: their errors end the command with exit status 2.


def whole_number(text: str, most: float = math.inf, least: int = 1) -> int:
    """'5' -> 5, at least 1."""
    if not text.isdecimal() or not least <= int(text) <= most:
        bounds = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number, {bounds}")
    return int(text)


def positive(text: str) -> float:
    """'2.5' -> 2.5, above 0."""
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: must be above 0")
    return float(text)


def assignment(text: str) -> tuple[str, str]:
    """'a=b' -> ('a', 'b')."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: must be NAME=VALUE")
    return name, value


def add_config(parser: Parser, default: str, shown: str = "") -> None:
    """--config and the knobs; `shown` is the default in words."""
    text = f"experiment file; ARG goes to its get_config (default: {shown or default})"
    parser.add_argument("--config", default=default, metavar="FILE[:ARG]", help=text)
    add_knobs(parser)


def add_knobs(parser: Parser) -> None:
    """Allows --config.any.knob=VALUE; argparse does not know them, `run` gets them as overrides."""
    parser.set_defaults(takes_knobs=True)
    parser.epilog = "Any knob can be changed, as in --config.data.resize=short: see launch.py knobs"


def add_processes(parser: Parser) -> None:
    """The flags of one of several processes, for `join_processes`."""
    text = "SLURM, TPU pods, Open MPI and Kubernetes set these themselves"
    add = parser.add_argument_group("one of several processes", text).add_argument
    add("--coordinator_address", metavar="HOST:PORT", help="of process 0")
    add("--num_processes", type=int, metavar="N")
    add("--process_id", type=int, metavar="I", help="0 to N-1")
    text = "how long to wait for the others (default: 300)"
    add("--initialization_timeout", type=int, default=300, metavar="SECONDS", help=text)


def join_processes(args: Args) -> None:
    """Joins the other processes of the run, if there are any; only process 0 prints."""
    from inception.runtime import processes

    place = values(args, "coordinator_address", "num_processes", "process_id")
    together = args.command == "train"
    processes.initialize(**place, timeout_s=args.initialization_timeout, stop_together=together)
    if not processes.is_main():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def add_launchers(parser: Parser) -> None:
    """--on, and the resources of a job on a cluster or in a cloud."""
    text = "this machine, a SLURM job, or a SkyPilot job; see docs/how-to/clusters.md"
    parser.add_argument("--on", choices=("local", "slurm", "sky"), default="local", help=text)
    parser.add_argument("--dry_run", action="store_true", help="print what would be launched")
    group = parser.add_argument_group("--on=slurm", "each overrides what --cluster=FILE says")
    add = group.add_argument
    add("--cluster", default="", metavar="FILE", help="TOML file of the flags below")
    add("--partition", metavar="NAME")
    add("--account", metavar="NAME")
    add("--time", metavar="TIME", help="limit of one turn, as for sbatch; the job then resumes")
    add("--gpus_per_node", type=whole_number, metavar="N")
    add("--tasks_per_node", type=whole_number, metavar="N", help="default: one for each GPU")
    add("--cpus_per_task", type=whole_number, metavar="N")
    add = parser.add_argument_group("--on=slurm or sky").add_argument
    add("--nodes", type=whole_number, metavar="N", help="default: 1")
    add = parser.add_argument_group("--on=sky", "through SkyPilot").add_argument
    add("--accelerators", default="", metavar="NAME", help="tpu-v5litepod-64, H100:8, ...")
    add("--infra", default="", help="cloud/region/zone or k8s; default: the cheapest")
    add("--spot", action="store_true", help="on machines that may be taken away")
    several: dict[str, Any] = {"type": assignment, "action": "append", "default": []}
    text = "copy a bucket's folder to PATH on each host"
    add("--copy", **several, metavar="PATH=gs://...", help=text)
    add("--env", **several, metavar="NAME=VALUE", help="a variable for the command")


def launcher_flags(args: Args) -> dict[str, Any]:
    """{name: value} of the flags for --on; CommandLineError for others, and for files it lacks."""
    own = LAUNCHER_FLAGS[args.on]
    for name in itertools.chain(*LAUNCHER_FLAGS.values()):
        value = getattr(args, name, None)
        if name not in own and value and value != args.parser.get_default(name):
            raise CommandLineError(f"--{name} is not for --on={args.on}")
    if args.on == "sky":
        if not args.accelerators:
            text = "--on=sky needs --accelerators, as in tpu-v5litepod-64 or H100:8"
            raise CommandLineError(text)
        from inception.launching import sky

        sky.check_is_on_hosts(args.config, getattr(args, "from_run", ""))
    return values(args, *(name for name in own if name in args))
