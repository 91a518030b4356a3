"""The store that trains fast: a smaller copy of every image of a set, in one file a split."""

import dataclasses
import functools
import io
import json
import os
import pathlib
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from inception import UserError
from inception.data import cropping, decoding, paths, pipeline, progress, sources, whole

T = TypeVar("T")
VERSION = 1
FORMATS = ("jpeg", "rgb")
PROBES = 100  # images that estimate the size and the effect on pixels beforehand
MEGAPIXELS = 1000.0  # larger pictures are left out


def open_store(path: str, split: str, *, bits: int = 0) -> sources.Examples:
    """A source written by `launch.py prepare --short_side`: one file of JPEGs or pixels per split.

    PATH/store.json describes it; PATH/SPLIT.bin contains the images one after the other;
    PATH/SPLIT.npz contains 'offsets', int64 [n + 1], where images begin, 'labels', int32 [n], and
    'shapes', int32 [n, 2], height and width. The images are mapped into memory: of plain pixels
    only the used rows are read. `bits` is only compared with the store's: a network trained on
    the store decodes other pictures with it.

    NOTE: the pages count as the process's memory, but the system may drop them at any time.
    Shortening the file while it is open kills the process.
    """
    root, where = paths.on_disk(path), f"{path}/{split}"
    remedy = "write one with launch.py prepare --short_side"
    with paths.explained(f"`path`={path} is no store", remedy, Exception):
        about = json.loads((root / "store.json").read_text())
        written_by = about["version"]
    if written_by != VERSION:
        raise UserError(
            f"`path`={path} was written by another version of this program (store "
            f"{written_by}, this one reads {VERSION}): prepare it again"
        )
    if (own := about.get("bits", 0) or 16) != (bits or 16):
        raise UserError(
            f"`bits`={bits}, and {path} was prepared from pictures of {own}: give `bits={own}`"
        )
    sources.check_split(split, list(about["splits"]), f" in {path}")
    damage = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    with paths.explained(f"`path`={path} is damaged", "prepare it again", damage):
        with np.load(root / f"{split}.npz") as file:
            offsets, labels, shapes = (file[name] for name in ("offsets", "labels", "shapes"))
        mapped = np.memmap(root / f"{split}.bin", np.uint8, "r")
    if len(mapped) != offsets[-1]:
        raise UserError(
            f"{where}.bin has {len(mapped)} bytes where {offsets[-1]} were written: copy or "
            "prepare it again"
        )
    stored = np.asarray(mapped)

    def record(index: int) -> tuple[decoding.Record, int]:
        start, end = offsets[index : index + 2].tolist()
        data, label = stored[start:end], int(labels[index])
        if about["format"] == "jpeg":
            return data.tobytes(), label
        return data.reshape(*shapes[index].tolist(), 3), label

    return sources.Examples(
        tuple(about["classes"]),
        len(labels),
        record,
        lambda index: f"{where} record {index}",
        labels=labels,
    )


@dataclasses.dataclass(frozen=True)
class Encoding:
    """A store's encoding: the shorter side is `short_side` px; smaller images keep their size."""

    short_side: int
    quality: int  # of the JPEGs, 1 to 100
    format: str  # 'jpeg', or 'rgb' for plain pixels: several times the bytes, no decoding
    bits: int = 0  # of the original pictures, as for `decode`

    def stored(self, source: sources.Source, index: int) -> tuple[bytes, int, tuple[int, int]]:
        """(bytes, label, (height, width)) of an image; DamagedImageError if it is damaged."""
        name = source.name(index)
        record, label = sources.read(source, index)
        image = decoding.decode(record, name, max_megapixels=MEGAPIXELS, bits=self.bits)
        scale = self.short_side / min(image.size)
        if scale < 1:
            size = round(image.width * scale), round(image.height * scale)
            image = image.resize(size, Image.Resampling.BICUBIC)
        shape = (image.height, image.width)
        if self.format == "rgb":
            return image.tobytes(), label, shape
        buffer = io.BytesIO()
        try:
            image.save(buffer, "JPEG", quality=self.quality)
        except OSError as error:  # more than 65,500 px across
            raise decoding.DamagedImageError(f"{name}: {error}") from error
        return buffer.getvalue(), label, shape


