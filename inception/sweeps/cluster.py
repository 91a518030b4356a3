"""A study on a SLURM cluster: jobs, which are watched until they end."""

import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inception import Interrupted, UserError
from inception.launching import slurm
from inception.sweeps.live import Show
from inception.sweeps.study import Grid, Point, exclusive

if TYPE_CHECKING:
    from inception.sweeps.search import Search  # Optuna, which a grid does without

POLL_S = 5.0


def run(
    study: "Grid | Search",
    *,
    launch: Sequence[str],
    worker: Sequence[str],
    workers: int | None,
    resources: Mapping[str, Any],
) -> None:
    """Submits what is left of a study and not in the queue, and watches until all has ended.

    Args:
        launch: the command before a point's own, or before `worker`, one worker of a search.
        workers: how many jobs at a time; None: of a grid all, of a search one.
        resources: of `slurm.submit`.

    Raises:
        Interrupted: by ctrl-C; the jobs continue, and the same call watches them again.
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
            "the same command goes on"
        )


def _watch(study: "Grid | Search", jobs: Mapping[str, int]) -> None:
    """Shows the study until none of the jobs, each of a point of this number, is in the queue."""
    states: dict[str, str] = {}
    try:
        with Show(lambda: study.rows({jobs[job]: s for job, s in states.items()})) as show:
            while states := slurm.states(jobs):
                show()
                time.sleep(POLL_S)
    except KeyboardInterrupt as error:
        raise Interrupted(
            "the jobs go on; the same command looks on again. Cancel them with: "
            + slurm.cancel(jobs)
        ) from error


def _job(point: Point) -> str:
    file = point.folder / "job"
    return file.read_text().strip() if file.exists() else ""
