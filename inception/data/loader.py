"""Batches as a function of (seed, step), sharded over processes, through Grain."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import grain
import numpy as np
from PIL import Image

from inception import UserError
from inception.data import images
from inception.data.sources import Source

Batch = dict[str, np.ndarray]


def epoch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """The order in which one epoch visits the examples: a permutation, int64 [examples]."""
    return np.random.default_rng((seed, 0, epoch)).permutation(examples)


_cached_order = functools.lru_cache(maxsize=4)(epoch_order)


def batch_indices(seed: int, step: int, batch_size: int, examples: int) -> np.ndarray:
    """Which examples make up global batch number `step`, int64 [batch_size].

    Batches are cut from epoch after epoch laid end to end: each example comes once an epoch,
    none is dropped, and a batch may straddle two epochs.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = np.divmod(positions, examples)
    return np.asarray(
        [_cached_order(seed, int(e), examples)[o] for e, o in zip(epochs, offsets, strict=True)]
    )


@dataclasses.dataclass(frozen=True)
class _Reader:
    """What training and evaluation share: a source, and how its records become examples."""

    source: Source
    classes: int
    max_megapixels: float
    batch_size: int
    process: int
    processes: int

    def read(self, index: int) -> tuple[Image.Image, int]:
        name = self.source.name(index)
        try:
            data, label = self.source[index]
        except OSError as error:
            raise images.DamagedImageError(f"{name}: {error.strerror or error}") from error
        if not 0 <= label < self.classes:
            raise UserError(
                f"{name}: label {label} is out of range for config.model.classes={self.classes}"
            )
        return images.decode(data, name, max_megapixels=self.max_megapixels), label

    def rows(self) -> slice:
        """This process's rows of the global batch."""
        share = self.batch_size // self.processes
        return slice(self.process * share, (self.process + 1) * share)


@dataclasses.dataclass(frozen=True)
class _TrainBatch(_Reader):
    sample: images.Sampler
    seed: int

    def __call__(self, step: int) -> tuple[Batch, list[str]]:
        indices = batch_indices(self.seed, step, self.batch_size, len(self.source))
        # Drawn for the global batch, so that it does not depend on the number of processes.
        uniforms = np.random.default_rng((self.seed, 1, step)).random(
            (self.batch_size, images.UNIFORMS)
        )
        damaged: list[str] = []
        pixels, labels = [], []
        for index, u in zip(indices[self.rows()], uniforms[self.rows()], strict=True):
            image, label = self._read_or_next(int(index), damaged)
            pixels.append(self.sample(image, u))
            labels.append(label)
        return {"image": np.stack(pixels), "label": np.asarray(labels, np.int32)}, damaged

    def _read_or_next(self, index: int, damaged: list[str]) -> tuple[Image.Image, int]:
        """The example, or in place of a damaged one the next whole one after it."""
        for offset in range(len(self.source)):
            try:
                return self.read((index + offset) % len(self.source))
            except images.DamagedImageError as error:
                damaged.append(str(error))
        raise UserError(f"every image is damaged; the last: {damaged[-1]}")


@dataclasses.dataclass(frozen=True)
class _EvalBatch(_Reader):
    view: Callable[[Image.Image], np.ndarray]
    input_px: int

    def __call__(self, step: int) -> Batch:
        rows = self.rows()
        positions = step * self.batch_size + np.arange(rows.start, rows.stop)
        index = np.where(positions < len(self.source), positions, -1).astype(np.int32)
        pixels = np.zeros((len(index), self.input_px, self.input_px, 3), np.uint8)
        labels = np.zeros(len(index), np.int32)
        for row in np.flatnonzero(index >= 0):
            try:
                image, labels[row] = self.read(int(index[row]))
            except images.DamagedImageError as error:
                raise UserError(
                    f"{error}. Evaluation skips no image, for its result would not be exact: "
                    "mend or remove the file"
                ) from error
            pixels[row] = self.view(image)
        return {"image": pixels, "label": labels, "index": index}


def _iterate(batch: Callable, start: int, stop: int, workers: int) -> Iterator:
    """batch(start), ..., batch(stop - 1), in order, made ahead of time in threads."""
    if not 1 <= workers <= 256:
        raise UserError(f"config.run.workers={workers}: from 1 to 256 threads")
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=workers)
    return iter(grain.MapDataset.range(start, stop).map(batch).to_iter_dataset(options))


def train_batches(
    source: Source,
    *,
    sample: images.Sampler,
    seed: int,
    start_step: int,
    total_steps: int,
    batch_size: int,
    classes: int,
    max_megapixels: float,
    workers: int,
    process: int = 0,
    processes: int = 1,
) -> Iterator[tuple[Batch, list[str]]]:
    """This process's share of the batches start_step ... total_steps - 1.

    Each is a function of (seed, step) alone: a resumed run sees what the unbroken one would
    have seen, on any number of processes. A damaged image is replaced by the next whole one.

    Yields:
        {'image': uint8 [batch_size / processes, px, px, 3], 'label': int32 [the same]}, and a
        line for each damaged image met while making it.

    Raises:
        UserError: a label out of range, no image that is whole, an impossible worker count.
    """
    batch = _TrainBatch(
        source, classes, max_megapixels, batch_size, process, processes, sample, seed
    )
    return _iterate(batch, start_step, total_steps, workers)


def eval_batches(
    source: Source,
    *,
    view: Callable[[Image.Image], np.ndarray],
    input_px: int,
    batch_size: int,
    classes: int,
    max_megapixels: float,
    workers: int,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """This process's share of the whole split, in order, every process the same count of batches.

    Yields:
        {'image': uint8 [batch_size / processes, px, px, 3], 'label': int32 [the same],
        'index': int32, the example's position in the split, or -1 for padding}.

    Raises:
        UserError: a damaged image, a label out of range, an impossible worker count.
    """
    batch = _EvalBatch(
        source, classes, max_megapixels, batch_size, process, processes, view, input_px
    )
    return _iterate(batch, 0, -(-len(source) // batch_size), workers)
