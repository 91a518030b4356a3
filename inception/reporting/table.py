"""Reads the folders of runs; writes many runs as a CSV table, one line for each recipe."""

import csv
import io
import json
import pathlib
import re
import shlex
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from inception import UserError
from inception.config import STARTED_AS
from inception.data import paths
from inception.reporting import metrics

# Flags of `train` that do not change the result; and the seeds, which differ within a recipe.
NOT_OF_THE_RECIPE = re.compile(
    r"--(workdir|json|on|processes|restarts|coordinator_address|num_processes|process_id"
    r"|initialization_timeout|config\.seed|config\.data\.seed)(=|$)|--(no)?config\.run\."
)


class Run:
    """The contents of a workdir, read once.

    Attributes:
        config: as in config.json, without knobs that were added later.
        result: the content of eval.json; None before the run is finished.
    """

    def __init__(self, workdir: str):
        path = paths.at(workdir)
        if not (path / "config.json").exists():
            raise UserError(f"{workdir} is not a run: it has no config.json")
        self.workdir = workdir
        self.name = path.resolve().name
        self.config = json.loads((path / "config.json").read_text())
        self.metrics = metrics.read_metrics(workdir)
        result = path / "eval.json"
        self.result: Any = json.loads(result.read_text()) if result.exists() else None

    def kind(self, kind: str) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl of one kind."""
        return [row for row in self.metrics if row["kind"] == kind]

    def series(self, kind: str, key: str) -> tuple[list[float], list[float]]:
        """The epochs and values of a key, from the lines of one kind that contain it."""
        rows = [row for row in self.kind(kind) if key in row]
        return [row["epoch"] for row in rows], [row[key] for row in rows]


def read_runs(folders: list[str]) -> list[Run]:
    """Reads the run of each folder; for a study, the run of every point that has begun."""
    return [Run(workdir) for folder in folders for workdir in _workdirs(folder)]


def _workdirs(folder: str) -> list[str]:
    path = paths.at(folder)
    if not (path / "study.json").exists():
        return [folder]
    points = [p for p in path.iterdir() if p.name.isdecimal() and (p / "config.json").exists()]
    if not points:
        raise UserError(f"{folder} is a study in which no point has begun")
    return [str(p) for p in sorted(points, key=lambda p: int(p.name))]


def to_csv(header: Sequence[str], lines: Iterable[Iterable[Any]]) -> str:
    """The text of a CSV file."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *lines])
    return out.getvalue()


def of_runs(runs: Sequence[Run]) -> str:
    """CSV, a line for each recipe; accuracies are means over its runs, in percent.

    Raises:
        UserError: a run that is not finished.
    """
    recipes: dict[str, list[Run]] = {}
    for run in runs:
        if run.result is None:
            raise UserError(f"{run.workdir} has no eval.json: it is not finished")
        recipes.setdefault(_recipe(run), []).append(run)
    lines = [_line(runs) for runs in recipes.values()]
    return to_csv(list(lines[0]), [line.values() for line in lines])


def _recipe(run: Run) -> str:
    """A key that is equal for runs that differ only in seeds, config.run and data.path."""
    config = {k: v for k, v in run.config.items() if k not in ("seed", "run")}
    config["data"] = {k: v for k, v in config["data"].items() if k not in ("seed", "path")}
    return json.dumps([config, run.result["classes"], run.result["count"]], sort_keys=True)


def _line(runs: Sequence[Run]) -> dict[str, Any]:
    """The line for the runs of one recipe, {column: value}."""
    starts = [start for run in runs for start in run.kind("start")]
    top1, top5 = ([100 - run.result[f"{key}_error"] for run in runs] for key in ("top1", "top5"))
    rates = [rate for run in runs for rate in run.series("train", "images_per_second")[1]]
    flags = _flags(runs[0])
    experiment = [flag.split("=")[1] for flag in flags if flag.startswith("--config=")]
    changes = [flag for flag in flags if not re.match(r"--config(=|\.data\.path=)", flag)]
    command = [*STARTED_AS.split(), "train", *flags, "--workdir=RUN"] if flags else []
    line = {
        "experiment": pathlib.Path(experiment[-1]).stem if experiment else "",
        "changes": " ".join(flag.removeprefix("--config.") for flag in changes),
        "runs": len(runs),
        "top1": statistics.mean(top1),
        "top1_std": statistics.stdev(top1) if len(runs) > 1 else "",
        "top1_low": min(top1),
        "top1_high": max(top1),
        "top5": statistics.mean(top5),
        "images": runs[0].result["count"],
        "epochs": float(runs[0].config["optim"]["epochs"]) if starts else "",
        "images_per_second": statistics.median(rates) if rates else "",
        "devices": ", ".join(dict.fromkeys(start["devices"] for start in starts)),
        "commit": ", ".join(dict.fromkeys(start["commit"] for start in starts)),
        "command": shlex.join(command),
    }
    return {name: f"{v:.2f}" if isinstance(v, float) else v for name, v in line.items()}


def _flags(run: Run) -> list[str]:
    """The flags that determine a run's result, without seeds; [] if its command is unknown.

    The folders in data.path, init_from and distill.teacher are left out.
    """
    commands = [start["command"] for start in run.kind("start") if start["command"]]
    words = shlex.split(commands[-1]) if commands else []
    words = words[words.index("train") + 1 :] if "train" in words else []
    flags: list[str] = []
    for word in words:
        if word.startswith("-"):
            flags.append(word)
        else:  # --config FILE
            flags[-1] += f"={word}"
    kept = [flag for flag in flags if not NOT_OF_THE_RECIPE.match(flag)]
    kept = [re.sub(r"^(--config\.data\.path)=.*", r"\1=DATA", flag) for flag in kept]
    # Of each folder its own name stays.
    named = r"^--config\.(init_from|distill\.teacher)="
    return [re.sub(r"(?<=[=,])[^,]*/(?=[^,])", "", f) if re.match(named, f) else f for f in kept]
