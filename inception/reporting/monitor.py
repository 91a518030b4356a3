"""What is watched while a run goes on, and where it is written: metrics.jsonl, TensorBoard, bar."""

import json
import math
import sys
import time
from typing import Any

import jax
import numpy as np
import tensorboardX

from inception import UserError
from inception.data import paths, progress
from inception.runtime import processes

STALL_S = 60.0  # without a batch for so long: a warning
UPLOAD_S = 60.0  # a bucket's file cannot be appended to: it is written anew, not more often

# A head is at chance while its accuracy is less than this share of the way from guessing to 1.
DEAD_SHARE = 0.05
DEAD_HEAD_CURES = (
    "What cured it for others: config.model.initializer=he instead of xavier, half of "
    "config.optim.learning_rate (.01 -> .005 in NVIDIA/DIGITS#82), a longer "
    "config.optim.warmup_epochs, or config.model.norm=batch. Waiting did not help "
    "(BVLC/caffe#1598: 2.4 million iterations)"
)


def read_metrics(workdir: str) -> list[dict[str, Any]]:
    """The lines of WORKDIR/metrics.jsonl."""
    return paths.read_lines(paths.at(workdir) / "metrics.jsonl")


class Writer:
    """Appends to metrics.jsonl, one JSON object a line, and to TensorBoard's event file.

    Each line has 'kind' (start, train, eval, warning, damaged) and 'step'. A resumed run forgets
    what was written after the step at which it goes on. Process 0 alone writes; all know what
    was written before they began.
    """

    def __init__(self, workdir: str, *, start_step: int):
        self._path = paths.at(workdir) / "metrics.jsonl"
        self._writes = processes.is_main()
        self._local = not paths.in_bucket(workdir)
        known: dict[str, list[Any]] = {}
        if self._writes:
            kept = [row for row in read_metrics(workdir) if row["step"] <= start_step]
            self._lines = [json.dumps(row) + "\n" for row in kept]
            self._replace()
            self._file = self._path.open("a") if self._local else None
            self._uploaded = time.monotonic()
            self._events = tensorboardX.SummaryWriter(
                str(paths.at(workdir)), purge_step=start_step + 1
            )
            known = {
                "evaluated": [row["step"] for row in kept if row["kind"] == "eval"],
                "images": [row["images"] for row in kept if row["kind"] == "start"],
                "damaged": [row["image"] for row in kept if row["kind"] == "damaged"],
            }
        known = json.loads(processes.gather_text(json.dumps(known))[0])
        self._evaluated, self._images = set(known["evaluated"]), set(known["images"])
        self.damaged = set(known["damaged"])

    def _replace(self) -> None:
        paths.write_whole(self._path, "".join(self._lines))

    def write(self, kind: str, step: int, **values: Any) -> None:
        if kind == "eval":
            self._evaluated.add(step)
        if not self._writes:
            return
        line = json.dumps({"kind": kind, "step": step, **values}) + "\n"
        if self._file:
            self._file.write(line)
            self._file.flush()
        else:
            self._lines.append(line)
            if kind != "train" or time.monotonic() - self._uploaded > UPLOAD_S:
                self._replace()
                self._uploaded = time.monotonic()
        for name, value in values.items():
            if isinstance(value, float):
                self._events.add_scalar(f"{kind}/{name}", value, step)
        self._events.flush()

    def check_images(self, count: int) -> None:
        """Raises UserError where an earlier start of the run had another number of images."""
        for before in self._images - {count}:
            raise UserError(
                f"config.data: the training set has {count} images and had {before} when this run "
                "began: restore it, or choose another --workdir"
            )

    def is_evaluated(self, step: int) -> bool:
        return step in self._evaluated

    def close(self) -> None:
        if not self._writes:
            return
        if self._file:
            self._file.close()
        else:
            self._replace()
        self._events.close()


