"""The processes of one run: joining, agreeing, stopping together; their environment."""

import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils

from inception import UserError
from inception.data import paths
from inception.runtime import prefetch

T = TypeVar("T")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")
HEARTBEAT_S = 30  # a process that is silent for longer counts as dead, and ends the others
ROOT = pathlib.Path(__file__).parents[2]


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout_s: int = 300,
    stop_together: bool = False,
) -> None:
    """Joins the other processes of this run, if any, by jax.distributed.

    Call it before using JAX. Missing arguments come from SLURM, a TPU pod, Open MPI or Kubernetes;
    without any of these, this process is the only one.

    NOTE: the process exits here at a signal, or if joining takes longer than `timeout_s` seconds:
    half joined, JAX would wait for the others in every call.

    Args:
        stop_together: `Stop` will be used, so JAX's preemption service handles SIGTERM.

    Raises:
        UserError: impossible arguments, a failed join, or different `num_processes`.
    """
    _check_arguments(coordinator_address, num_processes, process_id, timeout_s)
    address = coordinator_address or "the address that the cluster gave"
    failure = f"not all processes of the run reached {address} within {timeout_s} s"
    if process_id != 0:
        failure = f"process 0 did not answer at {address} within {timeout_s} s, or waits for others"

    def give_up(seconds: float) -> None:  # before JAX aborts, which nothing can catch
        if seconds > timeout_s:
            print(f"launch.py: {failure}", file=sys.stderr, flush=True)
            os._exit(1)

    jax.config.update("jax_enable_preemption_service", stop_together)
    join = functools.partial(
        jax.distributed.initialize,
        coordinator_address,
        num_processes,
        process_id,
        initialization_timeout=timeout_s + 60,
        heartbeat_timeout_seconds=HEARTBEAT_S,
        shutdown_timeout_seconds=2 * HEARTBEAT_S,
    )
    try:
        prefetch.run_in_thread(join, give_up)
    except SystemExit as error:  # a signal
        os._exit(error.code)  # type: ignore[arg-type]
    except Exception as error:  # a cluster's own library may raise anything
        _go_on_alone(error, given=coordinator_address is not None)
    else:
        _check_counts(num_processes)


def _go_on_alone(error: Exception, *, given: bool) -> None:
    """After a failed join: returns if this process is the only one, else raises UserError."""
    # JAX's messages without a cluster, or after its first use.
    signs = ("coordinator_address should", "must be called before")
    if not given and any(sign in str(error) for sign in signs):
        return
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    frames = traceback.extract_tb(error.__traceback__)
    in_detection = any("clusters" in pathlib.Path(frame.filename).parts for frame in frames)
    if in_detection and not _are_several():
        print(
            f"WARNING: JAX's search for other processes failed ({reason}): this one continues "
            "alone; with others give --coordinator_address, --num_processes and --process_id",
            file=sys.stderr,
        )
        return
    raise UserError(
        f"the processes cannot be joined ({reason}): check "
        "`coordinator_address`, `num_processes` and `process_id`; a single process takes "
        "`coordinator_address=localhost:8476` `num_processes=1` `process_id=0`"
    ) from error


def _are_several() -> bool:
    """Whether SLURM, Open MPI or a Kubernetes Job started this process as one of several."""
    counts = (os.environ.get(name, "1") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    return "JOB_COMPLETION_INDEX" in os.environ or any(n not in ("", "1") for n in counts)


def _check_arguments(address: Any, count: Any, process: Any, timeout_s: int) -> None:
    place = (address, count, process)
    if None in place and any(value is not None for value in place):
        raise UserError("give `coordinator_address`, `num_processes` and `process_id` together")
    if address is not None and not 0 <= process < count:
        raise UserError(f"`process_id`={process}: must be below `num_processes`={count}")
    if address is not None and not re.fullmatch(r".+:\d+", address):
        raise UserError(f"`coordinator_address`={address}: must be HOST:PORT")
    if timeout_s < 1:
        raise UserError(f"`initialization_timeout`={timeout_s}: must be at least 1")


def _check_counts(num_processes: int | None) -> None:
    counted = jax.process_count()
    for process, count in enumerate(gather_text(str(num_processes or counted))):
        if count != str(counted):
            raise UserError(
                f"`num_processes`={count} at process {process}, and the coordinator counts "
                f"{counted}: start all processes with the same number"
            )


def is_main() -> bool:
    """Whether this is process 0, which alone writes logs, pages and metrics."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def gather_text(text: str) -> list[str]:
    """Returns the text of each process, in process order. All processes must call it."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(**paths.UTF8), np.uint8)
    lengths = multihost_utils.process_allgather(np.asarray(len(data), np.int32))
    padded = np.zeros(1 << int(lengths.max()).bit_length(), np.uint8)  # few sizes: few programs
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:n]).decode(**paths.UTF8) for row, n in zip(rows, lengths, strict=True)]


