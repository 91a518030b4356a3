"""The store that trains fast: a smaller copy of every image of a set, in one file a split."""

import dataclasses
import io
import json
import os
import pathlib
import shutil
import sys
import time
import zipfile
from typing import Any

import numpy as np
import tqdm
from PIL import Image

from inception import UserError
from inception.data import cropping, decoding, paths, pipeline, progress, sources

VERSION = 1
FORMATS = ("jpeg", "rgb")
PROBES = 100  # images from which the size and the effect on pixels are estimated beforehand


class Store:
    """A source that `launch.py prepare --short_side` wrote: one file of JPEGs or pixels a split.

    PATH/store.json describes it; PATH/SPLIT.bin holds the images one after the other,
    PATH/SPLIT.npz where each begins ('offsets', int64 [n + 1]), its 'labels', int32 [n], and its
    'shapes', int32 [n, 2], height and width. The images are mapped into memory: of plain pixels
    only the rows that are used are read.

    NOTE: the pages count as the process's memory though the system may drop them at any time, and
    a file that is cut short while it is open kills the process.
    """

    def __init__(self, path: str, split: str):
        root = paths.on_disk(path)
        try:
            about = json.loads((root / "store.json").read_text())
            written_by = about["version"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"`path`={path} is no store (store.json: {error}): write one with "
                "launch.py prepare --short_side"
            ) from error
        if written_by != VERSION:
            raise UserError(
                f"`path`={path} was written by another version of this program (store "
                f"{written_by}, this one reads {VERSION}): prepare it again"
            )
        if split not in about["splits"]:
            raise UserError(
                f"`data`: there is no split '{split}' in {path}; there are "
                f"{', '.join(about['splits'])}"
            )
        self._where = f"{path}/{split}"
        try:
            with np.load(root / f"{split}.npz") as index:
                self._offsets, self._labels = index["offsets"], index["labels"]
                self._shapes = index["shapes"] if about["format"] == "rgb" else None
            size = (root / f"{split}.bin").stat().st_size
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"`path`={path} is damaged ({error}): prepare it again") from error
        if size != self._offsets[-1]:
            raise UserError(
                f"{self._where}.bin has {size} bytes where {self._offsets[-1]} were written: copy "
                "or prepare it again"
            )
        mapped = np.memmap(root / f"{split}.bin", np.uint8, "r") if size else np.empty(0)
        self._bytes = np.asarray(mapped)
        self.classes = tuple(about["classes"])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[decoding.Record, int]:
        start, end = self._offsets[index : index + 2].tolist()
        label = int(self._labels[index])
        if self._shapes is None:
            return self._bytes[start:end].tobytes(), label
        height, width = self._shapes[index].tolist()
        return self._bytes[start:end].reshape(height, width, 3), label

    def name(self, index: int) -> str:
        return f"{self._where} record {index}"


Stored = tuple[bytes, int, tuple[int, int]]  # an image's bytes, label, (height, width)


@dataclasses.dataclass(frozen=True)
class _Encoder:
    """A source's images -> what the store holds of them."""

    source: sources.Source
    short_side: int
    quality: int
    format: str
    max_megapixels: float

    def __call__(self, index: int) -> Stored | str:
        """The image at an index as it is stored; or a line that says why it cannot be."""
        try:
            image, label = self.decode(index)
            small = self.shrink(image)
            return self.encode(small), label, (small.height, small.width)
        except decoding.DamagedImageError as error:
            return str(error)
        except OSError as error:  # what a JPEG cannot hold: more than 65,500 px across
            return f"{self.source.name(index)}: {error}"

    def decode(self, index: int) -> tuple[Image.Image, int]:
        record, label = sources.read(self.source, index)
        name = self.source.name(index)
        return decoding.decode(record, name, max_megapixels=self.max_megapixels), label

    def shrink(self, image: Image.Image) -> Image.Image:
        """The shorter side becomes short_side; a smaller image stays as it is."""
        scale = self.short_side / min(image.size)
        if scale >= 1:
            return image
        size = round(image.width * scale), round(image.height * scale)
        return image.resize(size, Image.Resampling.BICUBIC)

    def encode(self, image: Image.Image) -> bytes:
        if self.format == "rgb":
            return np.asarray(image).tobytes()
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue()


