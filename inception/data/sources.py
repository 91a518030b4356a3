"""Sources of examples, all with one interface: random access to (image, label)."""

import dataclasses
import importlib
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from inception import UserError
from inception.data.decoding import DamagedImageError, Record

ALL = "all"  # the split of all images, in a set without splits


class Source(Protocol):
    """Examples by index; safe to read from several threads."""

    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Record, int]:
        """(an encoded image, or uint8 pixels [h, w] or [h, w, 3]; label)."""

    def name(self, index: int) -> str:
        """The example's name for messages: a file, or a record's number."""


@dataclasses.dataclass
class Examples:
    """A Source whose records and names are functions of the index."""

    classes: tuple[str, ...]
    count: int
    read: Callable[[int], tuple[Record, int]]
    name_of: Callable[[int], str]
    left_out: int = 0  # images of a set without splits that belong to the other split
    passed_over: str = ""  # files of a folder that are no pictures, by suffix
    labels: np.ndarray | None = None  # of all examples, int [count], where known without reading
    alternatives: Mapping[int, Sequence[int]] | None = None  # further right labels, by index
    where: str = "`data`"  # what names the classes, for messages
    notes: tuple[str, ...] = ()  # lines to print once

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Record, int]:
        return self.read(index)

    def name(self, index: int) -> str:
        """As of a Source."""
        return self.name_of(index)


def read(source: Source, index: int) -> tuple[Record, int]:
    """The record and its label; DamagedImageError with the name if it cannot be read."""
    try:
        return source[index]
    except OSError as error:
        raise DamagedImageError(f"{source.name(index)}: {error.strerror or error}") from error


def listing(source: Source) -> int | None:
    """A checksum of all images' file names and labels; None where only reading tells labels."""
    if (labels := getattr(source, "labels", None)) is None:
        return None
    names = "\n".join(os.path.basename(source.name(i)) for i in range(len(source)))
    return zlib.crc32(names.encode(errors="surrogateescape"), zlib.crc32(labels.astype("<i4")))


def first_few(names: Sequence[str]) -> str:
    """'a, b, c', or with more than five 'a, b, c, d, e and 7 more'."""
    return ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5)


def check_split(split: str, splits: Sequence[str], where: str = "") -> None:
    """Raises UserError if the split is not in `splits`."""
    if split not in splits:
        raise UserError(
            f"`data`: there is no split '{split}'{where}; there are {', '.join(splits)}"
        )


def held_out_fifth(labels: np.ndarray, split: str, *, names: tuple[str, str]) -> np.ndarray:
    """Indices of one part of a set without splits, the same on every machine.

    The held-out fifth is stratified by class.

    Args:
        labels: int [n], at least two of each class.
        split: one of `names`, the names of the rest and of the fifth; or 'all'.
    """
    from sklearn.model_selection import train_test_split

    every = np.arange(len(labels))
    check_split(split, (*names, ALL))
    if split == ALL:
        return every
    counts = np.unique(labels, return_counts=True)[1]
    if min(counts) < 2 or -(-len(labels) // 5) < len(counts):
        raise UserError(
            f"`data`: a fifth of {len(labels)} images cannot be held out with one of each of the "
            f"{len(counts)} classes (the smallest has {min(counts)}): add images, make train and "
            "val folders, or evaluate split 'all'"
        )
    halves = train_test_split(every, test_size=0.2, stratify=labels, random_state=0)
    return np.sort(halves[names.index(split)])


def digits(split: str) -> Examples:
    """scikit-learn's 1,797 handwritten digits of 8x8 px; splits train and test.

    Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, test part. A
    stratified fifth is the test split.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    chosen = held_out_fifth(found.target, split, names=("train", "test"))
    images = np.round(found.images[chosen] * (255 / 16)).astype(np.uint8)
    labels = found.target[chosen].tolist()
    return Examples(
        tuple("0123456789"),
        len(chosen),
        lambda index: (images[index], labels[index]),
        lambda index: f"digit {chosen[index]}",
        labels=found.target[chosen],
    )


def synthetic(split: str, examples: int, classes: int) -> Examples:
    """Noise of 256x256 px around one colour per class, learnable, for benchmarks and tests.

    An image is a function of the split and the index.
    """
    colors = np.random.default_rng(0).integers(64, 192, (classes, 3))
    stream = sum(split.encode())

    def image(index: int) -> tuple[np.ndarray, int]:
        label = index % classes
        noise = np.random.default_rng((stream, index)).integers(-64, 64, (256, 256, 3))
        return (colors[label] + noise).astype(np.uint8), label

    names = tuple(f"colour {i}" for i in range(classes))
    return Examples(
        names,
        examples,
        image,
        lambda index: f"synthetic image {index}",
        labels=np.arange(examples) % classes,
    )


def open_source(
    source: str,
    *,
    split: str,
    path: str = "",
    name: str = "",
    examples: int = 0,
    classes: int = 0,
    bits: int = 0,
    labels: str = "",
    training: bool = True,
) -> Source:
    """The split of a set: 'digits', 'folder', 'tfds', 'store' or 'synthetic'.

    Args:
        labels: a folder's list of classes, as of labels.listed.
        training: whether it is the training split, in which each class needs a picture.

    Raises:
        UserError: no such set or split, an empty split; a store of pictures of other `bits`.
    """
    lazily = importlib.import_module
    if labels and source != "folder":
        raise UserError(f"`labels`={labels} is for `source=folder`, not for {source}")
    openers = {
        "digits": lambda: digits(split),
        "folder": lambda: lazily("inception.data.folders").open_folder(
            path, split, labels=labels, training=training
        ),
        "tfds": lambda: lazily("inception.data.tfds").open_tfds(path, name, split),
        "store": lambda: lazily("inception.data.store").open_store(path, split, bits=bits),
        "synthetic": lambda: synthetic(split, examples, classes),
    }
    opened = openers[source]()
    if len(opened) == 0:
        raise UserError(f"`data`: split '{split}' of source {source} {path} has no image")
    return opened
