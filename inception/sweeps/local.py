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
    from inception.sweeps.search import Search  # imports Optuna, which a grid does not need

POLL_S = 0.5
LOOK_S = 2.0  # seconds between looks at a point's evaluations


def run(study: "Grid | Search", *, launch: Sequence[str], workers: int) -> None:
    """Trains the unfinished points of a study, each in its own process, and shows their progress.

    A point's output goes to WORKDIR/log.txt. A point that fails is marked as failed, and the others
    continue. On ctrl-C `Children` signals the points, and they save their state.

    Args:
        launch: `python launch.py`; a point's arguments follow.
        workers: points at a time; they share the cores evenly.

    Raises:
        Interrupted: stopped from outside; the same call resumes.
        UserError: more workers than cores.
    """
    shares = core_shares(workers)
    running: dict[int, str] = {}
    # Workers of a search share the study and lock only their trials.
    lock = exclusive(study.folder) if isinstance(study, Grid) else contextlib.nullcontext()
    with lock, Children() as children, Show(lambda: study.rows(running)) as show:
        points = study.points()

        def work(cores: set[int]) -> Iterator[bool]:
            """One worker: trains points one after the other, and yields while it waits."""
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
        raise Interrupted("stopped: finished points stay, the same command resumes the others")


def core_shares(workers: int) -> list[set[int]]:
    """The cores of each worker; UserError if there are fewer cores than workers."""
    if sys.platform != "linux":
        cores = list(range(os.cpu_count() or 1))
    else:
        cores = sorted(os.sched_getaffinity(0))
    if workers > len(cores):
        raise UserError(f"`workers`={workers}: there are {len(cores)} cores; give at most so many")
    each = len(cores) // workers
    return [set(cores[i * each : (i + 1) * each]) for i in range(workers)]


def _note_failure(point: Point, status: int) -> None:
    """Marks a run that was not stopped as failed, unless it ended with 0 and a result."""
    if status != 0 or point.result() is None:
        killed = status < 0
        why = f"killed by {signal.Signals(-status).name}" if killed else f"exit status {status}"
        point.fail(why, point.log())
