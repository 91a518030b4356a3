"""The callbacks of a run: each does one periodic job."""

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

STALL_S = 60.0  # a longer wait for a batch is a stall

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
    """Evaluates and saves, each with its own period in epochs, and at the end.

    A step is evaluated once, and its checkpoint stores the top-1. Only finite states are saved.
    """

    evaluator: Evaluator
    checkpoints: checkpoint.Checkpoints
    writer: Writer
    stop: processes.Stop
    steps: Steps
    eval_epochs: float
    checkpoint_epochs: float
    newest: Any = None  # the latest Evaluation

    def _evaluates(self, step: int) -> bool:
        new = step > 0 and step not in self.writer.evaluated
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
        except UserError:  # a damaged image must not cost training
            if jax.process_count() == 1:  # else the others are still evaluating
                self.evaluator.check_finite(state.raw_variables())
                self.checkpoints.save(step, state)
            raise
        epoch, found = step / self.steps.per_epoch, self.newest.metrics()
        if step not in self.writer.evaluated:
            self.writer.write("eval", step, epoch=epoch, **found)
        say(
            f"step {step}, epoch {epoch:.1f}: top-1 {found['top1']:.2%}, "
            f"top-5 {found['top5']:.2%}, loss {found['loss']:.4f} on {found['count']} images"
        )


@dataclasses.dataclass
class WriteMetrics(Callback):
    """Writes each window's means, and sums images and seconds, without compiling and evaluating."""

    writer: Writer
    schedule: Callable[[int], Any]
    images: int = 0
    seconds: float = 0.0
    starved: float = 0.0

    def on_metrics(self, window: Window) -> None:
        self.images += window.images
        self.seconds += window.seconds
        self.starved += window.starved
        values = {
            **window.means,
            "learning_rate": float(self.schedule(window.step - 1)),
            "images_per_second": window.images_per_second,
            "waiting_for_data": window.waiting_for_data,
        }
        self.writer.write("train", window.step, epoch=window.epoch, **values)

    def result(self) -> dict[str, float]:
        """Images per second, and the share of the time spent waiting for data; 0 without a step."""
        seconds = self.seconds or math.inf
        rate, share = self.images / seconds, self.starved / seconds
        return {"images_per_second": rate, "waiting_for_data": share}


def write_norms(writer: Writer, steps: Steps, every_steps: int) -> list[Callback]:
    """The callback that writes norms by module; none if `every_steps` is 0."""
    if not every_steps:
        return []
    from inception.reporting import norms

    return [norms.WriteNorms(writer, steps, every_steps)]


class ProgressBar(Callback):
    """The progress bar of process 0, on stderr."""

    def __init__(self, steps: Steps):
        hidden = not processes.is_main()
        self._bar = progress.bar(
            total=steps.total, initial=steps.start, unit="step", disable=hidden
        )

    def on_compile(self, seconds: float) -> None:
        self._bar.set_description_str(f"compiling {seconds:.0f} s", refresh=False)
        self._bar.update(0)  # draws at the bar's own pace

    def after_step(self, step: int) -> None:
        del step
        self._bar.set_description_str(refresh=False)
        self._bar.update()

    def on_metrics(self, window: Window) -> None:
        waiting = window.waiting_for_data
        self._bar.set_postfix_str(
            f"epoch {window.epoch:.2f}, loss {window.means['loss']:.3f}, "
            f"top-1 {window.means['top1']:.1%}, {window.images_per_second:.0f} images/s"
            + (f", {waiting:.0%} waiting for data" if waiting > 0.02 else ""),
            refresh=False,  # the bar refreshes at its own pace
        )

    def close(self) -> None:
        self._bar.close()


class NotFinite(Callback):
    """Ends the run if the loss or another metric is not finite."""

    def on_metrics(self, window: Window) -> None:
        for step, metrics in window.metrics.items():
            bad = [name for name in metrics if not math.isfinite(metrics[name])]
            if bad:
                raise UserError(
                    f"{', '.join(bad)} became {metrics[bad[0]]} at step {step - 1}: nothing was "
                    "saved after it. Lower `learning_rate`, or give it a longer `warmup_epochs`, "
                    "and start in a new `workdir`"
                )


@dataclasses.dataclass
class DamagedImages(Callback):
    """Reports each damaged image once, and ends the run if there are more than `most`."""

    writer: Writer
    most: float

    def on_metrics(self, window: Window) -> None:
        lines = self.writer.damaged  # of earlier starts too
        for line in window.damaged:
            if line not in lines:
                lines.add(line)
                self.writer.write("damaged", window.step, image=line)
                say(f"WARNING: damaged image {len(lines)}, skipped: {line}")
        if window.damaged and len(lines) > self.most:
            raise UserError(
                f"{len(lines)} damaged images are more than `max_damaged_share` allows "
                f"({self.most:g} of this set); the last: {window.damaged[-1]}. Mend or remove "
                "them, or raise the share"
            )


@dataclasses.dataclass
class Stalls(Callback):
    """Warns after STALL_S without a batch, then at growing intervals until one comes."""

    writer: Writer
    limit: float = STALL_S

    def after_step(self, step: int) -> None:
        del step
        self.limit = STALL_S

    def on_wait(self, step: int, seconds: float) -> None:
        if seconds > self.limit:
            self.limit = 4 * seconds
            self.writer.warn(
                step,
                f"no batch for {seconds:.0f} s at step {step}: the disk or the network under "
                "config.data.path is slow or gone, or config.run.workers is too small",
            )


@dataclasses.dataclass
class DeadHeads(Callback):
    """Warns once of each head whose accuracy over an epoch is that of guessing.

    Args:
        patience_epochs: the number of epochs before any warning.
    """

    writer: Writer
    steps: Steps
    classes: int
    patience_epochs: float
    top1: dict[str, list[float]] = dataclasses.field(default_factory=dict)  # of this epoch's steps
    warned: set[str] = dataclasses.field(default_factory=set)

    def on_metrics(self, window: Window) -> None:
        for step, metrics in window.metrics.items():
            for name in (name for name in metrics if name.startswith("top1")):
                self.top1.setdefault(name, []).append(float(metrics[name]))
            if step % self.steps.per_epoch < 1:
                self._end_epoch(step, step / self.steps.per_epoch)

    def _end_epoch(self, step: int, epoch: float) -> None:
        chance = 1 / self.classes
        for name, values in self.top1.items():
            mean = float(np.mean(values))
            dead = mean < chance + DEAD_SHARE * (1 - chance)
            if dead and epoch >= self.patience_epochs and name not in self.warned:
                self.warned.add(name)
                head = name.removeprefix("top1_") if name != "top1" else "main"
                text = (
                    f"head {head} is still at chance after {epoch:.0f} epochs (accuracy "
                    f"{mean:.1%}, guessing gives {chance:.1%}). {DEAD_HEAD_CURES}"
                )
                self.writer.write("warning", step, text=text)
                say(f"\n*** WARNING: {text} ***\n")
        self.top1.clear()
