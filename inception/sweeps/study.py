"""A study: many runs of one experiment, each in its own folder, and the progress of each."""

import contextlib
import dataclasses
import json
import math
import pathlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inception import UserError
from inception.config import STARTED_AS
from inception.data import paths
from inception.reporting.markup import number

WRITTEN = ("study.html", "study.csv", "optuna.log", "jobs", "hparams")  # only after study.json
STATES = ("running", "waiting", "stopped", "failed", "pruned", "finished")


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a study.

    Attributes:
        knobs: {knob: value}, the values that this point changes.
        workdir: STUDY/number.
        command: the arguments of `python launch.py`.
    """

    number: int
    knobs: dict[str, Any]
    workdir: str
    command: tuple[str, ...]

    @property
    def folder(self) -> pathlib.Path:
        return pathlib.Path(self.workdir)

    def result(self) -> dict[str, Any] | None:
        """The run's result, written at its end; None before."""
        return _read_json(self.folder / "result.json")

    def in_use(self) -> bool:
        """Whether a run uses the folder, such as one that saves after its sweep was killed."""
        return paths.is_locked(self.folder / "lock")

    def log(self) -> pathlib.Path:
        """The file that takes the run's output; creates its folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / "log.txt"

    def mark(self, name: str, text: str = "") -> None:
        """Writes the file 'failed', 'pruned' or 'job' with `text`: a reason, or the job's id."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text + "\n", **paths.UTF8)

    def unmark(self) -> None:
        """Removes the mark of a failure before the run starts again."""
        (self.folder / "failed").unlink(missing_ok=True)

    def fail(self, why: str, log: pathlib.Path) -> None:
        """Marks a failure with launch.py's error line if the log ends with one, else with `why`."""
        printed = paths.read_text(log).strip() if log.exists() else ""
        last = (printed.splitlines() or [""])[-1].strip()
        self.mark("failed", last if last.startswith("launch.py ") else f"{why}; see {log}")


class Grid:
    """A study whose points are known beforehand, with the methods of `search.Search`."""

    def __init__(self, folder: str, points: Sequence[Point]):
        self.folder = folder
        self._points = points

    def points(self) -> Iterator[Point]:
        """The points without a result."""
        return iter([p for p in self._points if p.result() is None])

    def prune(self, _point: Point) -> bool:
        return False

    def ended(self, _point: Point) -> None:
        pass

    def rows(self, states: Mapping[int, str] | None = None) -> list[dict[str, Any]]:
        """`row` of every point; `states` by point number, if a scheduler knows them."""
        return [row(p, state=(states or {}).get(p.number, "")) for p in self._points]


def _read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(paths.read_text(path))
    except (OSError, json.JSONDecodeError):
        return None


def create(folder: str, definition: dict[str, Any]) -> None:
    """Writes STUDY/study.json, or checks that it defines the same study.

    Args:
        definition: JSON of what must not change: the experiment, its points or its space.

    Raises:
        UserError: the folder contains another study, a run, or files without a study.
    """
    path = pathlib.Path(folder) / "study.json"
    definition = json.loads(json.dumps(definition))
    if (path.parent / "config.json").exists():
        raise UserError(f"`workdir`={folder} is a run, not a study: choose another `workdir`")
    if not path.exists() and (path.parent / "0" / "config.json").exists():
        raise UserError(f"`workdir`={folder} has runs but no study.json: choose another `workdir`")
    if not path.exists() and (others := [n for n in WRITTEN if path.with_name(n).exists()]):
        names = ", ".join(others)
        raise UserError(f"`workdir`={folder} has {names}, no study.json: choose another `workdir`")
    with paths.explained(f"`workdir`={folder} cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+", **paths.UTF8) as file:
            paths.lock(file, path, wait=True)  # of several that start at once, one writes the file
            file.seek(0)
            if not (text := file.read()):
                file.write(text := json.dumps(definition, indent=2) + "\n")
    with paths.explained(f"{path} is damaged", "choose another `workdir`", ValueError):
        stored = json.loads(text)
    if stored != definition:
        for one in (stored, definition):
            one |= {f"points[{i}]": knobs for i, knobs in enumerate(one.pop("points", []))}
        key = next(k for k in {**definition, **stored} if stored.get(k) != definition.get(k))
        was, now = (one.get(key, "nothing") for one in (stored, definition))
        raise UserError(
            f"`workdir`={folder} has another sweep: {key} is {was} there and {now} here. Choose "
            "another `workdir`"
        )


