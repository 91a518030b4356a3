"""Batches as a function of (seed, step), sharded over processes, through Grain."""

import collections
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator

import grain
import numpy as np
from PIL import Image

from inception import UserError
from inception.data import images, sampling
from inception.data.sources import Source

Batch = dict[str, np.ndarray]
MAX_THREADS = 256


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


class _Lease:
    """Lends memory to an array; takes it back when nobody holds the array or a view of it."""

    def __init__(self, memory: np.ndarray, free: collections.deque[np.ndarray]):
        self._memory, self._free = memory, free
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._free.append(self._memory)


class _Batches:
    """Arrays of one shape in recycled memory: fresh pages cost more than resizing into them."""

    def __init__(self, shape: tuple[int, ...]):
        self._shape = shape
        self._free: collections.deque[np.ndarray] = collections.deque()  # append, pop: atomic

    def take(self) -> np.ndarray:
        """uint8, of any content. Who holds it, or what JAX made of it without a copy, keeps it."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(self._shape, np.uint8)
        return np.asarray(_Lease(memory, self._free))


@dataclasses.dataclass(frozen=True)
class _Reader:
    """What training and evaluation share: a source, and how its records become examples."""

    source: Source
    input_px: int
    classes: int
    max_megapixels: float
    batch_size: int
    process: int
    processes: int

    @functools.cached_property
    def _batches(self) -> _Batches:
        return _Batches((self.batch_size // self.processes, self.input_px, self.input_px, 3))

    def read(self, index: int, fill: Callable[[images.Record, str], None]) -> int:
        """Calls fill(record, name) and returns the label; DamagedImageError if neither can be."""
        name = self.source.name(index)
        try:
            record, label = self.source[index]
            if not 0 <= label < self.classes:
                raise UserError(
                    f"{name}: label {label} is out of range for config.model.classes={self.classes}"
                )
            fill(record, name)
        except OSError as error:
            raise images.DamagedImageError(f"{name}: {error.strerror or error}") from error
        return label

    def rows(self) -> slice:
        """This process's rows of the global batch."""
        share = self.batch_size // self.processes
        return slice(self.process * share, (self.process + 1) * share)


@dataclasses.dataclass(frozen=True)
class _TrainBatch(_Reader):
    sample: sampling.Sampler
    decoder: str
    seed: int

    def __call__(self, step: int) -> tuple[Batch, list[str]]:
        indices = batch_indices(self.seed, step, self.batch_size, len(self.source))
        # Drawn for the global batch, so that it does not depend on the number of processes.
        uniforms = np.random.default_rng((self.seed, 1, step)).random(
            (self.batch_size, sampling.UNIFORMS)
        )
        damaged: list[str] = []
        pixels = self._batches.take()
        labels = np.empty(len(pixels), np.int32)
        mine = zip(indices[self.rows()], uniforms[self.rows()], pixels, strict=True)
        for row, (index, u, out) in enumerate(mine):
            fill = functools.partial(self._fill, uniforms=u, out=out)
            labels[row] = self._read_or_next(int(index), fill, damaged)
        return {"image": pixels, "label": labels}, damaged

    def _fill(
        self, record: images.Record, name: str, *, uniforms: np.ndarray, out: np.ndarray
    ) -> None:
        picture = images.open_picture(
            record, name, decoder=self.decoder, max_megapixels=self.max_megapixels
        )
        self.sample(picture, uniforms, out)

    def _read_or_next(self, index: int, fill: Callable, damaged: list[str]) -> int:
        """Reads the example, or in place of a damaged one the next whole one after it."""
        for offset in range(len(self.source)):
            try:
                return self.read((index + offset) % len(self.source), fill)
            except images.DamagedImageError as error:
                damaged.append(str(error))
        raise UserError(f"every image is damaged; the last: {damaged[-1]}")


@dataclasses.dataclass(frozen=True)
class _EvalBatch(_Reader):
    view: Callable[[Image.Image], np.ndarray]

    def __call__(self, step: int) -> Batch:
        rows = self.rows()
        positions = step * self.batch_size + np.arange(rows.start, rows.stop)
        index = np.where(positions < len(self.source), positions, -1).astype(np.int32)
        pixels = self._batches.take()
        pixels[index < 0] = 0
        labels = np.zeros(len(index), np.int32)
        for row in np.flatnonzero(index >= 0):
            try:
                labels[row] = self.read(
                    int(index[row]), functools.partial(self._fill, out=pixels[row])
                )
            except images.DamagedImageError as error:
                raise UserError(
                    f"{error}. Evaluation skips no image, for its result would not be exact: "
                    "mend or remove the file"
                ) from error
        return {"image": pixels, "label": labels, "index": index}

    def _fill(self, record: images.Record, name: str, *, out: np.ndarray) -> None:
        out[:] = self.view(images.decode(record, name, max_megapixels=self.max_megapixels))


def threads(workers: int | str) -> int:
    """How many threads config.run.workers means: 'all' is one for each core of this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = min(cores or 1, MAX_THREADS) if workers == "all" else workers
    if not (str(count).isdecimal() and 1 <= int(count) <= MAX_THREADS):
        raise UserError(f"config.run.workers={workers}: all, or from 1 to {MAX_THREADS} threads")
    return int(count)


def _iterate(batch: Callable, start: int, stop: int, workers: int | str) -> Iterator:
    """batch(start), ..., batch(stop - 1), in order, made ahead of time in threads."""
    count = threads(workers)
    options = grain.ReadOptions(num_threads=count, prefetch_buffer_size=count)
    return iter(grain.MapDataset.range(start, stop).map(batch).to_iter_dataset(options))


def train_batches(
    source: Source,
    *,
    sample: sampling.Sampler,
    decoder: str,
    seed: int,
    start_step: int,
    total_steps: int,
    batch_size: int,
    input_px: int,
    classes: int,
    max_megapixels: float,
    workers: int | str,
    process: int = 0,
    processes: int = 1,
) -> Iterator[tuple[Batch, list[str]]]:
    """This process's share of the batches start_step ... total_steps - 1.

    Each is a function of (seed, step) alone: a resumed run sees what the unbroken one would
    have seen, on any number of processes. A damaged image is replaced by the next whole one.
    A batch's memory is used again once nobody holds the batch.

    Yields:
        {'image': uint8 [batch_size / processes, px, px, 3], 'label': int32 [the same]}, and a
        line for each damaged image met while making it.

    Raises:
        UserError: a label out of range, no image that is whole, an impossible worker count.
    """
    images.check_decoder(decoder)
    batch = _TrainBatch(
        source,
        input_px,
        classes,
        max_megapixels,
        batch_size,
        process,
        processes,
        sample,
        decoder,
        seed,
    )
    return _iterate(batch, start_step, total_steps, workers)


def eval_batches(
    source: Source,
    *,
    view: Callable[[Image.Image], np.ndarray],
    batch_size: int,
    input_px: int,
    classes: int,
    max_megapixels: float,
    workers: int | str,
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
        source, input_px, classes, max_megapixels, batch_size, process, processes, view
    )
    return _iterate(batch, 0, -(-len(source) // batch_size), workers)
