"""The store that trains fast: a smaller copy of every image of a set, in one file a split."""

import functools
import io
import json
import os
import pathlib
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tqdm
from PIL import Image

from inception import UserError
from inception.data import cropping, decoding, paths, pipeline, progress, sources
from inception.data.output import check_room

VERSION = 1
FORMATS = ("jpeg", "rgb")
PROBES = 100  # images from which the size and the effect on pixels are estimated beforehand
MEGAPIXELS = 1000.0  # larger pictures are left out


def open_store(path: str, split: str) -> sources.Examples:
    """A source that `launch.py prepare --short_side` wrote: one file of JPEGs or pixels a split.

    PATH/store.json describes it; PATH/SPLIT.bin holds the images one after the other,
    PATH/SPLIT.npz where each begins ('offsets', int64 [n + 1]), its 'labels', int32 [n], and its
    'shapes', int32 [n, 2], height and width. The images are mapped into memory: of plain pixels
    only the rows that are used are read.

    NOTE: the pages count as the process's memory though the system may drop them at any time, and
    a file that is cut short while it is open kills the process.
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
    sources.check_split(split, list(about["splits"]), f" in {path}")
    damage = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    with paths.explained(f"`path`={path} is damaged", "prepare it again", damage):
        with np.load(root / f"{split}.npz") as file:
            index = dict(file)
        mapped = np.memmap(root / f"{split}.bin", np.uint8, "r")
    offsets, labels, shapes = (index[name] for name in ("offsets", "labels", "shapes"))
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
        tuple(about["classes"]), len(labels), record, lambda index: f"{where} record {index}"
    )


Stored = tuple[bytes, int, tuple[int, int]]  # an image's bytes, label, (height, width)
Encode = Callable[[Image.Image], tuple[bytes, tuple[int, int]]]


def _encode(
    image: Image.Image, *, short_side: int, quality: int, format: str
) -> tuple[bytes, tuple[int, int]]:
    """(bytes, (height, width)), the shorter side at most short_side."""
    scale = short_side / min(image.size)
    if scale < 1:
        size = round(image.width * scale), round(image.height * scale)
        image = image.resize(size, Image.Resampling.BICUBIC)
    if format == "rgb":
        return image.tobytes(), (image.height, image.width)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue(), (image.height, image.width)


def _stored(source: sources.Source, encode: Encode, index: int) -> Stored | str:
    """What the store holds of an image; or a line that says why it cannot be."""
    name = source.name(index)
    try:
        record, label = sources.read(source, index)
        data, shape = encode(decoding.decode(record, name, max_megapixels=MEGAPIXELS))
        return data, label, shape
    except decoding.DamagedImageError as error:
        return str(error)
    except OSError as error:  # what a JPEG cannot hold: more than 65,500 px across
        return f"{name}: {error}"


def _probe(source: sources.Source, encode: Encode, format: str) -> tuple[float, float]:
    """(mean bytes an image; dB between crops of 224 px from the store and from the originals).

    Of up to 100 images spread over the source; the crops are the paper's, resized exactly.
    """
    sizes, errors = [], []
    for index in np.linspace(0, len(source) - 1, min(PROBES, len(source))).astype(int).tolist():
        stored = _stored(source, encode, index)
        if isinstance(stored, str):
            continue
        data, _, shape = stored
        record = data if format == "jpeg" else np.frombuffer(data, np.uint8).reshape(*shape, 3)
        images = [
            decoding.decode(each, "", max_megapixels=MEGAPIXELS)
            for each in (source[index][0], record)
        ]
        box = cropping.inception_crop(
            *images[0].size,
            np.random.default_rng(index).random(cropping.UNIFORMS),
            area_range=(0.08, 1.0),
            aspect_range=(3 / 4, 4 / 3),
        )
        of_sides = np.divide(box, images[0].size * 2)
        before, after = (
            np.asarray(
                image.resize((224, 224), cropping.BILINEAR, box=tuple(of_sides * (image.size * 2))),
                np.float32,
            )
            for image in images
        )
        sizes.append(len(data))
        errors.append(np.mean((before - after) ** 2))
    if not sizes:
        raise UserError("every image looked at is damaged: is this the right source?")
    return float(np.mean(sizes)), float(10 * np.log10(255**2 / max(np.mean(errors), 1e-9)))


def _write_split(
    source: sources.Source, encode: Encode, path: pathlib.Path, *, workers: int | str
) -> tuple[int, list[str]]:
    """Writes PATH.bin and PATH.npz; returns the count of images, and a line for each rejected."""
    count = len(source)
    make = functools.partial(_stored, source, encode)
    encoded = pipeline.in_threads(make, 0, count, workers=workers, ahead=16)
    offsets, labels, shapes, rejected = [0], [], [], []
    with open(f"{path}.bin", "wb") as file:
        for item in progress.bar(encoded, desc=path.name, total=count, unit="image"):
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
        f"{path}.npz",
        offsets=np.asarray(offsets, np.int64),
        labels=np.asarray(labels, np.int32),
        shapes=np.asarray(shapes, np.int32).reshape(-1, 2),
    )
    return len(labels), rejected


def write_store(
    splits: Mapping[str, sources.Source],
    folder: pathlib.Path,
    *,
    short_side: int,
    quality: int,
    format: str,
    origin: str,
    workers: int | str = "all",
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
    encode = functools.partial(_encode, short_side=short_side, quality=quality, format=format)
    counts: dict[str, int] = {}
    rejected: list[str] = []
    for split, source in splits.items():
        started = time.monotonic()
        size, decibels = _probe(source, encode, format)
        remedy = ", a smaller `short_side` or `quality`, or `format=jpeg`"
        check_room(folder, size * len(source), f"{split} needs about", remedy)
        counts[split], left_out = _write_split(source, encode, folder / split, workers=workers)
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
