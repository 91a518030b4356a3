"""A study from its plan to its page: what `launch.py sweep` does."""

import contextlib
import functools
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from inception import UserError
from inception.config import CommandLineError, flat, load_config
from inception.data import paths
from inception.launching import jobs
from inception.launching.jobs import LAUNCH
from inception.sweeps import plan, study


def sweep(
    config: str,
    overrides: list[str],
    workdir: str,
    *,
    name: str = "",
    trials: int | None = None,
    at_once: int | None = None,
    on: str = "local",
    dry_run: bool = False,
    asked: Mapping[str, Any],
    again: Sequence[str],
) -> dict[str, Any]:
    """Trains the points of sweep() that have no result yet, or searches space() for the best.

    Args:
        overrides: flags --config.any.knob=VALUE, for all points.
        workdir: of the study.
        name: of sweep_NAME() or space_NAME().
        trials: of a search; None: a sweep.
        at_once: how many points; here they share the cores. None: 1, on SLURM all.
        on: local, slurm or sky.
        asked: what `jobs.slurm_submitter` or `jobs.sky_tasks` takes.
        again: what follows `python launch.py` in another worker of the same search.

    Returns:
        {'points': [{'overrides', 'workdir', 'result'}]}, and 'page' and 'csv', or on sky 'jobs'.

    Raises:
        CommandLineError: what is wrong in the sweep, or does not go together.
        UserError: the place or the folder will not do, or points failed.
    """
    if "://" not in workdir:
        workdir = str(pathlib.Path(workdir).expanduser())
    elif on != "sky":
        raise CommandLineError(f"--workdir={workdir}: a study lies on a disk; runs alone may not")
    experiment: dict[str, Any] = {"config": config, "overrides": overrides, "workdir": workdir}
    if trials:
        space = plan.space(config, overrides, name=name, check=lambda _: None)
        kind: dict[str, Any] = {"space": {knob: str(values) for knob, values in space.items()}}
        if on == "sky":
            raise CommandLineError("--search is for --on=local and --on=slurm")
        if dry_run:
            raise CommandLineError("--dry_run: what a search runs is chosen as it goes")
    else:
        points = plan.points(**experiment, name=name, check=lambda _: None)
        kind = {"points": [p.knobs for p in points]}
        if on == "sky":
            return _submit_to_sky(points, dry_run=dry_run, asked=asked)
        if dry_run:
            for p in points:
                print(f"python launch.py {shlex.join(p.command)}")
            return {"points": [_told(p.knobs, p.workdir) for p in points]}

    from inception.sweeps import run, workers  # heavier: not for a plan

    submit = None
    if on == "slurm":
        submit = jobs.slurm_submitter("sweep", at_once=at_once, one_task=bool(trials), **asked)
    else:
        workers.check(at_once or 1)
    knobs = flat(load_config(config, overrides))
    study.create(
        workdir, {k: v for k, v in knobs.items() if not k.startswith("config.run.")} | kind
    )
    if trials:
        from inception.sweeps.search import Search

        make = functools.partial(plan.point, **experiment)
        search = Search(workdir, space, trials=trials, point=make)
    try:
        if trials and submit:
            command = [*LAUNCH, *again]
            run.search_on_slurm(workdir, search, command, at_once=at_once or 1, submit=submit)
        elif trials:
            run.search_here(search, launch=LAUNCH, at_once=at_once or 1)
        elif submit:
            run.run_on_slurm(workdir, points, launch=LAUNCH, submit=submit)
        else:
            run.run_here(workdir, points, launch=LAUNCH, at_once=at_once or 1)
    finally:
        rows = search.rows() if trials else [study.row(p) for p in points]
        pages = _write_pages(workdir, rows)
    failed = [r for r in rows if r["state"] == "failed"]
    for r in failed:
        print(f"[{r['number']}] {r['workdir']}: {r['error']}", file=sys.stderr)
    if failed and (not trials or len(failed) == len(rows)):
        raise UserError(f"{len(failed)} of {len(rows)} failed: the same command runs these again")
    return {"points": [_told(r["knobs"], r["workdir"], r["result"]) for r in rows], **pages}


def _told(knobs: dict[str, Any], workdir: str, result: Any = None) -> dict[str, Any]:
    return {"overrides": knobs, "workdir": workdir, "result": result}


def _submit_to_sky(
    points: Sequence[study.Point], *, dry_run: bool, asked: Mapping[str, Any]
) -> dict[str, Any]:
    """The unfinished points as managed jobs, but those whose job goes on; nobody watches here."""
    from inception.launching import sky

    left = [p for p in points if not (paths.at(p.workdir) / "result.json").exists()]
    tasks = jobs.sky_tasks([(p.command, p.workdir) for p in left], dry_run=dry_run, **asked)
    files = [paths.at(p.workdir) / "job" for p in left if not dry_run]
    known = [file.read_text().split() if file.exists() else [] for file in files]
    alive = sky.alive(int(job) for ids in known for job in ids)
    submitted: list[int] = []
    for task, file, ids in zip(tasks, files, known, strict=False):
        going_on = [int(job) for job in ids if alive.get(int(job)) == task["name"]]
        if going_on:
            print(f"{task['name']}: job {going_on[0]} goes on", file=sys.stderr)
        else:
            going_on = sky.submit(task)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{job}\n" for job in going_on))
        submitted += going_on
    return {"points": [_told(p.knobs, p.workdir) for p in left], "jobs": submitted}


def _write_pages(workdir: str, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The study's page, table and HParams; nothing where another process writes them."""
    from inception.sweeps import hparams, page

    with contextlib.suppress(study.InUse), study.alone(workdir):
        pages = page.write(workdir, rows, name=pathlib.Path(workdir).name)
        hparams.write_hparams(workdir, rows)
        print(f"page: {pages['page']}, table: {pages['csv']}", file=sys.stderr)
        return pages
    return {}
