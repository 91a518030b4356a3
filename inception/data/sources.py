"""Where examples come from, one interface for all kinds: random access to (image, label)."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from etils import epath

from inception import UserError
from inception.data import paths
from inception.data.decoding import Record
from inception.data.store import Store

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
KINDS = ("digits", "folder", "tfds", "store", "synthetic")
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
            f"config.data: there is no split '{split}'; there are {', '.join((*names, ALL))}"
        )
    if -(-len(labels) // 5) < len(np.unique(labels)):
        raise UserError(
            f"config.data: a fifth of {len(labels)} images is fewer than one of each class: add "
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


def _images_below(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if path.name.startswith("."):  # macOS leaves ._photo.jpg beside photo.jpg
            continue
        if path.is_dir():
            yield from _images_below(path)
        elif path.suffix.lower() in SUFFIXES:
            yield path


class Folder:
    """A folder of class folders of JPEG, PNG and WebP files, at any depth below the class.

    PATH/SPLIT/CLASS/... if PATH has a folder train, val, validation or test; otherwise
    PATH/CLASS/..., and of each class a fifth is split 'val', the rest 'train', both 'all'. Classes
    are sorted by name; names that begin with a dot are passed over. PATH may lie in a bucket
    (gs://...). `left_out` images of an unsplit PATH are in the other part.
    """

    def __init__(self, path: str, split: str):
        if not path:
            raise UserError("config.data.path is empty: name the folder of class folders")
        root = paths.at(path)
        if not root.is_dir():
            raise UserError(f"config.data.path={path}: no such folder")
        found_splits = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name in SPLITS)
        has_splits = bool(found_splits) or (root / split).is_dir()
        root = root / split if has_splits else root
        if not root.is_dir():
            raise UserError(
                f"config.data: there is no split '{split}' in {path}; there are "
                f"{', '.join(found_splits)}"
            )
        folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        if not folders:
            raise UserError(f"config.data.path: {root} has no class folders in it")
        files, labels = [], []
        for label, folder in enumerate(folders):
            found = sorted(_images_below(folder))
            if not found:
                raise UserError(
                    f"config.data.path: class folder {folder} has no image "
                    f"({', '.join(sorted(SUFFIXES))}): add some or remove it"
                )
            if len(found) == 1 and not has_splits and split != ALL:
                raise UserError(
                    f"config.data.path: class folder {folder} has one image, and a fifth of each "
                    "class is held out: add some, make train and val folders, or evaluate split "
                    "'all'"
                )
            files += found
            labels += [label] * len(found)
        self.classes = tuple(folder.name for folder in folders)
        every = np.asarray(labels)
        chosen = (
            np.arange(len(files))
            if has_splits
            else held_out_fifth(every, split, names=("train", "val"))
        )
        self.left_out = len(files) - len(chosen)
        self._files = [files[i] for i in chosen]
        self._labels = every[chosen]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        return self._files[index].read_bytes(), int(self._labels[index])

    def name(self, index: int) -> str:
        return str(self._files[index])


class Tfds:
    """A TFDS image-classification set prepared as ArrayRecord, read without TensorFlow.

    PATH is TFDS's data folder, and the set `name` ('imagenet2012', 'mnist:3.0.1') is looked up
    in it; or PATH is the folder of one prepared version and `name` is empty. Splits may be
    sliced: 'train[:90%]'.
    """

    def __init__(self, path: str, name: str, split: str):
        import tensorflow_datasets as tfds

        where = f"config.data.path={path} config.data.name={name}"
        root = paths.here(path)
        try:
            if name:
                builder = tfds.core.read_only_builder.builder_from_files(
                    name, data_dir=str(root), file_format="array_record"
                )
            else:
                builder = tfds.builder_from_directory(str(root))
        except Exception as error:
            there = sorted(p.name for p in root.iterdir()) if root.is_dir() else []
            near = difflib.get_close_matches(name.split(":")[0], there, n=1, cutoff=0.0)
            found = f"there is {', '.join(there[:20])}" if there else "no such folder, or empty"
            raise UserError(
                f"{where}: no prepared TFDS set of that name; {found}"
                + (f"; the nearest is {near[0]}" if near and name else "")
            ) from error
        info = builder.info
        if info.file_format.value != "array_record":
            raise UserError(
                f"{where}: prepared as {info.file_format.value}; prepare it with "
                "file_format='array_record'"
            )
        keys = info.supervised_keys
        if not keys or not isinstance(info.features[keys[0]], tfds.features.Image):
            raise UserError(f"{where}: not an image-classification set (it has {info.features})")
        self._image_key, self._label_key = keys
        try:
            self._records = builder.as_data_source(
                split, decoders={self._image_key: tfds.decode.SkipDecoding()}
            )
        except ValueError as error:
            raise UserError(
                f"split '{split}' does not exist in {where}: it has {', '.join(info.splits)}"
            ) from error
        self.classes = tuple(info.features[self._label_key].names)
        self._split = split

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        try:
            example = self._records[index]
        except RuntimeError as error:  # a damaged block of the file
            raise OSError(" ".join(str(error).split())[:200]) from error
        return example[self._image_key], int(example[self._label_key])

    def name(self, index: int) -> str:
        return f"record {index} of {self._split}"


class Synthetic:
    """Noise of 256x256 px around one colour a class: as many images as asked for, and learnable.

    A function of the index: for measuring, and for tests.
    """

    def __init__(self, split: str, examples: int, classes: int):
        if examples < 1:
            raise UserError(f"config.data.examples={examples}: must be at least 1")
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
            odd = sorted(set(first) ^ set(other))
            raise UserError(
                f"config.data: the splits differ in their classes ({', '.join(odd[:5])}): each "
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
    odd = sorted(set(source.classes) - set(classes))
    if odd:
        raise UserError(
            f"config.data: {', '.join(odd[:5])}{', ...' * (len(odd) > 5)} "
            f"{'is' if len(odd) == 1 else 'are'} none of the "
            f"{len(classes)} classes that the network knows ({', '.join(classes[:3])}, ...)"
        )
    return _Relabelled(source, classes)


def check_kind(source: str) -> None:
    """Raises UserError for an unknown kind of source."""
    if source not in KINDS:
        raise UserError(f"config.data.source={source}: choose one of {', '.join(KINDS)}")


def open_source(
    source: str, *, split: str, path: str = "", name: str = "", examples: int = 0, classes: int = 0
) -> Source:
    """The source that config.data names: 'digits', 'folder', 'tfds', 'store' or 'synthetic'.

    Raises:
        UserError: an unknown kind, a set or split that is not there, an empty one.
    """
    check_kind(source)
    if source == "digits":
        opened: Source = Digits(split)
    elif source == "folder":
        opened = Folder(path, split)
    elif source == "tfds":
        opened = Tfds(path, name, split)
    elif source == "store":
        opened = Store(path, split)
    else:
        opened = Synthetic(split, examples, classes)
    if len(opened) == 0:
        raise UserError(f"config.data: split '{split}' of source {source} {path} has no image")
    return opened
