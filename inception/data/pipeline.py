"""Batches as a function of (seed, step), sharded over processes, through Grain."""

import collections
import concurrent.futures
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import grain
import numpy as np
from PIL import Image

from inception import UserError
from inception.data import cropping, decoding
from inception.data.sources import Source

T = TypeVar("T")
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

    def read(self, index: int, use: Callable[[decoding.Record, str], T]) -> tuple[int, T]:
        """The label, and use(record, name); DamagedImageError if there is no record."""
        name = self.source.name(index)
        try:
            record, label = self.source[index]
            if not 0 <= label < self.classes:
                raise UserError(
                    f"{name}: label {label} is out of range for config.model.classes={self.classes}"
                )
            return label, use(record, name)
        except OSError as error:
            raise decoding.DamagedImageError(f"{name}: {error.strerror or error}") from error

    def rows(self) -> slice:
        """This process's rows of the global batch."""
        share = self.batch_size // self.processes
        return slice(self.process * share, (self.process + 1) * share)


@dataclasses.dataclass(frozen=True)
class _TrainBatch(_Reader):
    sample: cropping.Sampler
    decoder: str
    seed: int

    def __call__(self, step: int) -> tuple[Batch, list[str]]:
        indices = batch_indices(self.seed, step, self.batch_size, len(self.source))
        # Drawn for the global batch, so that it does not depend on the number of processes.
        uniforms = np.random.default_rng((self.seed, 1, step)).random(
            (self.batch_size, cropping.UNIFORMS)
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
        self, record: decoding.Record, name: str, *, uniforms: np.ndarray, out: np.ndarray
    ) -> None:
        picture = decoding.open_picture(
            record, name, decoder=self.decoder, max_megapixels=self.max_megapixels
        )
        self.sample(picture, uniforms, out)

    def _read_or_next(self, index: int, fill: Callable, damaged: list[str]) -> int:
        """Reads the example, or in place of a damaged one the next whole one after it."""
        for offset in range(len(self.source)):
            try:
                return self.read((index + offset) % len(self.source), fill)[0]
            except decoding.DamagedImageError as error:
                damaged.append(str(error))
        raise UserError(f"every image is damaged; the last: {damaged[-1]}")


class _Shared:
    """What several batches need of one image is made once, by the first that asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, tuple[concurrent.futures.Future, int]] = {}

    def get(self, index: int, uses: int, make: Callable[[int], T]) -> T:
        """make(index), which is forgotten after `uses` calls."""
        with self._lock:
            future, left = self._held.pop(index, (concurrent.futures.Future(), uses))
            if left > 1:
                self._held[index] = (future, left - 1)
        if left == uses:
            try:
                future.set_result(make(index))
            except BaseException as error:
                future.set_exception(error)
        return future.result()


@dataclasses.dataclass(frozen=True)
class _EvalBatch(_Reader):
    views: cropping.Views
    shared: _Shared = dataclasses.field(default_factory=_Shared)

    def __call__(self, step: int) -> Batch:
        rows, each = self.rows(), self.views.rows
        first = step * self.batch_size + rows.start
        stop = first + rows.stop - rows.start
        index = np.arange(first, stop) // each
        index = np.where(index < len(self.source), index, -1).astype(np.int32)
        pixels = self._batches.take()
        pixels[index < 0] = 0
        labels = np.zeros(len(index), np.int32)
        members = np.zeros((len(index), len(self.views.crops)), np.float32)
        for i in range(first // each, min(-(-stop // each), len(self.source))):
            low, high = max(i * each, first), min((i + 1) * each, stop)
            mine, views = slice(low - first, high - first), slice(low - i * each, high - i * each)
            label, image = self.shared.get(i, self._batches_with(i), self._open)
            labels[mine] = label
            members[mine] = self.views.members(image.size)[views]
            self.views.fill(image, views.start, pixels[mine])
        return {"image": pixels, "label": labels, "index": index, "crop_weights": members}

    def _batches_with(self, index: int) -> int:
        """How many of this process's batches have a row of the image."""
        first, last = index * self.views.rows, (index + 1) * self.views.rows - 1
        rows, size = self.rows(), self.batch_size
        return sum(
            step * size + rows.start <= last and first < step * size + rows.stop
            for step in range(first // size, last // size + 1)
        )

    def _open(self, index: int) -> tuple[int, Image.Image]:
        decode = functools.partial(decoding.decode, max_megapixels=self.max_megapixels)
        try:
            return self.read(index, decode)
        except decoding.DamagedImageError as error:
            raise UserError(
                f"{error}. Evaluation skips no image, for its result would not be exact: mend or "
                "remove the file"
            ) from error


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
    sample: cropping.Sampler,
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
    decoding.check_decoder(decoder)
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
    views: cropping.Views,
    batch_size: int,
    classes: int,
    max_megapixels: float,
    workers: int | str,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """This process's share of all views of the whole split, in order, cut into batches.

    A batch holds as many rows as it says, whatever the number of views: those of one image may
    lie in several. Each image is read and decoded once. Every process has the same count of
    batches.

    Yields:
        {'image': uint8 [batch_size / processes, px, px, 3], 'label': int32 [the same], 'index':
        int32, the image's position in the split, or -1 for padding, 'crop_weights': float32
        [the same, len(views.crops)], how often the row counts among each of the crops}.

    Raises:
        UserError: a damaged image, a label out of range, an impossible worker count.
    """
    batch = _EvalBatch(
        source, views.input_px, classes, max_megapixels, batch_size, process, processes, views
    )
    return _iterate(batch, 0, -(-len(source) * views.rows // batch_size), workers)


# Adapters, until the folder's owner has merged.
evaluation_batches = eval_batches


def open_split(config, split: str) -> Source:
    """The split of the set that config.data names."""
    from inception.data import sources

    return sources.open_source(
        config.data.source,
        split=split,
        path=config.data.path,
        name=config.data.name,
        examples=config.data.examples,
        classes=config.model.classes,
    )


def training_batches(config, source, **choices):
    """This process's (batch, damaged lines), from one step to another."""
    return train_batches(
        source,
        sample=cropping.training_sampler(
            config.data.sampler,
            input_px=config.input_px,
            resize_px=config.data.resize_px,
            area_range=config.data.area_range,
            aspect_range=config.data.aspect_range,
            mirror=config.data.mirror,
            interpolations=config.data.interpolations,
            **config.data.get("randaugment", {}),
        ),
        decoder=config.data.decoder,
        seed=config.data.seed,
        batch_size=config.optim.batch_size,
        input_px=config.input_px,
        classes=config.model.classes,
        max_megapixels=config.data.max_megapixels,
        workers=config.run.workers,
        **choices,
    )
