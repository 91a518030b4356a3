"""Runs what is left of a study, here or on a SLURM cluster, and shows how far it is."""

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from inception import Interrupted, UserError
from inception.launching import slurm
from inception.launching.jobs import Submit
from inception.sweeps import study, workers
from inception.sweeps.search import Search

POLL_S = 5.0


def run_here(
    folder: str, points: Sequence[study.Point], *, launch: Sequence[str], at_once: int
) -> None:
    """Trains the unfinished points on this machine."""
    running: set[int] = set()

    def rows() -> list[dict[str, Any]]:
        return [study.row(p, state="running" if p.number in running else "") for p in points]

    with study.alone(folder), study.Show(rows) as show:
        left = iter([p for p in points if p.result() is None])
        workers.run(left, launch, workers=at_once, running=running, show=show)


def search_here(search: Search, *, launch: Sequence[str], at_once: int) -> None:
    """Takes part in a search until its trials are done; others may do so too."""
    with study.Show(search.rows) as show:
        workers.run(
            search.points(),
            launch,
            workers=at_once,
            running=set(),
            prune=search.prune,
            ended=search.ended,
            show=show,
        )


def run_on_slurm(
    folder: str, points: Sequence[study.Point], *, launch: Sequence[str], submit: Submit
) -> None:
    """Submits the unfinished points that are not in the queue, and looks on until all have ended.

    Raises:
        Interrupted: by ctrl-C; the jobs go on, and the same call looks on again.
    """
    with study.alone(folder):
        left = [p for p in points if p.result() is None]
        queued = slurm.states(filter(None, (_job(p.workdir) for p in left)))
        new = [p for p in left if _job(p.workdir) not in queued]
        if new:
            for p in new:
                p.unmark()
            jobs = submit([[*launch, *p.command] for p in new], f"{folder}/slurm")
            for p, job in zip(new, jobs, strict=True):
                p.folder.mkdir(parents=True, exist_ok=True)
                (p.folder / "job").write_text(job + "\n")
        jobs = [_job(p.workdir) for p in left]

        def rows() -> list[dict[str, Any]]:
            now = slurm.states(jobs)
            return [study.row(p, state=now.get(_job(p.workdir), "")) for p in points]

        _look_on(rows, jobs)
        for p in left:
            if p.result() is None:
                log = slurm.log(f"{folder}/slurm", _job(p.workdir))
                p.fail("ended without a result", pathlib.Path(log))


def search_on_slurm(
    folder: str,
    search: Search,
    command: Sequence[str],
    *,
    at_once: int,
    submit: Submit,
) -> None:
    """Submits the workers of a search that are not in the queue, and looks on."""
    with study.alone(folder):
        file = pathlib.Path(folder) / "jobs"
        known = file.read_text().split() if file.exists() else []
        jobs = list(slurm.states(known))
        wanted = min(at_once, search.missing) - len(jobs)
        if wanted > 0:
            jobs += submit([command] * wanted, f"{folder}/slurm")
            file.write_text("\n".join(jobs) + "\n")
        _look_on(search.rows, jobs)
    if search.missing:
        raise UserError(
            f"{search.missing} trials are missing, and no worker is left: see the logs in "
            f"{folder}/slurm; the same command goes on"
        )


def _look_on(rows: Callable[[], list[dict[str, Any]]], jobs: Sequence[str]) -> None:
    """Shows the rows until none of the jobs is in the queue."""
    try:
        with study.Show(rows) as show:
            while slurm.states(jobs):
                show()
                time.sleep(POLL_S)
    except KeyboardInterrupt as error:
        raise Interrupted(
            "the jobs go on; the same command looks on again. Cancel them with: scancel "
            + " ".join(sorted({job.split("_")[0] for job in jobs}))
        ) from error


def _job(workdir: str) -> str:
    file = pathlib.Path(workdir) / "job"
    return file.read_text().strip() if file.exists() else ""