def together(action: Callable[[], T]) -> T:
    """Returns action(), run in every process; if one raises UserError or OSError, all do."""
    result, failure = None, None
    try:
        result = action()
    except (UserError, OSError) as error:
        failure = error
    for text in gather_text("" if failure is None else str(failure) or repr(failure)):
        if text:
            raise failure or UserError(text)
    return result  # type: ignore[return-value]


def check_same(config: dict[str, Any], **parameters: Any) -> None:
    """Raises UserError in all processes if their configs, parameters, code or versions differ."""
    given = flatten_dict(config, sep=".") | parameters
    own = {f"`{name}`": value for name, value in given.items()}
    own |= {"python": platform.python_version(), **versions()}
    own |= {
        str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for path in (ROOT / "launch.py", *ROOT.glob("inception/**/*.py"))
    }
    gathered = [json.loads(s) for s in gather_text(json.dumps([socket.gethostname(), own]))]
    (_, first), *others = gathered
    for process, (host, other) in enumerate(others, start=1):
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                raise UserError(
                    f"{name} is {other.get(name)} at process {process} on {host} and "
                    f"{first.get(name)} at process 0: all processes of a run must have the same"
                )


def versions() -> dict[str, str]:
    """{package: version} of the packages that may affect a run's numbers."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def environment() -> dict[str, Any]:
    """Versions, devices, machine and commit of this process, for the record of a run."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short", "HEAD")
        commit += " with local changes" if git("status", "--porcelain") else ""
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "commit": commit,
        "python": platform.python_version(),
        **versions(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cores": os.cpu_count(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error means that another process of the run has died."""
    signs = ("gloo", "nccl", "coordination service", "connection reset", "connection closed")
    return jax.distributed.is_initialized() and any(s in str(error).lower() for s in signs)


class Stopped(Exception):
    """Raised by `Stop`: a signal or the cloud asks the run to end."""


class Stop:
    """A context in which Ctrl-C, SIGTERM or a maintenance notice ends the work at a `check`.

    With several processes, JAX's preemption service informs all of them, and they stop at the same
    check. A second Ctrl-C stops the process at once.
    """

    def __enter__(self) -> "Stop":
        self._signal, self._checks = "", 0
        self._service = jax.distributed.is_initialized()
        self._several = jax.process_count() > 1  # then the service handles SIGTERM
        signals = (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM)
        self._handlers: dict[int, Any] = {
            s: signal.signal(s, self._receive) or signal.SIG_DFL  # None: set outside Python
            for s in signals
        }
        return self

    def _receive(self, number: int, _frame: Any) -> None:
        name = signal.Signals(number).name
        print(f"\n{name}: saving after this step; again to stop at once", file=sys.stderr)
        signal.signal(number, self._handlers[number])
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._signal = name

    def check(self) -> None:
        """Raises Stopped if the run should end. All processes must call it equally often."""
        self._checks += 1
        if self._service and multihost_utils.reached_preemption_sync_point(self._checks):
            raise Stopped("a SIGTERM or maintenance notice to one of the processes")
        self.poll()

    def poll(self, _seconds: float = 0.0) -> None:
        """Raises Stopped after a signal, if the run has one process; call it while waiting."""
        if self._signal:
            raise Stopped(self._signal)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