class Monitor:
    """Gathers the steps' metrics on the device, fetches them now and then, and looks at them.

    Raises UserError at a loss that is not finite, and at more damaged images than allowed; warns
    of a head that stays at chance.
    """

    def __init__(
        self,
        writer: Writer,
        *,
        schedule: Any,
        start_step: int,
        total_steps: int,
        steps_per_epoch: float,
        batch_size: int,
        classes: int,
        dead_head_epochs: float,
        max_damaged: float,
    ):
        self._writer = writer
        self._schedule = schedule
        self._steps_per_epoch = steps_per_epoch
        self._batch_size = batch_size
        self._chance = 1 / classes
        self._dead_head_steps = dead_head_epochs * steps_per_epoch
        self._max_damaged = max_damaged
        self._step = start_step
        self._pending: list[dict[str, jax.Array]] = []
        self._epoch_accuracies: list[dict[str, float]] = []
        self._warned: set[str] = set()
        self._damaged = set(writer.damaged)  # of earlier starts too
        self._met: list[str] = []  # damaged images met by this process, since the last flush
        self._stalls: list[str] = []  # likewise what it said of waiting for batches
        self._starved = self._starved_in_all = 0.0  # seconds: since the last flush, since the start
        self._stall_told = STALL_S
        self._started = time.monotonic()
        self._seconds = 0.0
        self._images = 0
        self._bar = progress.bar(
            total=total_steps,
            initial=start_step,
            unit="step",
            disable=not processes.is_main(),
        )

    def say(self, text: str) -> None:
        """A line that stays above the progress bar."""
        if processes.is_main():
            self._bar.write(text, file=sys.stderr)

    def restart_clock(self) -> None:
        """Call after what is not training, so that it does not count as such."""
        self._started = time.monotonic()

    def compiled(self) -> None:
        """Call after the first step: what passed until here was compilation."""
        self._starved = 0.0
        self.restart_clock()
        self._bar.unpause()  # the bar's time left starts here too

    def add(self, metrics: dict[str, jax.Array], damaged: list[str], *, starved: float) -> None:
        """Takes note of one more step, without waiting for its result.

        Args:
            damaged: images that this process met while making the batch.
            starved: seconds in which the devices had nothing to do for want of it.
        """
        self._pending.append(metrics)
        self._step += 1
        self._bar.update()
        self._met += damaged
        self._starved += starved
        self._stall_told = STALL_S

    def stalled(self, seconds: float) -> None:
        """Call while a batch is waited for; says so after STALL_S, and then ever more rarely."""
        if seconds > self._stall_told:
            self._stall_told = 4 * seconds
            text = (
                f"no batch for {seconds:.0f} s at step {self._step}: the disk or the network under "
                "config.data.path is slow or gone, or config.run.workers too few"
            )
            if processes.is_main():
                self._writer.write("warning", self._step, text=text)
                self.say(f"WARNING: {text}")
            else:
                self._stalls.append(f"process {jax.process_index()}: {text}")
                print(f"WARNING: {self._stalls[-1]}", file=sys.stderr, flush=True)

    def _gather(self) -> None:
        """What each process has met and waited for since the last time, for all to know."""
        mine = {"damaged": self._met, "stalls": self._stalls, "starved": self._starved}
        self._met, self._stalls = [], []
        told = [json.loads(text) for text in processes.gather_text(json.dumps(mine))]
        self._starved = max(one["starved"] for one in told)
        for text in (text for one in told for text in one["stalls"]):
            self._writer.write("warning", self._step, text=text)
        lines = [line for one in told for line in one["damaged"]]
        for line in lines:
            if line not in self._damaged:
                self._damaged.add(line)
                self._writer.write("damaged", self._step, image=line)
                self.say(f"WARNING: damaged image {len(self._damaged)}, skipped: {line}")
        if lines and len(self._damaged) > self._max_damaged:
            raise UserError(
                f"{len(self._damaged)} damaged images are more than "
                f"config.data.max_damaged_share allows ({self._max_damaged:g} of this set); "
                f"the last: {lines[-1]}. Mend or remove them, or raise the share"
            )

    def wants_evaluation(self, step: int) -> bool:
        """False at step 0 and where an earlier start of the run has evaluated already."""
        return step > 0 and not self._writer.is_evaluated(step)

    def evaluated(self, step: int, metrics: dict[str, float | int]) -> None:
        """Writes and says the result of an evaluation, once."""
        epoch = step / self._steps_per_epoch
        if self.wants_evaluation(step):
            self._writer.write("eval", step, epoch=epoch, **metrics)
        self.say(
            f"step {step}, epoch {epoch:.1f}: top-1 {metrics['top1']:.2%}, "
            f"top-5 {metrics['top5']:.2%}, loss {metrics['loss']:.4f} on {metrics['count']} images"
        )
        self.restart_clock()

    def flush(self) -> None:
        """Fetches, checks and writes the means over the steps since the last time."""
        if not self._pending:
            return
        self._gather()
        first = self._step - len(self._pending)
        steps = jax.device_get(self._pending)
        self._pending = []
        seconds = time.monotonic() - self._started
        images = len(steps) * self._batch_size
        self._seconds += seconds
        self._images += images
        for i, metrics in enumerate(steps):
            bad = [n for n in metrics if not math.isfinite(metrics[n])]
            if bad:
                raise UserError(
                    f"{', '.join(bad)} became {metrics[bad[0]]} at step {first + i}: nothing was "
                    "saved after it. Lower config.optim.learning_rate, or give it a longer "
                    "config.optim.warmup_epochs, and start in a new --workdir"
                )
        means = {n: float(np.mean([metrics[n] for metrics in steps])) for n in steps[0]}
        means["learning_rate"] = float(self._schedule(self._step - 1))
        means["images_per_second"] = images / seconds
        means["waiting_for_data"] = waiting = min(1.0, self._starved / seconds)
        self._starved_in_all += min(self._starved, seconds)
        self._starved = 0.0
        epoch = self._step / self._steps_per_epoch
        self._writer.write("train", self._step, epoch=epoch, **means)
        self._bar.set_postfix_str(
            f"epoch {epoch:.2f}, loss {means['loss']:.3f}, top-1 {means['top1']:.1%}, "
            f"{means['images_per_second']:.0f} images/s"
            + (f", {waiting:.0%} waiting for data" if waiting > 0.02 else ""),
            refresh=False,  # the bar's own pace
        )
        for i, metrics in enumerate(steps):
            self._watch_heads(first + i + 1, metrics)
        self.restart_clock()

    def _watch_heads(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        """Once an epoch, warns of heads whose accuracy over the epoch is that of guessing."""
        self._epoch_accuracies.append(
            {("main" if n == "top1" else n[5:]): float(metrics[n]) for n in metrics if "top1" in n}
        )
        if step % self._steps_per_epoch >= 1:
            return
        epoch, self._epoch_accuracies = self._epoch_accuracies, []
        if step < self._dead_head_steps:
            return
        means = {head: float(np.mean([row[head] for row in epoch])) for head in epoch[0]}
        limit = self._chance + DEAD_SHARE * (1 - self._chance)
        for head in means.keys() - self._warned:
            if means[head] < limit:
                self._warned.add(head)
                text = (
                    f"head {head} is still at chance after {step / self._steps_per_epoch:.0f} "
                    f"epochs (accuracy {means[head]:.1%}, guessing gives {self._chance:.1%}). "
                    f"{DEAD_HEAD_CURES}"
                )
                self._writer.write("warning", step, text=text)
                self.say(f"\n*** WARNING: {text} ***\n")

    def images_per_second(self) -> float:
        """Over the whole run since its start, compilation and evaluation apart; 0 if no step."""
        return self._images / self._seconds if self._seconds else 0.0

    def waiting_for_data(self) -> float:
        """Share of the training time in which the devices waited for data, 0-1."""
        return self._starved_in_all / self._seconds if self._seconds else 0.0

    def damaged(self) -> int:
        """How many damaged images were met since the start."""
        return len(self._damaged)

    def close(self) -> None:
        self._bar.close()
