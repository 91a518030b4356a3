"""A study on a SLURM cluster: jobs, which are watched until they end."""

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from inception import Interrupted, UserError
from inception.launching import jobs, slurm
from inception.sweeps.live import Show
from inception.sweeps.study import Grid, Point, exclusive

if TYPE_CHECKING:
    from inception.sweeps.search import Search  # Optuna, which a grid does without

POLL_S = 5.0


def run_grid(grid: Grid, *, launch: Sequence[str], submit: jobs.Submit) -> None:
    """Submits the unfinished points that are not in the queue, and watches until all have ended.

    Raises:
        Interrupted: by ctrl-C; the jobs continue, and the same call watches them again.
    """
    folder = f"{grid.folder}/slurm"
    with grid.exclusive():
        left = list(grid.points())
        queued = slurm.states(filter(None, map(_job, left)))
        new = [p for p in left if _job(p) not in queued]
        if new:
            for p in new:
                p.unmark()
            ids = submit([[*launch, *p.command] for p in new], folder)
            for p, job in zip(new, ids, strict=True):
                p.mark("job", job)
        ids = [_job(p) for p in left]

        def rows() -> list[dict[str, Any]]:
            states = slurm.states(ids)
            return grid.rows({p.number: states.get(_job(p), "") for p in left})

        _watch(rows, ids)
        for p in grid.points():
            log = slurm.log(folder, _job(p))
            p.fail("ended without a result", pathlib.Path(log))


def run_search(
    search: "Search", *, command: Sequence[str], workers: int, submit: jobs.Submit
) -> None:
    """Submits the workers of a search that are not in the queue, and watches them."""
    with exclusive(search.folder):
        file = pathlib.Path(search.folder) / "jobs"
        known = file.read_text().split() if file.exists() else []
        ids = list(slurm.states(known))
        wanted = min(workers, search.missing) - len(ids)
        if wanted > 0:
            ids += submit([command] * wanted, f"{search.folder}/slurm")
            file.write_text("\n".join(ids) + "\n")
        _watch(search.rows, ids)
    if search.missing:
        raise UserError(
            f"{search.missing} trials are missing, and no worker is left: see the logs in "
            f"{search.folder}/slurm; the same command goes on"
        )


def _watch(rows: Callable[[], list[dict[str, Any]]], ids: Sequence[str]) -> None:
    """Shows the rows until none of the jobs is in the queue."""
    try:
        with Show(rows) as show:
            while slurm.states(ids):
                show()
                time.sleep(POLL_S)
    except KeyboardInterrupt as error:
        raise Interrupted(
            "the jobs go on; the same command looks on again. Cancel them with: scancel "
            + " ".join(sorted({job.split("_")[0] for job in ids}))
        ) from error


def _job(point: Point) -> str:
    file = point.folder / "job"
    return file.read_text().strip() if file.exists() else ""
