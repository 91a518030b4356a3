"""What happens now and then in a run: each callback one job."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from inception import UserError
from inception.data import progress
from inception.evaluation.evaluator import Evaluator
from inception.reporting.metrics import Callback, Steps, Window, Writer, say
from inception.runtime import checkpoint, processes
from inception.step import TrainState

STALL_S = 60.0  # without a batch for so long: a warning

# A head is at chance while its accuracy is less than this share of the way from guessing to 1.
DEAD_SHARE = 0.05
DEAD_HEAD_CURES = (
    "What cured it for others: config.model.initializer=he instead of xavier, half of "
    "config.optim.learning_rate (.01 -> .005 in NVIDIA/DIGITS#82), a longer "
    "config.optim.warmup_epochs, or config.model.norm=batch. Waiting did not help "
    "(BVLC/caffe#1598: 2.4 million iterations)"
)


@dataclasses.dataclass
class EvaluateAndSave(Callback):
    """Evaluates and saves, each every so many epochs and at the end.

    Each step is evaluated once; its checkpoint takes the top-1. Only what is finite is saved.
    """

    evaluator: Evaluator
    checkpoints: checkpoint.Checkpoints
    writer: Writer
    stop: processes.Stop
    steps: Steps
    eval_epochs: float
    checkpoint_epochs: float
    newest: Any = None  # the Evaluation

    def _evaluates(self, step: int) -> bool:
        new = step > 0 and not self.writer.is_evaluated(step)
        return step == self.steps.total or (new and self.steps.due(step, self.eval_epochs))

    def due(self, step: int) -> bool:
        saves = step > self.steps.start and self.steps.due(step, self.checkpoint_epochs)
        return saves or self._evaluates(step)

    def before_step(self, step: int, state: TrainState) -> None:
        top1 = None
        if self._evaluates(step):
            self._evaluate(step, state)
            top1 = self.newest.accuracy(1)
        if self.steps.due(step, self.checkpoint_epochs):
            self.evaluator.check_finite(state.raw_variables())
            self.checkpoints.save(step, state, top1=top1)

    def _evaluate(self, step: int, state: TrainState) -> None:
        try:
            self.newest = self.evaluator(state.eval_variables(), stop=self.stop)
        except UserError:  # a damaged image costs no training
            if jax.process_count() == 1:  # others would still be evaluating
                self.evaluator.check_finite(state.raw_variables())
                self.checkpoints.save(step, state)
            raise
        epoch, found = step / self.steps.per_epoch, self.newest.metrics()
        if not self.writer.is_evaluated(step):
            self.writer.write("eval", step, epoch=epoch, **found)
        say(
            f"step {step}, epoch {epoch:.1f}: top-1 {found['top1']:.2%}, "
            f"top-5 {found['top5']:.2%}, loss {found['loss']:.4f} on {found['count']} images"
        )


@dataclasses.dataclass
class WriteMetrics(Callback):
    """Writes the means over each window."""

    writer: Writer
    schedule: Callable[[int], Any]

    def on_metrics(self, window: Window) -> None:
        values = {
            **window.means,
            "learning_rate": float(self.schedule(window.step - 1)),
            "images_per_second": window.images_per_second,
            "waiting_for_data": window.waiting_for_data,
        }
        self.writer.write("train", window.step, epoch=window.epoch, **values)


@dataclasses.dataclass
class Throughput(Callback):
    """Adds up images and seconds since the start, compilation and evaluation apart."""

    images: int = 0
    seconds: float = 0.0
    starved: float = 0.0

    def on_metrics(self, window: Window) -> None:
        self.images += window.images
        self.seconds += window.seconds
        self.starved += min(window.starved, window.seconds)

    def result(self) -> dict[str, float]:
        """The rate, and the share of the time that devices waited for data; 0 without a step."""
        seconds = self.seconds or math.inf
        return {
            "images_per_second": self.images / seconds,
            "waiting_for_data": self.starved / seconds,
        }


class ProgressBar(Callback):
    """On stderr, of process 0."""

    def __init__(self, steps: Steps):
        hidden = not processes.is_main()
        self._bar = progress.bar(
            total=steps.total, initial=steps.start, unit="step", disable=hidden
        )

    def after_step(self, step: int) -> None:
        del step
        self._bar.update()

    def on_metrics(self, window: Window) -> None:
        waiting = window.waiting_for_data
        self._bar.set_postfix_str(
            f"epoch {window.epoch:.2f}, loss {window.means['loss']:.3f}, "
            f"top-1 {window.means['top1']:.1%}, {window.images_per_second:.0f} images/s"
            + (f", {waiting:.0%} waiting for data" if waiting > 0.02 else ""),
            refresh=False,  # the bar's own pace
        )

    def close(self) -> None:
        self._bar.close()


class NotFinite(Callback):
    """Ends the run at a loss or another metric that is not finite."""

    def on_metrics(self, window: Window) -> None:
        for step, metrics in window.metrics.items():
            bad = [name for name in metrics if not math.isfinite(metrics[name])]
            if bad:
                raise UserError(
                    f"{', '.join(bad)} became {metrics[bad[0]]} at step {step - 1}: nothing was "
                    "saved after it. Lower `learning_rate`, or give it a longer `warmup_epochs`, "
                    "and start in a new `workdir`"
                )


class DamagedImages(Callback):
    """Names each damaged image once, and ends the run at more than `most`."""

    def __init__(self, writer: Writer, most: float):
        self._writer = writer
        self._most = most
        self._lines = set(writer.damaged)  # of earlier starts too

    @property
    def count(self) -> int:
        return len(self._lines)

    def on_metrics(self, window: Window) -> None:
        for line in window.damaged:
            if line not in self._lines:
                self._lines.add(line)
                self._writer.write("damaged", window.step, image=line)
                say(f"WARNING: damaged image {self.count}, skipped: {line}")
        if window.damaged and self.count > self._most:
            raise UserError(
                f"{self.count} damaged images are more than `max_damaged_share` allows "
                f"({self._most:g} of this set); the last: {window.damaged[-1]}. Mend or remove "
                "them, or raise the share"
            )


class Stalls(Callback):
    """Warns when no batch has come for STALL_S, and then ever more rarely."""

    def __init__(self, writer: Writer):
        self._writer = writer
        self._limit = STALL_S

    def after_step(self, step: int) -> None:
        del step
        self._limit = STALL_S

    def on_wait(self, step: int, seconds: float) -> None:
        if seconds > self._limit:
            self._limit = 4 * seconds
            self._writer.warn(
                step,
                f"no batch for {seconds:.0f} s at step {step}: the disk or the network under "
                "config.data.path is slow or gone, or config.run.workers too few",
            )


class DeadHeads(Callback):
    """Once an epoch, warns of heads whose accuracy over the epoch is that of guessing.

    Args:
        patience_epochs: no warning before so many epochs.
    """

    def __init__(self, writer: Writer, steps: Steps, classes: int, patience_epochs: float):
        self._writer = writer
        self._chance = 1 / classes
        self._steps_per_epoch = steps.per_epoch
        self._patience_steps = patience_epochs * steps.per_epoch
        self._accuracies: list[dict[str, float]] = []  # of the epoch's steps, by head
        self._warned: set[str] = set()

    def on_metrics(self, window: Window) -> None:
        for step, metrics in window.metrics.items():
            top1 = {name: float(metrics[name]) for name in metrics if "top1" in name}
            self._accuracies.append(top1)
            if step % self._steps_per_epoch < 1:
                if step >= self._patience_steps:
                    self._warn(step)
                self._accuracies = []

    def _warn(self, step: int) -> None:
        limit = self._chance + DEAD_SHARE * (1 - self._chance)
        for name in self._accuracies[0].keys() - self._warned:
            mean = float(np.mean([row[name] for row in self._accuracies]))
            if mean < limit:
                self._warned.add(name)
                head = name.removeprefix("top1").strip("_") or "main"
                text = (
                    f"head {head} is still at chance after {step / self._steps_per_epoch:.0f} "
                    f"epochs (accuracy {mean:.1%}, guessing gives {self._chance:.1%}). "
                    f"{DEAD_HEAD_CURES}"
                )
                self._writer.write("warning", step, text=text)
                say(f"\n*** WARNING: {text} ***\n")
