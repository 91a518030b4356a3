"""Where examples come from, one interface for all kinds: random access to (image, label)."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from inception import UserError
from inception.data.decoding import DamagedImageError, Record

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
SPLITS = {"train", "val", "validation", "test"}  # a folder with one of these has splits
ALL = "all"  # a split of every set that comes without splits


class Source(Protocol):
    """Examples by index. Threads read it at the same time."""

    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Record, int]:
        """(an encoded image, or uint8 pixels [h, w] or [h, w, 3]; label)."""

    def name(self, index: int) -> str:
        """What a person would look for: a file, or a record's number."""


def read(source: Source, index: int) -> tuple[Record, int]:
    """The record and its label; DamagedImageError, with its name, where it cannot be read."""
    try:
        return source[index]
    except OSError as error:
        raise DamagedImageError(f"{source.name(index)}: {error.strerror or error}") from error


def held_out_fifth(labels: np.ndarray, split: str, *, names: tuple[str, str]) -> np.ndarray:
    """Indices of one part of a set that comes without splits, the same on every machine.

    A stratified fifth is held out: each class gives its share.

    Args:
        labels: int [n], at least two of each class.
        split: one of `names`, what the rest and the fifth are called; or 'all'.
    """
    from sklearn.model_selection import train_test_split

    every = np.arange(len(labels))
    if split == ALL:
        return every
    if split not in names:
        raise UserError(
            f"`data`: there is no split '{split}'; there are {', '.join((*names, ALL))}"
        )
    if -(-len(labels) // 5) < len(np.unique(labels)):
        raise UserError(
            f"`data`: a fifth of {len(labels)} images is fewer than one of each class: add "
            "images, make train and val folders, or evaluate split 'all'"
        )
    halves = train_test_split(every, test_size=0.2, stratify=labels, random_state=0)
    return np.sort(halves[names.index(split)])


class Digits:
    """1,797 handwritten digits of 8x8 px inside scikit-learn; splits train and test.

    Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, test part. A
    stratified fifth is the test split.
    """

    classes = tuple("0123456789")

    def __init__(self, split: str):
        from sklearn.datasets import load_digits

        digits = load_digits()
        chosen = held_out_fifth(digits.target, split, names=("train", "test"))
        self._images = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)
        self._labels = digits.target[chosen]
        self._indices = chosen

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self._images[index], int(self._labels[index])

    def name(self, index: int) -> str:
        return f"digit {self._indices[index]}"


class Synthetic:
    """Noise of 256x256 px around one colour a class, learnable: for measuring, and for tests.

    An image is a function of the split and the index.
    """

    def __init__(self, split: str, examples: int, classes: int):
        self.classes = tuple(f"colour {i}" for i in range(classes))
        self._examples = examples
        self._split = split
        self._colors = np.random.default_rng(0).integers(64, 192, (classes, 3))

    def __len__(self) -> int:
        return self._examples

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        label = index % len(self.classes)
        stream = sum(self._split.encode())
        noise = np.random.default_rng((stream, index)).integers(-64, 64, (256, 256, 3))
        return (self._colors[label] + noise).astype(np.uint8), label

    def name(self, index: int) -> str:
        return f"synthetic image {index}"


def check_classes(first: Sequence[str], *others: Sequence[str]) -> None:
    """Raises UserError where two splits number their classes differently."""
    for other in others:
        if tuple(first) != tuple(other):
            differing = sorted(set(first) ^ set(other))
            raise UserError(
                f"`data`: the splits differ in their classes ({', '.join(differing[:5])}): each "
                "needs a folder in all of them"
            )


class _Relabelled:
    """A source under other labels: those of the same classes in a longer list."""

    def __init__(self, source: Source, classes: tuple[str, ...]):
        self.classes = classes
        self._source = source
        self._labels = [classes.index(name) for name in source.classes]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[Record, int]:
        record, label = self._source[index]
        return record, self._labels[label]

    def name(self, index: int) -> str:
        return self._source.name(index)


def as_classes(source: Source, classes: tuple[str, ...]) -> Source:
    """The source with the labels that `classes` gives its classes: its own or more, in any order.

    Raises:
        UserError: the source has a class that is none of them.
    """
    if source.classes == classes:
        return source
    unknown = sorted(set(source.classes) - set(classes))
    if unknown:
        raise UserError(
            f"`data`: {', '.join(unknown[:5])}{', ...' * (len(unknown) > 5)} "
            f"{'is' if len(unknown) == 1 else 'are'} none of the "
            f"{len(classes)} classes that the network knows ({', '.join(classes[:3])}, ...)"
        )
    return _Relabelled(source, classes)


def open_source(
    source: str, *, split: str, path: str = "", name: str = "", examples: int = 0, classes: int = 0
) -> Source:
    """The split of a set: 'digits', 'folder', 'tfds', 'store' or 'synthetic'.

    Raises:
        UserError: no such set or split, an empty one.
    """
    opened: Source
    if source == "digits":
        opened = Digits(split)
    elif source == "folder":
        from inception.data.folder import Folder

        opened = Folder(path, split)
    elif source == "tfds":
        from inception.data.tfds import Tfds

        opened = Tfds(path, name, split)
    elif source == "store":
        from inception.data.store import Store

        opened = Store(path, split)
    elif source == "synthetic":
        opened = Synthetic(split, examples, classes)
    else:
        raise ValueError(f"unknown source {source}")
    if len(opened) == 0:
        raise UserError(f"`data`: split '{split}' of source {source} {path} has no image")
    return opened
