"""A study on a SLURM cluster: submits its jobs and watches them until they end."""

import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inception import Interrupted, UserError
from inception.launching import slurm
from inception.sweeps.live import Show
from inception.sweeps.study import Grid, Point, exclusive

if TYPE_CHECKING:
    from inception.sweeps.search import Search  # imports Optuna, which a grid does not need

POLL_S = 5.0


def run(
    study: "Grid | Search",
    *,
    launch: Sequence[str],
    worker: Sequence[str],
    workers: int | None,
    resources: Mapping[str, Any],
) -> None:
    """Submits the unfinished points that are not in the queue, and watches until all jobs end.

    Args:
        launch: `python launch.py`. A point's arguments follow, or `worker`, a search worker's.
        workers: the most jobs at a time; None: 256 of a grid, one of a search.
        resources: the arguments of `slurm.submit`.

    Raises:
        Interrupted: ctrl-C; the jobs continue, and the same call watches them again.
        UserError: trials of a search are missing, and no worker is left.
    """
    folder = f"{study.folder}/slurm"
    asked = {**resources, "folder": folder, "name": "sweep"}
    with exclusive(study.folder):
        if isinstance(study, Grid):
            left = list(study.points())
            queued = slurm.states(filter(None, map(_job, left)))
            if new := [p for p in left if _job(p) not in queued]:
                for p in new:
                    p.unmark()
                ids = slurm.submit(
                    [[*launch, *p.command] for p in new], at_once=workers or 256, **asked
                )
                for p, job in zip(new, ids, strict=True):
                    p.mark("job", job)
            _watch(study, {_job(p): p.number for p in left})
            for p in study.points():
                p.fail("ended without a result", pathlib.Path(slurm.log(folder, _job(p))))
            return
        file = pathlib.Path(study.folder) / "jobs"
        ids = list(slurm.states(file.read_text().split() if file.exists() else []))
        wanted = min(workers or 1, study.missing) - len(ids)
        if wanted > 0:
            ids += slurm.submit(
                [[*launch, *worker]] * wanted, **asked | {"nodes": 1, "tasks_per_node": 1}
            )
            file.write_text("\n".join(ids) + "\n")
        _watch(study, dict.fromkeys(ids, -1))
    if study.missing:
        raise UserError(
            f"{study.missing} trials are missing, and no worker is left: see the logs in {folder}; "
            "the same command resumes the search"
        )


def _watch(study: "Grid | Search", jobs: Mapping[str, int]) -> None:
    """Shows the study until no job is in the queue; `jobs` maps each job to its point's number."""
    states: dict[str, str] = {}
    try:
        with Show(lambda: study.rows({jobs[job]: s for job, s in states.items()})) as show:
            while states := slurm.states(jobs):
                show()
                time.sleep(POLL_S)
    except KeyboardInterrupt as error:
        raise Interrupted(
            "the jobs continue; the same command watches them again. Cancel them with: "
            + slurm.cancel(jobs)
        ) from error


def _job(point: Point) -> str:
    file = point.folder / "job"
    return file.read_text().strip() if file.exists() else ""
