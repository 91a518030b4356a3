"""A run's log (metrics.jsonl, TensorBoard), the interface of callbacks, and their caller."""

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tensorboardX
import tqdm

from inception import UserError
from inception.data import paths, sources
from inception.runtime import checkpoint, processes
from inception.step import TrainState

FREQUENT = ("train", "norms")  # kinds of lines that only the page reads
INPUTS = {  # what a run begins with, and must find again -> the error otherwise
    "images": "`data`: the training set has {now} images and had {before}",
    "listing": "`data`: the training set has other file names or labels than",
    "teachers": "`distill.teacher` has other weights than",
}
UPLOAD_S = 60.0  # between rewrites of a bucket's file, which cannot grow, for FREQUENT lines


def read_metrics(workdir: str) -> list[dict[str, Any]]:
    """Reads the lines of WORKDIR/metrics.jsonl."""
    return paths.read_lines(paths.at(workdir) / "metrics.jsonl")


def say(text: str) -> None:
    """Prints a line on stderr, above the progress bar; only process 0 does."""
    if processes.is_main():
        tqdm.tqdm.write(text, file=sys.stderr)


class Writer:
    """Appends to metrics.jsonl, one JSON object a line, and to TensorBoard's event file.

    Each line has 'kind' (start, train, norms, eval, warning, damaged) and 'step'. A resumed run
    drops the lines after the step at which it resumes. Only process 0 writes; all processes know
    the evaluations, image counts and damaged images of earlier starts.
    """

    def __init__(self, workdir: str, *, start_step: int):
        self._path = paths.at(workdir) / "metrics.jsonl"
        self._writes = processes.is_main()
        self.unwritten: list[str] = []  # warnings, unless this is process 0
        rows = read_metrics(workdir) if self._writes else []
        rows = [row for row in rows if row["step"] <= start_step]
        if self._writes:
            self._lines = [json.dumps(row) + "\n" for row in rows]
            paths.write_whole(self._path, "".join(self._lines))
            self._file = None if paths.in_bucket(workdir) else self._path.open("a")
            self._uploaded = time.monotonic()
            events = str(paths.at(workdir))
            self._events = tensorboardX.SummaryWriter(events, purge_step=start_step + 1)
        notes = json.dumps([row for row in rows if row["kind"] not in FREQUENT])
        notes = json.loads(processes.gather_text(notes)[0])
        self.evaluated = {row["step"] for row in notes if row["kind"] == "eval"}
        self._starts = [row for row in notes if row["kind"] == "start"]
        self.damaged = {row["image"] for row in notes if row["kind"] == "damaged"}

    def write(self, kind: str, step: int, **values: Any) -> None:
        if kind == "eval":
            self.evaluated.add(step)
        if not self._writes:
            return
        line = json.dumps({"kind": kind, "step": step, **values}) + "\n"
        if self._file:
            self._file.write(line)
            self._file.flush()
        else:
            self._lines.append(line)
            if kind not in FREQUENT or time.monotonic() - self._uploaded > UPLOAD_S:
                paths.write_whole(self._path, "".join(self._lines))
                self._uploaded = time.monotonic()
        for name, value in values.items():
            if isinstance(value, float):
                self._events.add_scalar(f"{kind}/{name}", value, step)
        self._events.flush()

    def warn(self, step: int, text: str) -> None:
        """Writes and prints a warning of this process; process 0 writes other processes' later."""
        if self._writes:
            self.write("warning", step, text=text)
            say(f"WARNING: {text}")
        else:
            self.unwritten.append(f"process {jax.process_index()}: {text}")
            print(f"WARNING: {self.unwritten[-1]}", file=sys.stderr, flush=True)

    def check_unchanged(self, **inputs: Any) -> None:
        """Raises UserError if an earlier start of the run had others of the `inputs`."""
        for start in self._starts:
            for name, now in inputs.items():
                if (before := start.get(name, now)) != now:  # older runs lack some names
                    what = INPUTS[name].format(now=now, before=before)
                    raise UserError(
                        f"{what} when this run began: restore it, or choose another `workdir`"
                    )

    def close(self) -> None:
        if not self._writes:
            return
        if self._file:
            self._file.close()
        else:
            paths.write_whole(self._path, "".join(self._lines))
        self._events.close()


class Steps(NamedTuple):
    """The length of a run, in steps."""

    start: int  # steps done before this start
    total: int
    per_epoch: float
    batch_size: int

    def period(self, epochs: float) -> int:
        """Converts epochs to steps, at least 1."""
        return max(1, round(epochs * self.per_epoch))

    def due(self, step: int, every_epochs: float) -> bool:
        """Whether `step` is a multiple of the period of `every_epochs`, or the last step."""
        return step == self.total or step % self.period(every_epochs) == 0


def open_log(
    workdir: str, steps: Steps, source: sources.Source, command: str, teachers: str = ""
) -> Writer:
    """Adds a start's line to metrics.jsonl; UserError for other classes or INPUTS than before."""
    processes.together(lambda: checkpoint.check_classes(workdir, source.classes))
    inputs = {"images": len(source), "listing": sources.listing(source), "teachers": teachers}
    writer = Writer(workdir, start_step=steps.start)
    writer.check_unchanged(**inputs)
    if processes.is_main():
        checkpoint.write_classes(workdir, source.classes)
    writer.write("start", steps.start, command=command, **inputs, **processes.environment())
    if steps.start:
        say(f"resuming at step {steps.start}")
    return writer


