"""The host's half of the input: open a split, then read -> decode -> crop -> augment -> batch.

Grain makes the batches ahead of time, in threads, and gives them in order. Nothing about them is
saved: a training batch is a function of (seed, step), and evaluation begins at the first image.
"""

import concurrent.futures
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import grain
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from inception import UserError
from inception.data import cropping, decoding, sources
from inception.data.sources import Source

T = TypeVar("T")
Batch = dict[str, np.ndarray]
CROPPING = ("sampler", "resize_px", "area_range", "aspect_range", "mirror", "interpolations")
MAX_THREADS = 256


def open_split(config: ConfigDict, split: str) -> Source:
    """The split of the set that config.data names."""
    return sources.open_source(
        config.data.source,
        split=split,
        path=config.data.path,
        name=config.data.name,
        examples=config.data.examples,
        classes=config.model.classes,
    )


def training_batches(
    config: ConfigDict,
    source: Source,
    *,
    start_step: int,
    total_steps: int,
    process: int = 0,
    processes: int = 1,
) -> Iterator[tuple[Batch, list[str]]]:
    """This process's share of the batches start_step ... total_steps - 1.

    Each is a function of (config.data.seed, step) only: a resumed run sees what the unbroken one
    would have seen, on any number of processes. The next whole image replaces a damaged one. A
    batch's memory is recycled once the batch is no longer in use.

    Yields:
        {'image': uint8 [batch_size / processes, px, px, 3], 'label': int32 [the same]}, and a
        line for each damaged image met while making it.

    Raises:
        UserError: a label out of range, no whole image.
    """
    pipeline = TrainingPipeline(config, source, process=process, processes=processes)
    return in_threads(pipeline.batch, start_step, total_steps, count=threads(config.run.workers))


