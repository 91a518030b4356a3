"""Folders of pictures; source=folder imports this."""

import collections
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from etils import epath

from inception import UserError
from inception.data import paths
from inception.data.decoding import FORMATS, SUFFIXES
from inception.data.sources import ALL, Examples, check_split, held_out_fifth

SPLITS = {"train", "val", "validation", "test"}  # a folder that contains one of these has splits
# Names that operating systems, storage and archives leave in folders of pictures.
STRAY_FOLDERS = {"lost+found", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information"}
STRAY_FILES = {"Thumbs.db", "desktop.ini", "Icon\r"}


def counted(suffixes: collections.Counter[str]) -> str:
    """Counts as text, as in '2 .mp4, 1 no suffix'."""
    return ", ".join(f"{n} {suffix}" for suffix, n in suffixes.most_common())


def entries(folder: epath.Path) -> Iterable[Any]:
    """What a folder has in it, each with a `name` and `is_dir()`; of a disk without a stat each."""
    return folder.iterdir() if paths.in_bucket(str(folder)) else os.scandir(folder)


def folders_in(folder: epath.Path) -> list[epath.Path]:
    """The folders in a folder, by name; passes over hidden folders and STRAY_FOLDERS."""
    return sorted(
        folder / found.name
        for found in entries(folder)
        if not found.name.startswith(".") and found.name not in STRAY_FOLDERS and found.is_dir()
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
    for found in entries(folder):
        if found.name.startswith(".") or found.name in STRAY_FOLDERS | STRAY_FILES:
            continue  # macOS leaves ._photo.jpg beside photo.jpg
        path = folder / found.name
        if found.is_dir():
            if os.path.realpath(path) not in above:
                yield from pictures_below(path, others, above)
        elif path.suffix.lower() in SUFFIXES:
            yield path
        else:
            others[path.suffix.lower() or "no suffix"] += 1


def split_folder(path: str, split: str) -> tuple[epath.Path, bool]:
    """(PATH/SPLIT, True) if PATH has folders of splits, else (PATH, False); UserError for none."""
    if not path:
        raise UserError("`path` is empty: name the folder of class folders")
    root = paths.at(path)
    if not root.is_dir():
        raise UserError(f"`path`={path}: no such folder")
    folders = [p.name for p in folders_in(root)]
    if SPLITS.isdisjoint(folders) and split not in folders:
        return root, False
    check_split(split, folders, f" in {path}")
    return root / split, True


def folder(path: str, split: str, *, training: bool = True) -> Examples:
    """A folder of class folders of pictures, decoding.SUFFIXES, at any depth below the class.

    PATH/SPLIT/CLASS/... if PATH contains a folder train, val, validation or test; otherwise
    PATH/CLASS/..., where split 'val' is a fifth of each class, 'train' the rest, and 'all' both.
    Classes are sorted by name; names that begin with a dot are passed over. PATH may be in a
    bucket (gs://...). A class folder without a picture is an error if `training`, else no class.
    """
    root, named = split_folder(path, split)
    folders = folders_in(root)
    if not folders:
        as_split = f". A folder of the name {split} is a split: rename it if it is a class"
        raise UserError(
            f"`path`: {root} has no class folders in it: give a list of its pictures and their "
            f"classes as `labels=FILE`{as_split * named}"
        )
    fewest = int(training) if named or split == ALL else 2
    others: collections.Counter[str] = collections.Counter()
    inside = [sorted(pictures_below(p, others)) for p in folders]
    for class_folder, found in zip(folders, inside, strict=True):
        if len(found) < fewest:
            raise UserError(
                f"`path`: class folder {class_folder} has {'one' if found else 'no'} image "
                f"({', '.join(sorted(FORMATS))}): add some, or remove it"
                + (", make train and val folders, or evaluate split 'all'" if found else "")
            )
    folders = [p for p, found in zip(folders, inside, strict=True) if found]
    counts = [len(found) for found in inside if found]
    files = [file for found in inside for file in found]
    labels = np.repeat(np.arange(len(folders)), counts)
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


def open_folder(path: str, split: str, *, labels: str = "", training: bool = True) -> Examples:
    """As `folder`; with `labels`, a list of pictures and classes, as labels.listed."""
    if not labels:
        return folder(path, split, training=training)
    from inception.data.labels import listed

    return listed(path, split, labels, training=training)
