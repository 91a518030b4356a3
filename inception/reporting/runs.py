"""Runs as their folders hold them: config, metrics and result."""

import json
from typing import Any

from inception import UserError
from inception.data import paths
from inception.reporting import monitor


class Run:
    """What a workdir holds, read once.

    Attributes:
        config: as in config.json, without the knobs that came later.
        result: of eval.json; None before the run is finished.
    """

    def __init__(self, workdir: str):
        path = paths.at(workdir)
        if not (path / "config.json").exists():
            raise UserError(f"{workdir} is not a run: it has no config.json")
        self.workdir = workdir
        self.name = path.resolve().name
        self.config = json.loads((path / "config.json").read_text())
        self.metrics = monitor.read_metrics(workdir)
        result = path / "eval.json"
        self.result: Any = json.loads(result.read_text()) if result.exists() else None

    def kind(self, kind: str) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl of one kind."""
        return [row for row in self.metrics if row["kind"] == kind]

    def series(self, kind: str, key: str) -> tuple[list[float], list[float]]:
        """Epochs, and the values of a key, of the lines of one kind that have it."""
        rows = [row for row in self.kind(kind) if key in row]
        return [row["epoch"] for row in rows], [row[key] for row in rows]


def read_runs(folders: list[str]) -> list[Run]:
    """The run of each folder, or of every point of it where it is a study."""
    return [Run(workdir) for folder in folders for workdir in _workdirs(folder)]


def _workdirs(folder: str) -> list[str]:
    path = paths.at(folder)
    if not (path / "study.json").exists():
        return [folder]
    points = [p for p in path.iterdir() if p.name.isdecimal() and (p / "config.json").exists()]
    if not points:
        raise UserError(f"{folder} is a study of which no point has begun")
    return [str(p) for p in sorted(points, key=lambda p: int(p.name))]