class TrainingPipeline:
    """Makes the training batches of a config, one process's rows of them; threads share it."""

    def __init__(
        self, config: ConfigDict, source: Source, *, process: int = 0, processes: int = 1
    ) -> None:
        self._source = source
        self._seed = config.data.seed
        self._batch_size = config.optim.batch_size
        self._classes = config.model.classes
        self._rows = _rows_of(process, processes, self._batch_size)
        self._images = decoding.RecycledImages(self._batch_size // processes, config.input_px)
        self._decoder = config.data.decoder
        self._max_megapixels = config.data.max_megapixels
        self._cropping = {knob: config.data[knob] for knob in CROPPING}
        self._randaugment = config.data.randaugment.to_dict()

    def batch(self, step: int) -> tuple[Batch, list[str]]:
        """This process's rows of global batch number `step`; a line for each damaged image."""
        indices = batch_indices(self._seed, step, self._batch_size, len(self._source))
        # Drawn for the global batch, so that it does not depend on the number of processes.
        rng = np.random.default_rng((self._seed, 1, step))
        uniforms = rng.random((self._batch_size, cropping.UNIFORMS))
        images = self._images.take()
        labels = np.empty(len(images), np.int32)
        damaged: list[str] = []
        rows = zip(indices[self._rows].tolist(), uniforms[self._rows], images, strict=True)
        for row, (index, u, image) in enumerate(rows):
            labels[row] = self._whole_example(index, u, image, damaged)
        return {"image": images, "label": labels}, damaged

    def _whole_example(
        self, index: int, uniforms: np.ndarray, out: np.ndarray, damaged: list[str]
    ) -> int:
        """As `example`; the next whole example replaces a damaged one."""
        for offset in range(len(self._source)):
            try:
                return self.example((index + offset) % len(self._source), uniforms, out)
            except decoding.DamagedImageError as error:
                damaged.append(str(error))
        raise UserError(f"every image is damaged; the last: {damaged[-1]}")

    def example(self, index: int, uniforms: np.ndarray, out: np.ndarray) -> int:
        """Fills `out`, uint8 [px, px, 3], with a crop of the example; returns its label."""
        name = self._source.name(index)
        record, label = sources.read(self._source, index)
        _check_label(label, self._classes, name)
        picture = self.decode(record, name)
        self.crop(picture, uniforms, out)
        return label

    def decode(self, record: decoding.Record, name: str) -> decoding.Picture:
        """The picture of a record, decoded where and when it is cropped if the decoder is fast."""
        return decoding.open_picture(
            record, name, decoder=self._decoder, max_megapixels=self._max_megapixels
        )

    def crop(self, picture: decoding.Picture, uniforms: np.ndarray, out: np.ndarray) -> None:
        """Fills `out` with the crop that these uniform numbers choose, mirrored and augmented."""
        cropping.training_crop(picture, uniforms, out, **self._cropping)
        if self._randaugment["layers"]:
            from inception.data import randaugment

            # Seeded by the crop's own numbers: still a function of (seed, step).
            rng = np.random.default_rng(uniforms.view(np.uint64))
            randaugment.rand_augment(out, rng, **self._randaugment)


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """The order in which one epoch visits the examples: a permutation, int64 [examples]."""
    return np.random.default_rng((seed, 0, epoch)).permutation(examples)


def batch_indices(seed: int, step: int, batch_size: int, examples: int) -> np.ndarray:
    """Which examples make up global batch number `step`, int64 [batch_size].

    Batches are cut from epoch after epoch laid end to end: each example comes once an epoch,
    none is dropped, and a batch may straddle two epochs.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = np.divmod(positions, examples)
    visits = zip(epochs.tolist(), offsets.tolist(), strict=True)
    return np.asarray([epoch_order(seed, epoch, examples)[offset] for epoch, offset in visits])


def evaluation_batches(
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

    Every batch has `batch_size` rows, whatever the number of views: those of one image may span
    batches. Each image is read and decoded once. Every process has the same count of
    batches.

    Yields:
        {'image': uint8 [batch_size / processes, px, px, 3], 'label': int32 [the same], 'index':
        int32, the image's position in the split, or -1 for padding, 'crop_weights': float32
        [the same, len(views.crops)], how often the row counts among each number of crops}.

    Raises:
        UserError: a damaged image, a label out of range.
    """
    rows = _rows_of(process, processes, batch_size)
    pipeline = EvaluationPipeline(source, views, batch_size, rows, classes, max_megapixels)
    batches = -(-len(source) * views.rows // batch_size)
    return in_threads(pipeline.batch, 0, batches, count=threads(workers))


@dataclasses.dataclass
class EvaluationPipeline:
    """Makes the batches of an evaluation, one process's rows of them; threads share it."""

    source: Source
    views: cropping.Views
    batch_size: int
    rows: slice
    classes: int
    max_megapixels: float

    def __post_init__(self) -> None:
        self._images = decoding.RecycledImages(
            self.rows.stop - self.rows.start, self.views.input_px
        )
        self._lock = threading.Lock()
        # index -> an image that other batches need too, and how many they are
        self._decoded: dict[int, tuple[concurrent.futures.Future, int]] = {}

    def batch(self, step: int) -> Batch:
        """This process's rows of global batch number `step`: views first ... stop - 1 of all."""
        each, first = self.views.rows, step * self.batch_size + self.rows.start
        stop = first + self.rows.stop - self.rows.start
        index = np.arange(first, stop) // each
        index = np.where(index < len(self.source), index, -1).astype(np.int32)
        images = self._images.take()
        images[index < 0] = 0
        labels = np.zeros(len(index), np.int32)
        weights = np.zeros((len(index), len(self.views.crops)), np.float32)
        for i in range(first // each, min(-(-stop // each), len(self.source))):
            low, high = max(i * each, first), min((i + 1) * each, stop)
            rows, views = slice(low - first, high - first), slice(low - i * each, high - i * each)
            image, labels[rows] = self._decode_once(i)
            weights[rows] = self.views.crop_weights(image.size)[views]
            self.views.fill(image, views.start, images[rows])
        return {"image": images, "label": labels, "index": index, "crop_weights": weights}

    def _decode_once(self, index: int) -> tuple[Image.Image, int]:
        """As `decode`; the result is kept until the last batch that needs it has taken it."""
        batches = self._batches_with(index)
        with self._lock:
            future, left = self._decoded.pop(index, (concurrent.futures.Future(), batches))
            if left > 1:
                self._decoded[index] = (future, left - 1)
        if left == batches:
            try:
                future.set_result(self.decode(index))
            except BaseException as error:
                future.set_exception(error)
        return future.result()

    def decode(self, index: int) -> tuple[Image.Image, int]:
        """The image and its label; UserError where it is damaged."""
        name = self.source.name(index)
        try:
            record, label = sources.read(self.source, index)
            _check_label(label, self.classes, name)
            return decoding.decode(record, name, max_megapixels=self.max_megapixels), label
        except decoding.DamagedImageError as error:
            raise UserError(
                f"{error}. Evaluation skips no image, for its result would not be exact: mend or "
                "remove the file"
            ) from error

    def _batches_with(self, index: int) -> int:
        """How many of this process's batches have a row of the image."""
        first, last = index * self.views.rows, (index + 1) * self.views.rows - 1
        steps = range(first // self.batch_size, last // self.batch_size + 1)
        starts = (step * self.batch_size for step in steps)
        return sum(s + self.rows.start <= last and first < s + self.rows.stop for s in starts)


def _check_label(label: int, classes: int, name: str) -> None:
    if not 0 <= label < classes:
        raise UserError(f"{name}: label {label} is out of range for `classes`={classes}")


def _rows_of(process: int, processes: int, batch_size: int) -> slice:
    """A process's rows of the global batch."""
    share = batch_size // processes
    return slice(process * share, (process + 1) * share)


def threads(workers: int | str) -> int:
    """How many threads `workers` means: 'all' is one for each core of this process."""
    if workers != "all":
        return int(workers)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, MAX_THREADS)


def in_threads(
    make: Callable[[int], T], start: int, stop: int, *, count: int, ahead: int = 1
) -> Iterator[T]:
    """make(start), ..., make(stop - 1), in order, made ahead of time in `count` threads.

    Args:
        ahead: how many results a thread may be ahead of the reader.
    """
    options = grain.ReadOptions(num_threads=count, prefetch_buffer_size=count * ahead)
    return iter(grain.MapDataset.range(start, stop).map(make).to_iter_dataset(options))
