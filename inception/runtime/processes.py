"""The processes of one run: how they find each other, agree, and stop together."""

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
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils

from inception import UserError
from inception.runtime import prefetch

T = TypeVar("T")
VERSIONS = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "grain")
HEARTBEAT_S = 30  # a process that is silent for so long has died, and ends the others


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout_s: int = 300,
    stop_together: bool = False,
) -> None:
    """Joins the other processes of this run, if there are others: jax.distributed.

    To be called before JAX is used. What is not given is looked for where SLURM, TPU pods, Open
    MPI and Kubernetes tell it; where there is nothing, this process is the only one.

    NOTE: after `timeout_s` seconds in vain, or at a signal, the process ends here: half joined, JAX
    waits for the others at whatever it is asked.

    Args:
        timeout_s: how long to wait for the others.
        stop_together: whether `Stop` is to be used: then JAX's preemption service has SIGTERM.

    Raises:
        UserError: an impossible combination, or processes that count each other differently.
    """
    given = (coordinator_address, num_processes, process_id)
    if any(v is not None for v in given) and any(v is None for v in given):
        raise UserError("give --coordinator_address, --num_processes and --process_id together")
    if num_processes is not None and not 0 <= (process_id or 0) < num_processes:
        raise UserError(f"--process_id={process_id}: must be below --num_processes={num_processes}")
    if coordinator_address and not re.fullmatch(r".+:\d+", coordinator_address):
        raise UserError(f"--coordinator_address={coordinator_address}: must be HOST:PORT")
    if timeout_s < 1:
        raise UserError(f"--initialization_timeout={timeout_s}: must be at least 1")
    address = coordinator_address or "the address that the cluster gave"
    what = (
        f"at {address} not all processes of the run came"
        if process_id == 0
        else f"the coordinator, process 0, did not answer at {address}, or waits for others"
    )

    def give_up(seconds: float) -> None:  # before JAX does: it aborts, which nothing can catch
        if seconds > timeout_s:
            print(f"launch.py: {what} within {timeout_s} s", file=sys.stderr, flush=True)
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
    except (ValueError, RuntimeError) as error:
        if coordinator_address:
            raise UserError(f"--coordinator_address={coordinator_address}: {error}") from error
        if not any(
            s in str(error) for s in ("coordinator_address should", "must be called before")
        ):
            raise UserError(
                f"the cluster tells no place among processes ({str(error).splitlines()[0]}): give "
                "it yourself; alone it is --coordinator_address=localhost:8476 --num_processes=1 "
                "--process_id=0"
            ) from error
        return  # there is no cluster, or JAX is in use already: one process
    counts = gather_text(str(num_processes or jax.process_count()))
    for process, count in enumerate(counts):
        if int(count) != jax.process_count():
            raise UserError(
                f"--num_processes={count} at process {process}, and the coordinator counts "
                f"{jax.process_count()}: start all processes with the same number"
            )


def is_main() -> bool:
    """Whether this is process 0, which alone writes logs, pages and metrics."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def gather_text(text: str) -> list[str]:
    """What each process says, in the order of the processes. All must call it."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.asarray(len(data), np.int32))
    padded = np.zeros(1 << int(lengths.max()).bit_length(), np.uint8)  # few sizes: few programs
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:n]).decode() for row, n in zip(rows, lengths, strict=True)]


def together(action: Callable[[], T]) -> T:
    """action() in every process; where it ends in a UserError in one, all raise that."""
    result, failure = None, None
    try:
        result = action()
    except UserError as error:
        failure = error
    said = [s for s in gather_text(str(failure or "")) if s]
    if failure or said:
        raise failure or UserError(said[0])
    return result  # type: ignore[return-value]


def check_same(config: dict[str, Any], **flags: Any) -> None:
    """Raises UserError in all processes where one has another config, code or library version.

    Args:
        flags: of the command, besides --config.
    """
    here = pathlib.Path(__file__).parents[2]
    mine = flatten_dict({"config": config}, sep=".") | {"python": platform.python_version()}
    mine |= {f"--{name}": str(value) for name, value in flags.items()}
    mine |= {name: importlib.metadata.version(name) for name in VERSIONS}
    mine |= {
        str(path.relative_to(here)): hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for path in (here / "launch.py", *here.glob("inception/**/*.py"))
    }
    said = [json.loads(s) for s in gather_text(json.dumps([socket.gethostname(), mine]))]
    (_, first), *others = said
    for process, (host, theirs) in enumerate(others, start=1):
        for name in sorted(first.keys() | theirs.keys()):
            if first.get(name) != theirs.get(name):
                raise UserError(
                    f"{name} is {theirs.get(name)} at process {process} on {host} and "
                    f"{first.get(name)} at process 0: all processes of a run must have the same"
                )


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error says that another process of the run is gone."""
    signs = ("gloo", "nccl", "coordination service", "connection reset", "connection closed")
    return jax.distributed.is_initialized() and any(s in str(error).lower() for s in signs)


class Stopped(Exception):
    """What `Stop` raises: from outside came the wish that the run should end."""


class Stop:
    """Within it, ctrl-C, SIGTERM and the cloud's maintenance notice end the work at a `check`.

    Of several processes JAX's preemption service tells all, and picks the check at which each of
    them stops: the same one. A second ctrl-C does not ask.
    """

    def __enter__(self) -> "Stop":
        self._told, self._checks = "", 0
        self._service = jax.distributed.is_initialized()
        self._others = jax.process_count() > 1  # then the service has SIGTERM for itself
        signals = (signal.SIGINT,) if self._others else (signal.SIGINT, signal.SIGTERM)
        self._handlers: dict[int, Any] = {
            s: signal.signal(s, self._ask) or signal.SIG_DFL  # none: not Python's
            for s in signals
        }
        return self

    def _ask(self, number: int, _frame: Any) -> None:
        name = signal.Signals(number).name
        print(f"\n{name}: saving after this step; again to stop at once", file=sys.stderr)
        signal.signal(number, self._handlers[number])
        if self._others:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._told = name

    def check(self) -> None:
        """Raises Stopped if it is time. All processes must call it equally often."""
        self._checks += 1
        if self._service and multihost_utils.reached_preemption_sync_point(self._checks):
            raise Stopped("a SIGTERM or maintenance notice to one of the processes")
        self.waiting()

    def waiting(self, _seconds: float = 0.0) -> None:
        """Raises Stopped where one process is all there is; to be called while it waits."""
        if self._told:
            raise Stopped(self._told)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
