"""The points of a study on this machine: several at once, each on its share of the cores."""

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from inception import Interrupted, UserError
from inception.launching.local import end_with_parent
from inception.sweeps.live import Show
from inception.sweeps.study import Grid, Point

if TYPE_CHECKING:
    from inception.sweeps.search import Search  # Optuna, which a grid does without

POLL_S = 0.2
LOOK_S = 2.0  # at a point's evaluations


def run(study: "Grid | Search", *, launch: Sequence[str], workers: int) -> None:
    """Trains what is left of a study as processes of their own, and shows how far they are.

    What a point prints goes to WORKDIR/log.txt. A point that fails is marked so, and the others
    continue. ctrl-C and SIGTERM are passed on to all, which save what they have; a second one
    kills them.

    Args:
        launch: the command before a point's own: python launch.py.
        workers: how many points at once; they share the cores evenly.

    Raises:
        Interrupted: stopped from outside; the same call continues.
        UserError: more workers than cores.
    """
    pool = _Pool(study, launch, core_shares(workers))
    signals: list[int] = []
    handlers = {
        s: signal.signal(s, lambda number, _: signals.append(number))
        for s in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with study.exclusive(), Show(pool.rows) as show:
            while pool.advance(stops=len(signals)):
                show()
                time.sleep(POLL_S)
    finally:
        pool.terminate()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if signals:
        raise Interrupted("stopped: finished points stay, the same command goes on with the others")


def core_shares(workers: int) -> list[set[int]]:
    """The cores of each worker; UserError where there are fewer cores than workers."""
    if sys.platform != "linux":
        cores = list(range(os.cpu_count() or 1))
    else:
        cores = sorted(os.sched_getaffinity(0))
    if workers > len(cores):
        raise UserError(f"`workers`={workers}: there are {len(cores)} cores; give at most so many")
    each = len(cores) // workers
    return [set(cores[i * each : (i + 1) * each]) for i in range(workers)]


class _Pool:
    """A point and its process for each share of the cores."""

    def __init__(self, study: "Grid | Search", launch: Sequence[str], shares: list[set[int]]):
        self._study, self._launch, self._shares = study, launch, shares
        self._left = study.points()
        self._slots: dict[int, tuple[Point, subprocess.Popen | None]] = {}  # None: folder in use
        self._pruned: set[int] = set()
        self._stops = 0  # signals that were passed on
        self._looked = 0.0

    def rows(self) -> list[dict[str, Any]]:
        running = {point.number: "running" for point, child in self._slots.values() if child}
        return self._study.rows(running)

    def terminate(self) -> None:
        for _, child in self._slots.values():
            if child:
                child.terminate()

    def advance(self, *, stops: int) -> bool:
        """Starts, watches and ends processes; False when no point is left.

        Args:
            stops: signals that came so far; after the first no point is started.
        """
        for slot in range(len(self._shares)):
            if not stops and slot not in self._slots and (point := next(self._left, None)):
                self._slots[slot] = (point, None)
                if point.in_use():
                    print(f"{point.workdir} is in use: waiting for its end", file=sys.stderr)
        if not self._slots:
            return False
        if look := time.monotonic() > self._looked + LOOK_S:
            self._looked = time.monotonic()
        for slot, (point, child) in list(self._slots.items()):
            if child is None:
                if stops:
                    del self._slots[slot]
                elif not point.in_use():
                    self._slots[slot] = (point, self._start(point, self._shares[slot]))
            elif (status := child.poll()) is not None:
                del self._slots[slot]
                if self._close(point, status):
                    self._study.ended(point)
            elif stops > self._stops:
                child.send_signal(signal.SIGKILL if self._stops else signal.SIGTERM)
            elif look and point.number not in self._pruned and self._study.prune(point):
                self._pruned.add(point.number)
                child.send_signal(signal.SIGTERM)
        self._stops = stops
        return True

    def _start(self, point: Point, cores: set[int]) -> subprocess.Popen:
        point.unmark()
        with open(point.log(), "a") as log:
            return subprocess.Popen(
                [*self._launch, *point.command],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # ctrl-C comes through this process alone
                preexec_fn=functools.partial(_prepare_child, cores),
            )

    def _close(self, point: Point, status: int) -> bool:
        """Notes how a process ended; False where its point was stopped from outside."""
        if status == 0 and point.result() is not None:
            return True
        if status == Interrupted.status or (self._stops and status < 0):
            if pruned := point.number in self._pruned:
                point.mark("pruned")
            return pruned
        killed = status < 0
        why = f"killed by {signal.Signals(-status).name}" if killed else f"exit status {status}"
        point.fail(why, point.log())
        return True


def _prepare_child(cores: set[int]) -> None:
    end_with_parent()
    if sys.platform == "linux":
        os.sched_setaffinity(0, cores)
