"""Child processes that end with this one; several of one run: started, watched, restarted."""

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
END_S = 60.0  # after the first has ended badly, the others have so long
POLL_S = 0.1
FINAL = (0, 1, 2)  # statuses after which starting again would end likewise


class Children:
    """Within it, ctrl-C and SIGTERM come to child processes: as SIGTERM, a second one as SIGKILL.

    What still runs when it is left gets SIGTERM.

    Attributes:
        signals: how many have come.
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
        """As subprocess.Popen; on Linux it gets SIGTERM when this process dies, and these cores."""

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
        if self.signals:  # one came meanwhile
            child.terminate()
        return child

    def _pass_on(self, *_: Any) -> None:
        self.signals += 1
        for child in self._started:
            child.send_signal(signal.SIGTERM if self.signals == 1 else signal.SIGKILL)


def run(command: Sequence[str], *, processes: int, restarts: int) -> int:
    """Runs a command as so many processes of one JAX run, and again where it was cut short.

    What process 0 prints is printed; of another its last lines, if it was the first to fail.

    Args:
        command: of one process, without its address and index.
        restarts: how often at most to start again after a process was killed or lost.

    Returns:
        The exit status: that of the process that ended the run, 75 if it was killed.
    """
    for left in reversed(range(restarts + 1)):
        with Children() as children:
            status, cause = _attempt(children, command, processes)
        if status in FINAL or children.signals:
            break
        then = f"starting again ({left} restarts left)" if left else "the same command goes on"
        print(f"launch.py: {cause}: {then}", file=sys.stderr, flush=True)
    return status if status in FINAL else Interrupted.status


def _attempt(children: Children, command: Sequence[str], processes: int) -> tuple[int, str]:
    """The status of the process that ended first with a cause of its own, and that cause."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    together = (f"--coordinator_address={address}", f"--num_processes={processes}")
    started: list[subprocess.Popen] = []
    lines: list[collections.deque[str]] = []  # the last of each but process 0
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
        consequences = (0, -signal.SIGABRT, Interrupted.status)  # JAX aborts without its peers
        return consequences.index(status) if status in consequences else 3

    cause = max(_ended(started), key=order)  # of several the first
    status = started[cause].returncode
    if started[0].returncode == status:
        cause = 0  # its lines are printed already
    sys.stderr.write("".join(lines[cause]))
    if status < 0:
        return status, f"process {cause} was killed by {signal.Signals(-status).name}"
    return status, f"process {cause} ended with status {status}"


def _read(stream: Any, lines: collections.deque[str]) -> None:
    """Keeps the last lines; prints the warnings at once."""
    for line in stream:
        lines.append(line)
        if line.startswith("WARNING: process"):
            sys.stderr.write(line)


def _ended(children: Sequence[subprocess.Popen]) -> list[int]:
    """Indices of the children in the order in which they have ended, once all have."""
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
