"""Several processes of one run on this machine: started, watched, stopped together, restarted."""

import collections
import ctypes
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from inception import Interrupted

END_S = 60.0  # after the first has ended badly, the others have so long
POLL_S = 0.1
FINAL = (0, 1, 2)  # statuses after which starting again would end likewise


def run(command: Sequence[str], *, processes: int, restarts: int) -> int:
    """Runs a command as so many processes of one JAX run, and again where it was cut short.

    Ctrl-C and SIGTERM are passed on to all, which save and stop; a second one kills them. What
    process 0 prints is printed; of another its last lines, if it was the first to fail.

    Args:
        command: of one process, without its address and index.
        restarts: how often at most to start again after a process was killed or lost.

    Returns:
        The exit status: that of the process that ended the run, 75 if it was killed.
    """
    for attempt in range(restarts + 1):
        group = _Group(command, processes)
        status, cause = group.outcome()
        if status in FINAL or group.signals:
            break
        left = restarts - attempt
        then = f"starting again ({left} restarts left)" if left else "the same command goes on"
        print(f"launch.py: {cause}: {then}", file=sys.stderr, flush=True)
    return status if status in FINAL else Interrupted.status


class _Group:
    """The processes of one attempt; all have ended when it is made."""

    def __init__(self, command: Sequence[str], processes: int):
        self.signals = 0  # how many came to this process
        self._children: list[subprocess.Popen] = []
        self._lines: list[collections.deque[str]] = []
        self._ended: list[int] = []  # process indices, in this order
        before = {s: signal.signal(s, self._pass_on) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            with socket.socket() as free:
                free.bind(("localhost", 0))
                address = f"localhost:{free.getsockname()[1]}"
            for process in range(processes):
                flags = (
                    f"--coordinator_address={address}",
                    f"--num_processes={processes}",
                    f"--process_id={process}",
                )
                self._start([*command, *(flags if processes > 1 else ())], main=process == 0)
            self._watch()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(self, command: Sequence[str], *, main: bool) -> None:
        child = subprocess.Popen(
            command,
            stdout=None if main else subprocess.DEVNULL,
            stderr=None if main else subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches it through this process alone
            preexec_fn=end_with_parent,
        )
        lines: collections.deque[str] = collections.deque(maxlen=20)

        def read(stream: Any) -> None:
            for line in stream:
                lines.append(line)
                if line.startswith("WARNING: process"):
                    sys.stderr.write(line)

        if child.stderr:
            threading.Thread(target=read, args=(child.stderr,), daemon=True).start()
        self._children.append(child)
        self._lines.append(lines)

    def _pass_on(self, _number: int, _frame: Any) -> None:
        self.signals += 1
        for child in self._children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM if self.signals == 1 else signal.SIGKILL)

    def _watch(self) -> None:
        """Returns when all have ended."""
        until = float("inf")
        while len(self._ended) < len(self._children):
            for i, child in enumerate(self._children):
                if child.poll() is not None and i not in self._ended:
                    self._ended.append(i)
            if any(child.returncode for child in self._children):
                until = min(until, time.monotonic() + END_S)
            if time.monotonic() > until:
                for child in self._children:
                    child.kill()
            time.sleep(POLL_S)

    def outcome(self) -> tuple[int, str]:
        """The status of the process that ended first with a cause of its own, and that cause."""

        def order(process: int) -> int:
            status = self._children[process].returncode
            consequences = (0, -signal.SIGABRT, Interrupted.status)  # JAX aborts without its peers
            return consequences.index(status) if status in consequences else 3

        cause = max(self._ended, key=order)  # of several the first
        status = self._children[cause].returncode
        if self._children[0].returncode == status:
            cause = 0  # its lines are printed already
        sys.stderr.write("".join(self._lines[cause]))
        name = f"process {cause}"
        if status < 0:
            return status, f"{name} was killed by {signal.Signals(-status).name}"
        return status, f"{name} ended with status {status}"


def end_with_parent() -> None:
    """In a child, on Linux: it gets SIGTERM when the process that started it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