@dataclasses.dataclass(frozen=True)
class Window:
    """The steps since metrics were last fetched."""

    step: int  # number of steps done: the last one's number, counted from 1
    epoch: float
    metrics: dict[int, dict[str, np.ndarray]]  # scalars of each step, counted from 1
    images: int  # of the steps in `seconds`
    seconds: float  # of training, without evaluating, saving, and the first step, which compiles
    starved: float  # seconds without batch and work, in the process that waited longest
    damaged: list[str]  # lines about damaged images, from all processes

    @functools.cached_property
    def means(self) -> dict[str, float]:
        names, rows = self.metrics[self.step], self.metrics.values()
        return {name: float(np.mean([row[name] for row in rows])) for name in names}

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    @property
    def waiting_for_data(self) -> float:
        return self.starved / self.seconds


class Callback:
    """A periodic job of a run; a subclass overrides the methods that it needs.

    `step` is always the number of steps done. `before_step` is called only if `due` is true, and
    after all metrics were fetched and passed to `on_metrics` if `fetches` is.
    """

    fetches = True

    def due(self, step: int) -> bool:
        """Whether `before_step` should be called for the state after `step` steps."""
        del step
        return False

    def before_step(self, step: int, state: TrainState) -> None:
        """Uses the state after `step` steps, before the next one or at the end of the run."""

    def after_step(self, step: int) -> None:
        """Called after each step has started; the devices may still be computing it."""

    def on_wait(self, step: int, seconds: float) -> None:
        """Called repeatedly while waiting for the next batch, with the seconds so far."""

    def on_compile(self, seconds: float) -> None:
        """Called repeatedly while the step compiles, with the seconds so far."""

    def on_metrics(self, window: Window) -> None:
        """Called every `log_every` steps, before any callback's `before_step`, and at a stop."""

    def close(self) -> None:
        """Called at the end of the run, however it ends."""


class Callbacks:
    """Calls callbacks in order, and collects the steps' metrics for them on the devices."""

    def __init__(
        self, callbacks: Sequence[Callback], writer: Writer, steps: Steps, *, log_every: int
    ):
        self.steps = steps
        self._callbacks, self._writer = callbacks, writer
        self._log_every = log_every
        self._step = steps.start
        self._metrics: list[dict[str, jax.Array]] = []
        self._damaged: list[str] = []  # in this process, since the last fetch
        self._starved = 0.0
        self._untimed = 0  # steps since the last fetch that ended before `_since`
        self._since = time.monotonic()

    def before_step(self, step: int, state: TrainState) -> None:
        """Calls the callbacks that are due; their time does not count as training."""
        for callback in self._callbacks:
            if callback.due(step):
                if callback.fetches:
                    self.fetch()
                callback.before_step(step, state)
                self._since = time.monotonic()

    def after_step(
        self, metrics: dict[str, jax.Array], damaged: list[str], *, starved: float
    ) -> None:
        """Collects the metrics of one more step; fetches all if they are due.

        Args:
            damaged: lines about damaged images in this process's part of the batch.
            starved: seconds in which the devices had no work because the batch was late.
        """
        if self._step == self.steps.start:  # it compiled: the clock starts now
            jax.block_until_ready(metrics)
            self._since, self._untimed, starved = time.monotonic(), 1, 0.0
        self._metrics.append(metrics)
        self._damaged += damaged
        self._starved += starved
        self._step += 1
        for callback in self._callbacks:
            callback.after_step(self._step)
        if self._step % self._log_every == 0:
            self.fetch()

    def on_wait(self, seconds: float) -> None:
        for callback in self._callbacks:
            callback.on_wait(self._step, seconds)

    def on_compile(self, seconds: float) -> None:
        for callback in self._callbacks:
            callback.on_compile(seconds)

    def fetch(self) -> None:
        """Fetches the metrics since the last fetch, and passes them to all callbacks."""
        if not self._metrics:
            return
        note = {"damaged": self._damaged, "warnings": self._writer.unwritten}
        texts = processes.gather_text(json.dumps({**note, "starved": self._starved}))
        notes = [json.loads(text) for text in texts]
        for text in (text for note in notes for text in note["warnings"]):
            self._writer.write("warning", self._step, text=text)
        self._writer.unwritten.clear()
        first = self._step - len(self._metrics) + 1
        metrics = dict(enumerate(jax.device_get(self._metrics), first))
        seconds = time.monotonic() - self._since
        window = Window(
            self._step,
            self._step / self.steps.per_epoch,
            metrics,
            images=(len(metrics) - self._untimed) * self.steps.batch_size,
            seconds=seconds,
            starved=min(seconds, max(note["starved"] for note in notes)),
            damaged=[line for note in notes for line in note["damaged"]],
        )
        self._metrics, self._damaged, self._starved, self._untimed = [], [], 0.0, 0
        for callback in self._callbacks:
            callback.on_metrics(window)
        self._since = time.monotonic()

    def close(self) -> None:
        for callback in self._callbacks:
            callback.close()