def of_each(
    source: sources.Source, make: Callable[[int], T], rejected: list[str], *, desc: str
) -> Iterator[T]:
    """make(index) of every image, in order; adds a line to `rejected` for each damaged image."""

    def outcome(index: int) -> T | str:
        try:
            return make(index)
        except decoding.DamagedImageError as error:
            return str(error)

    count = len(source)
    made = pipeline.in_threads(outcome, 0, count, workers="all", ahead=16)
    for item in progress.bar(made, desc=desc, total=count, unit="image"):
        if isinstance(item, str):
            rejected.append(item)
        else:
            yield item


def _probe(source: sources.Source, encoding: Encoding) -> tuple[float, float]:
    """(mean bytes per image; dB between crops of 224 px from the store and from the originals).

    Up to 100 images spread over the source are used; the crops are the paper's, resized exactly.
    """
    sizes, errors = [], []
    crops = np.empty((2, 224, 224, 3), np.uint8)
    for index in np.linspace(0, len(source) - 1, min(PROBES, len(source))).astype(int).tolist():
        try:
            data, _, shape = encoding.stored(source, index)
        except decoding.DamagedImageError:
            continue
        rgb = encoding.format == "rgb"
        record = np.frombuffer(data, np.uint8).reshape(*shape, 3) if rgb else data
        pictures = [
            decoding.ExactPicture(each, "", max_megapixels=MEGAPIXELS, bits=encoding.bits)
            for each in (source[index][0], record)
        ]
        box = cropping.inception_crop(
            *pictures[0].size,
            np.random.default_rng(index).random(cropping.UNIFORMS),
            area_range=(0.08, 1.0),
            aspect_range=(3 / 4, 4 / 3),
        )
        of_sides = np.divide(box, pictures[0].size * 2)
        for picture, crop in zip(pictures, crops, strict=True):
            picture.resize(crop, "bilinear", tuple(of_sides * (picture.size * 2)))
        sizes.append(len(data))
        errors.append(np.mean(np.subtract(*crops, dtype=np.float32) ** 2))
    if not sizes:
        raise UserError("every sampled image is damaged: is this the right source?")
    return float(np.mean(sizes)), float(10 * np.log10(255**2 / max(np.mean(errors), 1e-9)))


def write_store(
    splits: Mapping[str, sources.Source], folder: pathlib.Path, encoding: Encoding, *, origin: str
) -> dict[str, Any]:
    """Writes a smaller copy of every image of the sources; prints size, time, effect on pixels.

    Unreadable images are left out and named. store.json is written last: a folder without it is
    no store.

    Args:
        splits: sources by the name of their split, all with the same classes.
        folder: an existing empty folder.

    Returns:
        {'splits': {name: count}, 'rejected': [a line for each image left out]}.

    Raises:
        UserError: a disk too small, or a source without a readable image.
    """
    counts: dict[str, int] = {}
    rejected: list[str] = []
    for split, source in splits.items():
        started = time.monotonic()
        size, decibels = _probe(source, encoding)
        remedy = ", a smaller `short_side` or `quality`, or `format=jpeg`"
        whole.check_room(folder, size * len(source), f"{split} needs about", remedy)
        make = functools.partial(encoding.stored, source)
        index = []
        with open(folder / f"{split}.bin", "wb") as file:
            for data, label, shape in of_each(source, make, rejected, desc=split):
                file.write(data)
                index.append((len(data), label, *shape))
            os.fsync(file.fileno())
        sizes, labels, *shapes = np.asarray(index).T
        np.savez(
            folder / f"{split}.npz",
            offsets=np.cumsum([0, *sizes]),
            labels=labels.astype(np.int32),
            shapes=np.stack(shapes, 1).astype(np.int32),
        )
        counts[split] = len(index)
        print(
            f"{split}: {len(index)} images, {sizes.sum() / 1e6:.1f} MB ({size / 1e3:.1f} kB an "
            f"image), {time.monotonic() - started:.1f} s; crops of 224 px are {decibels:.1f} dB "
            f"from the originals'; {len(source) - len(index)} damaged images left out"
        )
    about = {
        "version": VERSION,
        **dataclasses.asdict(encoding),
        "origin": origin,
        "splits": counts,
        "rejected": rejected,
        "classes": next(iter(splits.values())).classes,
    }
    (folder / "store.json").write_text(json.dumps(about, indent=1) + "\n")
    return {"splits": counts, "rejected": rejected}
