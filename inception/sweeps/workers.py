"""The points of a study on this machine: several at once, each on its share of the cores."""

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from inception import Interrupted, UserError
from inception.launching.local import end_with_parent
from inception.sweeps.study import Point

POLL_S = 0.2
LOOK_S = 2.0  # at a point's evaluations


def run(
    points: Iterator[Point],
    launch: Sequence[str],
    *,
    workers: int,
    running: set[int],
    prune: Callable[[Point], bool] = lambda _: False,
    ended: Callable[[Point], None] = lambda _: None,
    show: Callable[[], None] = lambda: None,
) -> None:
    """Trains the points as processes of their own; what they print goes to WORKDIR/log.txt.

    A point that fails is marked so, and the others go on. ctrl-C and SIGTERM are passed on to all,
    which save what they have.

    Args:
        points: asked for the next one when a worker is free.
        launch: the command before the point's own: python launch.py.
        workers: how many at once; they share the cores evenly.
        running: holds the numbers of those that run, for `show`.
        prune: is asked often while a point runs; where it says so, the point is stopped for good.
        ended: told of each that ended, well or badly, but not of one stopped from outside.
        show: called often.

    Raises:
        Interrupted: stopped from outside; the same call goes on.
        UserError: more workers than cores.
    """
    shares = _shares(workers)
    slots: dict[int, tuple[Point, subprocess.Popen | None]] = {}  # None: its folder is in use
    pruned: set[int] = set()
    told: list[int] = []
    before = {
        s: signal.signal(s, lambda number, _: told.append(number))
        for s in (signal.SIGINT, signal.SIGTERM)
    }
    more, passed_on, looked = True, 0, 0.0
    try:
        while True:
            now = len(told)
            if look := time.monotonic() > looked + LOOK_S:
                looked = time.monotonic()
            for slot in range(workers):
                if more and not now and slot not in slots:
                    if (point := next(points, None)) is None:
                        more = False
                        break
                    slots[slot] = (point, None)
                    if point.in_use():
                        print(f"{point.workdir} is in use: waiting for its end", file=sys.stderr)
            for slot, (point, child) in list(slots.items()):
                if child is None:
                    if now:
                        del slots[slot]
                    elif not point.in_use():
                        running.add(point.number)
                        slots[slot] = (point, _start(point, launch, shares[slot]))
                elif (status := child.poll()) is not None:
                    del slots[slot]
                    running.discard(point.number)
                    if _close(point, status, point.number in pruned, stopped=passed_on > 0):
                        ended(point)
                elif now > passed_on:
                    child.send_signal(signal.SIGKILL if passed_on else signal.SIGTERM)
                elif look and point.number not in pruned and prune(point):
                    pruned.add(point.number)
                    child.send_signal(signal.SIGTERM)
            passed_on = now
            show()
            if not slots and (now or not more):
                break
            time.sleep(POLL_S)
    finally:
        for _, child in slots.values():
            if child:
                child.terminate()
        for number, handler in before.items():
            signal.signal(number, handler)
    if told:
        raise Interrupted("stopped: finished points stay, the same command goes on with the others")


def check(workers: int) -> None:
    """Raises UserError where there are fewer cores than workers."""
    _shares(workers)


def _shares(workers: int) -> list[set[int]]:
    """The cores of each worker."""
    if sys.platform != "linux":
        cores = set(range(os.cpu_count() or 1))
    else:
        cores = os.sched_getaffinity(0)
    if workers > len(cores):
        raise UserError(f"--workers={workers}: there are {len(cores)} cores; give at most so many")
    each = len(cores) // workers
    ordered = sorted(cores)
    return [set(ordered[i * each : (i + 1) * each]) for i in range(workers)]


def _prepare_child(cores: set[int]) -> None:
    end_with_parent()
    if sys.platform == "linux":
        os.sched_setaffinity(0, cores)


def _start(point: Point, launch: Sequence[str], cores: set[int]) -> subprocess.Popen:
    point.unmark()
    with open(point.log(), "a") as log:
        return subprocess.Popen(
            [*launch, *point.command],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # ctrl-C comes through this process alone
            preexec_fn=functools.partial(_prepare_child, cores),
        )


def _close(point: Point, status: int, pruned: bool, *, stopped: bool) -> bool:
    """Notes how a point ended; whether that is its end."""
    if status == 0 and point.result() is not None:
        return True
    if status == Interrupted.status or (stopped and status < 0):
        if pruned:
            point.mark("pruned")
        return pruned
    killed = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    point.fail(killed, point.log())
    return True
