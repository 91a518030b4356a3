"""Sources of examples, all with one interface: random access to (image, label)."""

import collections
import dataclasses
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from etils import epath

from inception import UserError
from inception.data import paths
from inception.data.decoding import FORMATS, SUFFIXES, DamagedImageError, Record

SPLITS = {"train", "val", "validation", "test"}  # a folder that contains one of these has splits
# Names that operating systems, storage and archives leave in folders of pictures.
STRAY_FOLDERS = {"lost+found", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information"}
STRAY_FILES = {"Thumbs.db", "desktop.ini", "Icon\r"}
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


def counted(suffixes: collections.Counter[str]) -> str:
    """Counts as text, as in '2 .mp4, 1 no suffix'."""
    return ", ".join(f"{n} {suffix}" for suffix, n in suffixes.most_common())


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
    what = f"`data`: a fifth of {len(labels)} images cannot be held out"
    remedy = "add images, make train and val folders, or evaluate split 'all'"
    with paths.explained(what, remedy, ValueError):  # less than one image of a class
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


def folders_in(folder: epath.Path) -> list[epath.Path]:
    """The folders in a folder, by name; passes over hidden folders and STRAY_FOLDERS."""
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name not in STRAY_FOLDERS and path.is_dir()
    )


def pictures_below(
    folder: epath.Path, others: collections.Counter[str], above: frozenset[str] = frozenset()
) -> Iterator[epath.Path]:
    """Files with a picture's suffix at any depth; passes over names that begin with a dot.

    Args:
        others: counts the suffixes of the files that are no pictures.
        above: the folders that contain this one; a link to one of them is not followed.
    """
    above |= {os.path.realpath(folder)}
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in STRAY_FOLDERS | STRAY_FILES:
            continue  # macOS leaves ._photo.jpg beside photo.jpg
        if path.is_dir():
            if os.path.realpath(path) not in above:
                yield from pictures_below(path, others, above)
        elif path.suffix.lower() in SUFFIXES:
            yield path
        else:
            others[path.suffix.lower() or "no suffix"] += 1


def folder(path: str, split: str) -> Examples:
    """A folder of class folders of pictures, decoding.SUFFIXES, at any depth below the class.

    PATH/SPLIT/CLASS/... if PATH contains a folder train, val, validation or test; otherwise
    PATH/CLASS/..., where split 'val' is a fifth of each class, 'train' the rest, and 'all' both.
    Classes are sorted by name; names that begin with a dot are passed over. PATH may be in a
    bucket (gs://...).
    """
    if not path:
        raise UserError("`path` is empty: name the folder of class folders")
    root = paths.at(path)
    if not root.is_dir():
        raise UserError(f"`path`={path}: no such folder")
    folders = folders_in(root)
    named = [p.name for p in folders if p.name in {*SPLITS, split}]
    if named:
        check_split(split, [p.name for p in folders], f" in {path}")
        root = root / split
        folders = folders_in(root)
    if not folders:
        as_split = f"; a folder of the name {split} is taken for a split: rename the class"
        raise UserError(f"`path`: {root} has no class folders in it{as_split * bool(named)}")
    fewest = 1 if named or split == ALL else 2
    others: collections.Counter[str] = collections.Counter()
    inside = [sorted(pictures_below(p, others)) for p in folders]
    for class_folder, found in zip(folders, inside, strict=True):
        if len(found) < fewest:
            raise UserError(
                f"`path`: class folder {class_folder} has {'one' if found else 'no'} image "
                f"({', '.join(sorted(FORMATS))}): add some, or remove it"
                + (", make train and val folders, or evaluate split 'all'" if found else "")
            )
    files = [file for found in inside for file in found]
    labels = np.repeat(np.arange(len(folders)), [len(found) for found in inside])
    names = ("train", "val")
    chosen = np.arange(len(files)) if named else held_out_fifth(labels, split, names=names)
    return Examples(
        tuple(p.name for p in folders),
        len(chosen),
        lambda index: (files[chosen[index]].read_bytes(), int(labels[chosen[index]])),
        lambda index: str(files[chosen[index]]),
        left_out=len(files) - len(chosen),
        passed_over=counted(others),
        labels=labels[chosen],
    )


def check_classes(*splits: Sequence[str]) -> None:
    """Raises UserError if the splits' classes, or their order, differ."""
    if len(set(map(tuple, splits))) > 1:
        differing = sorted(set().union(*splits) - set(splits[0]).intersection(*splits))
        raise UserError(
            f"`data`: the splits differ in their classes ({', '.join(differing[:5])}): each "
            "needs a folder in all of them"
        )


def as_classes(source: Source, classes: tuple[str, ...]) -> Source:
    """The source with labels that index `classes`, which contains its classes in any order.

    Raises:
        UserError: the source has a class that is not in `classes`.
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
    labels = [classes.index(name) for name in source.classes]

    def relabelled(index: int) -> tuple[Record, int]:
        record, label = source[index]
        return record, labels[label]

    if isinstance(source, Examples):
        return dataclasses.replace(source, classes=classes, read=relabelled)
    return Examples(classes, len(source), relabelled, source.name)


def open_source(
    source: str,
    *,
    split: str,
    path: str = "",
    name: str = "",
    examples: int = 0,
    classes: int = 0,
    bits: int = 0,
) -> Source:
    """The split of a set: 'digits', 'folder', 'tfds', 'store' or 'synthetic'.

    Raises:
        UserError: no such set or split, an empty split; a store of pictures of other `bits`.
    """
    lazily = importlib.import_module
    openers = {
        "digits": lambda: digits(split),
        "folder": lambda: folder(path, split),
        "tfds": lambda: lazily("inception.data.tfds").open_tfds(path, name, split),
        "store": lambda: lazily("inception.data.store").open_store(path, split, bits=bits),
        "synthetic": lambda: synthetic(split, examples, classes),
    }
    opened = openers[source]()
    if len(opened) == 0:
        raise UserError(f"`data`: split '{split}' of source {source} {path} has no image")
    return opened
