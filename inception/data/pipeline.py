"""The host's half of the input: open a split, then read -> decode -> crop -> augment -> batch.

Grain makes the batches ahead of time, in threads, and returns them in order. No input state is
saved: a training batch is a function of (seed, step), and evaluation begins at the first image.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grain
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from inception import UserError
from inception.config import training_sizes
from inception.data import cropping, decoding, sources
from inception.data.sources import Source

T = TypeVar("T")
Batch = dict[str, np.ndarray]
READING = ("max_megapixels", "bits")
LOOKED_AT = 16  # pictures of a split that `remarks` decodes
CROPPING = ("sampler", "resize_px", "area_range", "aspect_range", "mirror", "interpolations")


def open_split(config: ConfigDict, split: str) -> Source:
    """The split of the set that config.data names."""
    knobs = ("source", "path", "name", "examples", "bits", "labels")
    where = {knob: config.data[knob] for knob in knobs}
    training = split == config.data.train_split
    classes = config.model.classes
    return sources.open_source(split=split, classes=classes, training=training, **where)


def remarks(
    *splits: Source, bits: int, flag: str = "config.data.bits", where: str = ""
) -> list[str]:
    """Remarks to print once about a set's splits: files passed over, and bits that are not in use.

    Args:
        bits: as for `decode`; `flag` changes it. If 0, a fixed few pictures are checked.
        where: the set's folder.
    """
    over = dict.fromkeys(getattr(split, "passed_over", "") for split in splits)
    lines = [f"passed over, for they are no pictures: {files}" for files in over if files]
    lines += dict.fromkeys(note for split in splits for note in getattr(split, "notes", ()))
    most = 0
    for split in splits if bits == 0 else ():
        for index in np.linspace(0, len(split) - 1, min(LOOKED_AT, len(split))).astype(int):
            with contextlib.suppress(decoding.DamagedImageError, ValueError):  # odd file names
                most = max(most, decoding.greatest(sources.read(split, int(index))[0]))
    if 0 < most < 2**15:
        used = max(8, most.bit_length())
        lines.append(
            f"WARNING: pictures of 16 bits{f' in {where}' * bool(where)} use {used} of them "
            f"(greatest number seen: {most:,}). If that is their range give --{flag}={used}, if "
            f"they are dark --{flag}=16"
        )
    return lines


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

    Each is a function of (config.data.seed, step) only: a resumed run sees the batches of an
    uninterrupted one, on any number of processes. The next undamaged image replaces a damaged one.

    Yields:
        {'image': uint8 [batch_size / processes, px, px, 3], 'label': int32 [the same]}, and a
        line for each damaged image met while making it.

    Raises:
        UserError: a label out of range, no undamaged image.
    """
    pipeline = TrainingPipeline(
        config, source, total_steps=total_steps, process=process, processes=processes
    )
    return iter(in_threads(pipeline.batch, start_step, total_steps, workers=config.run.workers))