class InUse(UserError):
    """Another process works on the folder."""


@contextlib.contextmanager
def exclusive(folder: str) -> Iterator[None]:
    """Context manager: keeps other processes from working on the folder; InUse if one does."""
    path = pathlib.Path(folder) / "worker"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", **paths.UTF8) as file:
        try:
            paths.lock(file, path)
        except BlockingIOError as error:
            raise InUse(f"{folder} is in use by another process: wait or stop it") from error
        yield


def summary(knobs: dict[str, Any], workdir: str, result: Any = None) -> dict[str, Any]:
    """A point as the command's JSON lists it."""
    return {"overrides": knobs, "workdir": workdir, "result": result}


def _seconds_before_evaluations(metrics: list[dict[str, Any]], config: Any) -> Iterator[float]:
    """The seconds of training before each evaluation, from the rates of the steps until then."""
    seconds, step = 0.0, 0
    batch_size = config.get("optim", {}).get("batch_size", 0)
    for line in metrics:
        if line["kind"] == "eval":
            yield seconds
        elif line["kind"] == "train" and line["images_per_second"]:
            seconds += (line["step"] - step) * batch_size / line["images_per_second"]
            step = line["step"]


def row(point: Point, *, state: str = "") -> dict[str, Any]:
    """A point's progress, read from its files; `inception.sweeps.page.write` explains the keys.

    Args:
        state: 'running' or 'waiting', if a scheduler knows it.
    """
    metrics = paths.read_lines(paths.at(point.workdir) / "metrics.jsonl")
    config = _read_json(point.folder / "config.json") or {}
    epochs = float(config.get("optim", {}).get("epochs", math.nan))
    curve = [(r["epoch"], 100 * r["top1"]) for r in metrics if r["kind"] == "eval"]
    seconds = list(_seconds_before_evaluations(metrics, config))
    newest = next((r for r in reversed(metrics) if r["kind"] == "train"), None)
    images = next((r["images"] for r in metrics if r["kind"] == "start"), 0)
    epoch = newest["epoch"] if newest else 0.0
    result = point.result()
    error = ""
    if result:
        state, epoch = "finished", epochs
    elif (point.folder / "pruned").exists():
        state = "pruned"
    elif not state and (point.folder / "failed").exists():
        state, error = "failed", (point.folder / "failed").read_text().strip()
    elif not state:
        state = "stopped" if metrics else "waiting"
    own = f"--workdir={point.workdir}"
    command = [f"{own}-again" if word == own else word for word in point.command]
    if any(word.startswith("--minutes=") for word in command) and not math.isnan(epochs):
        command = [word for word in command if not word.startswith("--minutes=")]
        command.append(f"--config.optim.epochs={epochs}")
    left = None
    if state == "running" and newest and newest["images_per_second"]:
        optim = config.get("optim", {})
        of_epoch = max(images, optim.get("min_epoch_steps", 0) * optim.get("batch_size", 0))
        left = (epochs - epoch) * of_epoch / newest["images_per_second"]
    return {
        "number": point.number,
        "knobs": point.knobs,
        "state": state,
        "workdir": point.workdir,
        "epoch": epoch,
        "epochs": epochs,
        "best_top1": max((top1 for _, top1 in curve), default=None),
        "curve": curve,
        "seconds": seconds,
        "seconds_left": left,
        "error": error,
        "result": result,
        "command": f"{STARTED_AS} {shlex.join(command)}",
    }


def differing(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The knobs that differ between points: {name: its values}, None for a point without it."""
    names = dict.fromkeys(name for row in rows for name in row["knobs"])
    columns = {name: [row["knobs"].get(name) for row in rows] for name in names}

    def key(value: Any) -> Any:  # 1 is 1.0
        return str(value) if number(value) is None else number(value)

    return {name: values for name, values in columns.items() if len({*map(key, values)}) > 1}


def left(row: dict[str, Any]) -> str:
    """A running point's remaining time as text; '' if unknown."""
    seconds = number(row["seconds_left"])
    if seconds is None:
        return ""
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min"


def finished(row: dict[str, Any]) -> bool:
    """Whether a point has finished with a finite top-1."""
    return row["state"] == "finished" and number(row["best_top1"]) is not None


def counted(rows: Sequence[dict[str, Any]]) -> str:
    """The number of points in each state, as text."""
    states = [row["state"] for row in rows]
    counts = [f"{states.count(s)} {s}" for s in reversed(STATES) if s in states]
    return f"{len(rows)} points: {', '.join(counts)}"
