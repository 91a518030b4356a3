"""Reads every image of a config's splits, and names those that a run would not take as they are."""

import collections
import hashlib
import io
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from inception.data import decoding, pipeline, progress, sources
from inception.data.classes import as_classes

PLAIN = ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "I", "I;16", "I;16B", "I;16L")  # Pillow's modes


def faults(data: decoding.Record, *, max_megapixels: float, bits: int) -> Iterator[tuple[str, str]]:
    """(kind, reason) of what is wrong with an encoded image; arguments as of decoding.decode.

    The kinds are empty, damaged, too_large, mode, bits, animation. A JPEG is decoded at an eighth
    of its size, in grey: all of its data is read, in half the time.
    """
    if isinstance(data, bytes) and not data:
        yield "empty", "an empty file"
        return
    reading: dict[str, Any] = {"max_megapixels": max_megapixels, "bits": bits}
    try:
        if not isinstance(data, bytes):
            decoding.decode(data, "", **reading)
            return
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > max_megapixels * 1e6:
                limit = f"more than config.data.max_megapixels={max_megapixels:g}"
                yield "too_large", f"{image.width} x {image.height} px, {limit}"
                return
            if image.mode not in PLAIN:
                yield "mode", f"of mode {image.mode}, not grey, palette or RGB"
            if image.format == "MPO" or image.mode == "F":  # photos of phones; no number is right
                frames = 1
            else:
                frames = getattr(image, "n_frames", 1)
            if frames > 1:
                yield "animation", f"{frames} pictures, of which the first counts"
            if image.format in ("JPEG", "MPO"):
                image.draft("L", (1, 1))
                image.load()
                return
            if (
                image.has_transparency_data
                and np.asarray(image.convert("RGBA"))[..., 3].min() < 255
            ):
                yield "mode", "transparent in part, which is dropped"
            floats = image.mode == "F"
        if (most := decoding.greatest(data)) >> (bits or 16):
            yield "bits", f"its greatest number, {most:,}, is beyond config.data.bits={bits or 16}"
            return
        if most and not bits:
            used = max(8, most.bit_length())
            yield "bits", f"16 bits a channel, {used} in use, and config.data.bits is not given"
        if not floats:
            decoding.decode(data, "", **reading)
    except decoding.DamagedImageError as error:
        yield "damaged", str(error).removeprefix(": ")
    except Exception as error:  # Pillow's plugins raise any type on damaged files
        known = str(error).replace(f"{io.BytesIO}", "the file")
        yield "damaged", "not an image" if "cannot identify" in known else known


def run(config: ConfigDict) -> dict[str, Any]:
    """Reads all images of the training split and of the other one, on config.run.workers threads.

    Returns:
        {'splits': {split: {class: images}}, 'problems': [{'image', 'kind', 'reason'}]}; the kinds
        are those of `faults`, and 'duplicate' for an evaluated image whose bytes are those of a
        training image.

    Raises:
        UserError: as of open_split and as_classes.
    """
    names = dict.fromkeys((config.data.train_split, config.data.eval_split))
    training = pipeline.open_split(config, config.data.train_split)
    classes = training.classes
    opened = {
        name: training
        if name == config.data.train_split
        else as_classes(pipeline.open_split(config, name), classes, name)
        for name in names
    }
    of_set = {"bits": config.data.bits, "where": config.data.path}
    for line in pipeline.remarks(*opened.values(), **of_set):
        print(line, file=sys.stderr)
    reading = {knob: config.data[knob] for knob in pipeline.READING}
    counts: dict[str, dict[str, int]] = {}
    problems: list[dict[str, str]] = []
    trained: dict[bytes, int] = {}  # hash -> index
    for split, source in opened.items():

        def look(index: int, source: sources.Source = source) -> tuple[int, bytes, list]:
            """(label, hash, faults) of an image."""
            try:
                data, label = sources.read(source, index)
            except decoding.DamagedImageError as error:
                reason = str(error).removeprefix(f"{source.name(index)}: ")
                return -1, b"", [("damaged", reason)]
            found = list(faults(data, **reading))
            content = data if isinstance(data, bytes) else data.tobytes()
            hashed = hashlib.blake2b(content, digest_size=16).digest() if content else b""
            return label, hashed, found

        labels: collections.Counter[int] = collections.Counter()
        count = len(source)
        looked = pipeline.in_threads(look, 0, count, workers=config.run.workers, ahead=16)
        bar = progress.bar(looked, desc=split, total=count, unit="image")
        for index, (label, digest, found) in enumerate(bar):
            labels[label] += 1
            image = source.name(index)
            if digest in trained and split != config.data.train_split:
                same = training.name(trained[digest])
                found.append(("duplicate", f"the same bytes as the training image {same}"))
            elif digest and split == config.data.train_split:
                trained.setdefault(digest, index)
            problems += [{"image": image, "kind": kind, "reason": text} for kind, text in found]
        counts[split] = {name: labels[i] for i, name in enumerate(classes)}
    return {"splits": counts, "problems": problems}
