"""Starts, watches and restarts the processes of one run; they end with this process."""

import collections
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any

from inception import Interrupted
from inception.config import ROOT

LAUNCH = (sys.executable, str(ROOT / "launch.py"))
END_S = 60.0  # from the first failure until the others are killed
POLL_S = 0.1
FINAL = (0, 1, 2)  # statuses that a restart would only repeat


class Children:
    """Context manager: passes ctrl-C and SIGTERM to children, first as SIGTERM, then as SIGKILL.

    At its end, children that still run get SIGTERM.

    Attributes:
        signals: the number of signals received.
    """

    def __init__(self) -> None:
        self.signals = 0
        self._started: list[subprocess.Popen] = []

    def __enter__(self) -> "Children":
        self._before = {s: signal.signal(s, self._pass_on) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: Any) -> None:
        for child in self._started:
            child.terminate()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def start(
        self, command: Sequence[str], *, cores: Collection[int] = (), **streams: Any
    ) -> subprocess.Popen:
        """Calls subprocess.Popen; on Linux with `cores`, and SIGTERM when this process dies."""

        def prepare() -> None:
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
                if cores:
                    os.sched_setaffinity(0, cores)

        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # ctrl-C reaches it through this process alone
            preexec_fn=prepare,
            **streams,
        )
        self._started.append(child)
        if self.signals:  # a signal came during Popen
            child.terminate()
        return child

    def _pass_on(self, *_: Any) -> None:
        self.signals += 1
        for child in self._started:
            child.send_signal(signal.SIGTERM if self.signals == 1 else signal.SIGKILL)


def run(command: Sequence[str], *, processes: int, restarts: int) -> int:
    """Runs a command as several processes of one JAX run, and restarts it when it was cut short.

    Prints the output of process 0. If another process fails first, prints its last lines.

    Args:
        command: of one process, without its address and index.
        restarts: the most restarts after a process was killed or lost.

    Returns:
        The exit status of the process that ended the run if that is 0, 1 or 2; else 75.
    """
    for left in reversed(range(restarts + 1)):
        with Children() as children:
            status, cause = _attempt(children, command, processes)
        if status in FINAL or children.signals:
            break
        then = f"starting again ({left} restarts left)" if left else "the same command resumes"
        print(f"launch.py: {cause}: {then}", file=sys.stderr, flush=True)
    return status if status in FINAL else Interrupted.status


def _attempt(children: Children, command: Sequence[str], processes: int) -> tuple[int, str]:
    """Runs all processes once; returns the status and cause of the first that failed by itself."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    together = (f"--coordinator_address={address}", f"--num_processes={processes}")
    started: list[subprocess.Popen] = []
    lines: list[collections.deque[str]] = []  # the last lines of each process but 0
    for process in range(processes):
        flags = (*together, f"--process_id={process}") if processes > 1 else ()
        child = children.start(
            [*command, *flags],
            stdout=subprocess.DEVNULL if process else None,
            stderr=subprocess.PIPE if process else None,
            text=True,
            errors="replace",
        )
        started.append(child)
        lines.append(collections.deque(maxlen=20))
        if child.stderr:
            threading.Thread(target=_read, args=(child.stderr, lines[-1]), daemon=True).start()

    def order(process: int) -> int:
        status = started[process].returncode
        consequences = (0, -signal.SIGABRT, Interrupted.status)  # JAX aborts if a peer is lost
        return consequences.index(status) if status in consequences else 3

    cause = max(_ended(started), key=order)  # the first of equals
    status = started[cause].returncode
    if started[0].returncode == status:
        cause = 0  # its output is printed already
    sys.stderr.write("".join(lines[cause]))
    if status < 0:
        return status, f"process {cause} was killed by {signal.Signals(-status).name}"
    return status, f"process {cause} ended with status {status}"


def _read(stream: Any, lines: collections.deque[str]) -> None:
    """Collects a child's last lines; prints its warnings at once."""
    for line in stream:
        lines.append(line)
        if line.startswith("WARNING: process"):
            sys.stderr.write(line)


def _ended(children: Sequence[subprocess.Popen]) -> list[int]:
    """Waits for all children; returns their indices in the order in which they ended."""
    ended: list[int] = []
    until = float("inf")
    while len(ended) < len(children):
        ended += [i for i, c in enumerate(children) if c.poll() is not None and i not in ended]
        if any(child.returncode for child in children):
            until = min(until, time.monotonic() + END_S)
        if time.monotonic() > until:
            for child in children:
                child.kill()
        time.sleep(POLL_S)
    return ended
