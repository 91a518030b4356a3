"""A study from its plan to its page: what `launch.py sweep` does."""

import contextlib
import functools
import pathlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from inception import UserError
from inception.config import STARTED_AS, CommandLineError
from inception.data import paths
from inception.launching.local import LAUNCH
from inception.sweeps import plan, study


def sweep(
    config: str,
    overrides: list[str],
    workdir: str,
    *,
    name: str = "",
    trials: int | None = None,
    minutes: float | None = None,
    workers: int | None = None,
    launcher: str = "local",
    dry_run: bool = False,
    resources: Mapping[str, Any],
    worker_command: Sequence[str],
) -> dict[str, Any]:
    """Trains the points of sweep() that have no result yet, or searches space() for the best.

    Args:
        config, overrides, workdir, name: the fields of `plan.Plan`.
        trials: the trials of a search; None: a sweep.
        minutes: the time of each point's training, by `train --minutes`; None: its epochs.
        workers: points at a time; local ones share the cores. None: 1, for a SLURM sweep 256.
        launcher: local, slurm or sky.
        resources: the arguments of `slurm.resources` or `sky.task`.
        worker_command: the arguments of `python launch.py` in another worker of the search.

    Returns:
        {'points': [{'overrides', 'workdir', 'result'}]}, and 'page' and 'csv', or on sky 'jobs'.

    Raises:
        CommandLineError: a faulty sweep, or flags that exclude each other.
        UserError: the launcher or the folder is unusable, or points failed.
    """
    if "://" not in workdir:
        workdir = str(pathlib.Path(workdir).expanduser())
    elif launcher != "sky":
        raise CommandLineError(f"--workdir={workdir}: a study must be on a disk, but for --on=sky")
    planned = plan.Plan(config, overrides, workdir, name, minutes)
    if trials:
        space = planned.space()
        if launcher == "sky":
            raise CommandLineError("--search is for --on=local and --on=slurm")
        if dry_run:
            raise CommandLineError("--dry_run: a search chooses its points while it runs")
    else:
        points = planned.points()
        if launcher == "sky":
            return _submit_to_sky(points, dry_run=dry_run, resources=resources)
        if dry_run:
            for p in points:
                print(f"{STARTED_AS} {shlex.join(p.command)}")
            return {"points": [study.summary(p.knobs, p.workdir) for p in points]}
    run = _runner(workers, launcher, resources, worker_command)
    return _train(planned.search(space, trials) if trials else planned.grid(points), run)


def _runner(
    workers: int | None, launcher: str, resources: Mapping[str, Any], worker: Sequence[str]
) -> Callable[[Any], None]:
    """Returns what trains a study; UserError, before a folder is made, if the launcher fails."""
    if launcher == "local":
        from inception.sweeps import local  # slow to import, and not needed for a plan

        local.core_shares(workers or 1)
        return functools.partial(local.run, launch=LAUNCH, workers=workers or 1)
    from inception.launching import slurm
    from inception.sweeps import cluster

    asked = slurm.resources(**resources)
    return functools.partial(
        cluster.run, launch=LAUNCH, worker=worker, workers=workers, resources=asked
    )


def _submit_to_sky(
    points: Sequence[study.Point], *, dry_run: bool, resources: Mapping[str, Any]
) -> dict[str, Any]:
    """Submits the unfinished points as managed jobs, except points whose job still runs."""
    from inception.launching import sky

    left = [p for p in points if not (paths.at(p.workdir) / "result.json").exists()]
    tasks = sky.tasks([(p.command, p.workdir) for p in left], dry_run=dry_run, **resources)
    files = [paths.at(p.workdir) / "job" for p in left if not dry_run]
    known = [file.read_text().split() if file.exists() else [] for file in files]
    alive = sky.alive(int(job) for ids in known for job in ids)
    submitted: list[int] = []
    for task, file, ids in zip(tasks, files, known, strict=False):
        running = [int(job) for job in ids if alive.get(int(job)) == task["name"]]
        if running:
            print(f"{task['name']}: job {running[0]} still runs", file=sys.stderr)
        else:
            running = sky.submit(task)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{job}\n" for job in running))
        submitted += running
    return {"points": [study.summary(p.knobs, p.workdir) for p in left], "jobs": submitted}


def _train(opened: Any, run: Callable[[Any], None]) -> dict[str, Any]:
    """Runs a study (Grid or Search), and writes its pages even after an error."""
    folder, pages = opened.folder, {}
    try:
        run(opened)
    finally:
        from inception.sweeps import hparams, page

        rows = opened.rows()
        with contextlib.suppress(study.InUse), study.exclusive(folder):  # another writes them
            pages = page.write(folder, rows, name=pathlib.Path(folder).name)
            hparams.write_hparams(folder, rows)
            print(f"page: {pages['page']}, table: {pages['csv']}", file=sys.stderr)
    failed = [r for r in rows if r["state"] == "failed"]
    for r in failed:
        print(f"[{r['number']}] {r['workdir']}: {r['error']}", file=sys.stderr)
    if failed and (isinstance(opened, study.Grid) or len(failed) == len(rows)):
        raise UserError(f"{len(failed)} of {len(rows)} failed: the same command runs these again")
    points = [study.summary(r["knobs"], r["workdir"], r["result"]) for r in rows]
    return {"points": points, **pages}