class TrainingPipeline:
    """Makes one process's rows of a config's training batches; threads share it."""

    def __init__(
        self,
        config: ConfigDict,
        source: Source,
        *,
        total_steps: int = 1,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._source = source
        self._seed = config.data.seed
        self._order: Callable[[int], np.ndarray]
        self._order = functools.partial(epoch_order, self._seed, len(source))
        if config.data.balance:
            from inception.data import balance

            self._order = balance.orders(source, self._seed, config.data.balance)
        self._batch_size = config.optim.batch_size
        self._repeats = config.data.repeats
        self._classes = config.model.classes
        share = self._batch_size // processes
        self._rows = slice(process * share, (process + 1) * share)
        self._sizes, self._total_steps = training_sizes(config), total_steps
        self._decoder = decoding.DECODERS[config.data.decoder]
        self._reading = {knob: config.data[knob] for knob in READING}
        self._cropping = {knob: config.data[knob] for knob in CROPPING}
        self._randaugment = config.data.randaugment.to_dict()

    def batch(self, step: int) -> tuple[Batch, list[str]]:
        """This process's rows of global batch number `step`; a line for each damaged image."""
        examples = (self._order, step, self._batch_size, len(self._source))
        indices = batch_indices(*examples, repeats=self._repeats)
        # Drawn for the global batch: independent of the number of processes.
        rng = np.random.default_rng((self._seed, 1, step))
        uniforms = rng.random((self._batch_size, cropping.UNIFORMS))
        px = self._sizes[step * len(self._sizes) // self._total_steps]
        images = np.empty((len(indices[self._rows]), px, px, 3), np.uint8)
        damaged: list[str] = []
        rows = zip(indices[self._rows].tolist(), uniforms[self._rows], images, strict=True)
        labels = [self._whole_example(index, u, image, damaged) for index, u, image in rows]
        return {"image": images, "label": np.asarray(labels, np.int32)}, damaged

    def _whole_example(
        self, index: int, uniforms: np.ndarray, out: np.ndarray, damaged: list[str]
    ) -> int:
        """Fills `out` with the crop of the first undamaged image from `index` on; its label."""
        count = len(self._source)
        for i in range(index, index + count):
            try:
                picture, label = self.open(i % count)
                _check_label(self._source, i % count, label, self._classes)
                self.crop(picture, uniforms, out)
                return label
            except decoding.DamagedImageError as error:
                damaged.append(str(error))
        raise UserError(f"every image is damaged; the last: {damaged[-1]}")

    def open(self, index: int) -> tuple[decoding.Picture, int]:
        """The example's picture, which the fast decoder decodes at the crop, and its label."""
        record, label = sources.read(self._source, index)
        name = self._source.name(index)
        return self._decoder(record, name, **self._reading), label

    def crop(self, picture: decoding.Picture, uniforms: np.ndarray, out: np.ndarray) -> None:
        """Fills `out` with the crop that these uniform numbers choose, mirrored and augmented."""
        cropping.training_crop(picture, uniforms, out, **self._cropping)
        if self._randaugment["layers"]:
            from inception.data import randaugment

            # Seeded by the crop's own numbers: still a function of (seed, step).
            rng = np.random.default_rng(uniforms.view(np.uint64))
            randaugment.rand_augment(out, rng, **self._randaugment)


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, examples: int, epoch: int) -> np.ndarray:
    """The order in which one epoch visits the examples: a permutation, int64 [examples]."""
    return np.random.default_rng((seed, 0, epoch)).permutation(examples)


def batch_indices(
    order: Callable[[int], np.ndarray],
    step: int,
    batch_size: int,
    examples: int,
    *,
    repeats: int = 1,
) -> np.ndarray:
    """Which examples make up global batch number `step`, int64 [batch_size].

    The epochs form one sequence that is cut into batches: none of an epoch's examples is dropped,
    and a batch may span epochs. Each example comes `repeats` times in a row.

    Args:
        order: epoch -> the examples in the order of the epoch, int64 [examples].
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size) // repeats
    epochs, offsets = np.divmod(positions, examples)
    orders = {epoch: order(epoch) for epoch in dict.fromkeys(epochs.tolist())}
    visits = zip(epochs.tolist(), offsets.tolist(), strict=True)
    return np.asarray([orders[epoch][offset] for epoch, offset in visits])


def evaluation_batches(
    source: Source,
    *,
    views: cropping.Views,
    batch_size: int,
    classes: int,
    workers: int | str,
    process: int = 0,
    processes: int = 1,
    **reading: Any,
) -> Iterator[Batch]:
    """This process's share of all views of the whole split, in order, cut into batches.

    Every batch has `batch_size` rows for any number of views: an image's views may span batches.
    Each image is read and decoded once, with the arguments `reading` of `decode`. Every process
    has the same number of batches.

    Yields:
        {'image': uint8 [batch_size / processes, px, px, 3], 'label': int32 [the same], 'index':
        int32, the image's position in the split, or -1 for padding, 'crop_weights': float32
        [the same, len(views.crops)], how often the row counts among each number of crops}.

    Raises:
        UserError: a damaged image, a label out of range.
    """
    share, each = batch_size // processes, views.rows
    end = -(-len(source) * each // batch_size) * batch_size

    def rows_of(index: int) -> Batch | None:
        """This process's rows of an image; those of index len(source) are padding."""
        rows = np.arange(index * each, end if index == len(source) else (index + 1) * each)
        rows = rows[rows % batch_size // share == process]
        if not len(rows):
            return None  # Grain skips None
        part: Batch = {
            "image": np.zeros((len(rows), views.input_px, views.input_px, 3), np.uint8),
            "label": np.zeros(len(rows), np.int32),
            "index": np.full(len(rows), -1, np.int32),
            "crop_weights": np.zeros((len(rows), len(views.crops)), np.float32),
        }
        if index < len(source):
            image, part["label"][:] = _whole_image(source, index, classes, **reading)
            part["index"][:] = index
            part["image"] = views.of(image, rows - index * each)
            part["crop_weights"] = views.crop_weights(image.size)[rows - index * each]
        return part

    parts = in_threads(rows_of, 0, len(source) + 1, workers=workers, ahead=-(-16 // each))
    return iter(grain.experimental.RebatchIterDataset(parts, share))


def _check_label(source: Source, index: int, label: int, classes: int) -> None:
    if not 0 <= label < classes:
        name = source.name(index)
        raise UserError(f"{name}: label {label} is out of range for `classes`={classes}")


def _whole_image(
    source: Source, index: int, classes: int, **reading: Any
) -> tuple[Image.Image, int]:
    """The image and its label; UserError if the image is damaged."""
    try:
        record, label = sources.read(source, index)
        _check_label(source, index, label, classes)
        return decoding.decode(record, source.name(index), **reading), label
    except decoding.DamagedImageError as error:
        raise UserError(
            f"{error}. Evaluation skips no image, because its result must be exact: repair or "
            "remove the file"
        ) from error


def in_threads(
    make: Callable[[int], T], start: int, stop: int, *, workers: int | str, ahead: int = 1
) -> grain.IterDataset[T]:
    """make(start), ..., make(stop - 1), in order, made ahead of time in threads.

    Args:
        workers: how many threads; 'all': one for each core of this process.
        ahead: how many results each thread may prepare before the reader needs them.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    threads = cores if workers == "all" else int(workers)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads * ahead)
    return grain.MapDataset.range(start, stop).map(make).to_iter_dataset(options)
