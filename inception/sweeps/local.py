"""The points of a study on this machine: several at once, each on its share of the cores."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from inception import Interrupted, UserError
from inception.data import paths
from inception.launching.local import Children
from inception.sweeps.live import Show
from inception.sweeps.study import Grid, Point, exclusive

if TYPE_CHECKING:
    from inception.sweeps.search import Search  # Optuna, which a grid does without

POLL_S = 0.5
LOOK_S = 2.0  # at a point's evaluations


def run(study: "Grid | Search", *, launch: Sequence[str], workers: int) -> None:
    """Trains what is left of a study as processes of their own, and shows how far they are.

    What a point prints goes to WORKDIR/log.txt. A point that fails is marked so, and the others
    continue. `Children` says what ctrl-C does; the points save what they have.

    Args:
        launch: the command before a point's own: python launch.py.
        workers: how many points at once; they share the cores evenly.

    Raises:
        Interrupted: stopped from outside; the same call continues.
        UserError: more workers than cores.
    """
    shares = core_shares(workers)
    running: dict[int, str] = {}
    # Workers of a search lock their trials alone.
    lock = exclusive(study.folder) if isinstance(study, Grid) else contextlib.nullcontext()
    with lock, Children() as children, Show(lambda: study.rows(running)) as show:
        points = study.points()

        def work(cores: set[int]) -> Iterator[bool]:
            """One worker's points, one after the other; yields while it has to wait."""
            while not children.signals and (point := next(points, None)):
                if point.in_use():
                    print(f"{point.workdir} is in use: waiting for its end", file=sys.stderr)
                while point.in_use() and not children.signals:
                    yield True
                if children.signals:
                    return
                point.unmark()
                with open(point.log(), "a", **paths.UTF8) as log:
                    command = [*launch, *point.command]
                    child = children.start(command, cores=cores, stdout=log, stderr=log)
                running[point.number] = "running"
                pruned, looked = False, time.monotonic()
                while child.poll() is None:
                    if not pruned and time.monotonic() > looked + LOOK_S:
                        looked = time.monotonic()
                        if pruned := study.prune(point):
                            child.terminate()
                    yield True
                del running[point.number]
                stopped = child.returncode == Interrupted.status
                stopped |= bool(children.signals) and child.returncode < 0
                if stopped and pruned:
                    point.mark("pruned")
                elif not stopped:
                    _note_failure(point, child.returncode)
                if pruned or not stopped:
                    study.ended(point)

        waiting = [work(cores) for cores in shares]
        while waiting := [worker for worker in waiting if next(worker, False)]:
            show()
            time.sleep(POLL_S)
    if children.signals:
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


def _note_failure(point: Point, status: int) -> None:
    """Of a run that was not stopped: it has failed, unless it has given its result."""
    if status != 0 or point.result() is None:
        killed = status < 0
        why = f"killed by {signal.Signals(-status).name}" if killed else f"exit status {status}"
        point.fail(why, point.log())