def _probe(encoder: _Encoder) -> tuple[float, float]:
    """(mean bytes an image; dB between crops of 224 px from the store and from the originals).

    Of up to 100 images spread over the source; the crops are the paper's, resized exactly.
    """
    count = min(PROBES, len(encoder.source))
    sizes, errors = [], []
    for index in np.linspace(0, len(encoder.source) - 1, count).astype(int).tolist():
        try:
            image, _ = encoder.decode(index)
            small = encoder.shrink(image)
            data = encoder.encode(small)
        except (decoding.DamagedImageError, OSError):
            continue
        stored = small if encoder.format == "rgb" else Image.open(io.BytesIO(data)).convert("RGB")
        box = cropping.inception_crop(
            *image.size,
            np.random.default_rng(index).random(cropping.UNIFORMS),
            area_range=(0.08, 1.0),
            aspect_range=(3 / 4, 4 / 3),
        )
        scale = np.tile(np.divide(stored.size, image.size), 2)
        size, method = (224, 224), Image.Resampling.BILINEAR
        before = np.asarray(image.resize(size, method, box=box), np.float32)
        left, top, right, bottom = (np.asarray(box) * scale).tolist()
        after = np.asarray(stored.resize(size, method, box=(left, top, right, bottom)), np.float32)
        sizes.append(len(data))
        errors.append(np.mean((before - after) ** 2))
    if not sizes:
        raise UserError("every image looked at is damaged: is this the right source?")
    return float(np.mean(sizes)), float(10 * np.log10(255**2 / max(np.mean(errors), 1e-9)))


def write_split(
    encoder: _Encoder, folder: pathlib.Path, split: str, *, threads: int
) -> tuple[int, list[str]]:
    """Writes SPLIT.bin and SPLIT.npz; returns the count of images, and a line for each rejected."""
    count = len(encoder.source)
    encoded = pipeline.in_threads(encoder, 0, count, count=threads, ahead=16)
    offsets, labels, shapes, rejected = [0], [], [], []
    with (folder / f"{split}.bin").open("wb") as file:
        for item in progress.bar(encoded, desc=split, total=count, unit="image"):
            if isinstance(item, str):
                rejected.append(item)
                tqdm.tqdm.write(f"WARNING: left out: {item}", file=sys.stderr)
                continue
            data, label, shape = item
            file.write(data)
            offsets.append(offsets[-1] + len(data))
            labels.append(label)
            shapes.append(shape)
        os.fsync(file.fileno())
    np.savez(
        folder / f"{split}.npz",
        offsets=np.asarray(offsets, np.int64),
        labels=np.asarray(labels, np.int32),
        shapes=np.asarray(shapes, np.int32).reshape(-1, 2),
    )
    return len(labels), rejected


def _check_room(split: str, needed: float, folder: pathlib.Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"`output`: {split} needs about {needed / 1e9:.1f} GB and {folder.parent} has "
            f"{free / 1e9:.1f} GB free: choose another disk, a smaller `short_side` or "
            "`quality`, or `format=jpeg`"
        )


def write_store(
    splits: dict[str, sources.Source],
    folder: pathlib.Path,
    *,
    short_side: int,
    quality: int,
    format: str,
    max_megapixels: float,
    threads: int,
    origin: str,
) -> dict[str, Any]:
    """Writes a smaller copy of every image of the sources; prints size, time, effect on pixels.

    An image that cannot be read is left out and named. store.json comes last: a folder without it
    is no store.

    Args:
        splits: sources by the name of the split, of the same classes.
        folder: exists, is empty.
        short_side: of the stored images, pixels; smaller ones keep their size.
        quality: of the JPEGs, 1-100.
        format: 'jpeg', or 'rgb' for plain pixels: several times the bytes, no decoding.

    Returns:
        {'splits': {name: count}, 'rejected': [a line each]}.

    Raises:
        UserError: too small a disk, a source without a readable image.
    """
    counts, rejected = {}, []
    for split, source in splits.items():
        started = time.monotonic()
        encoder = _Encoder(source, short_side, quality, format, max_megapixels)
        size, decibels = _probe(encoder)
        _check_room(split, size * len(source), folder)
        counts[split], left_out = write_split(encoder, folder, split, threads=threads)
        rejected += left_out
        print(
            f"{split}: {counts[split]} images, {(folder / f'{split}.bin').stat().st_size / 1e6:.1f}"
            f" MB ({size / 1e3:.1f} kB an image), {time.monotonic() - started:.1f} s; crops "
            f"of 224 px are {decibels:.1f} dB from the originals'"
            + (f"; {len(left_out)} damaged images left out" if left_out else "")
        )
    about = {
        "version": VERSION,
        "format": format,
        "short_side": short_side,
        "quality": quality if format == "jpeg" else None,
        "origin": origin,
        "splits": counts,
        "rejected": rejected,
        "classes": next(iter(splits.values())).classes,
    }
    (folder / "store.json").write_text(json.dumps(about, indent=1) + "\n")
    return {"splits": counts, "rejected": rejected}
