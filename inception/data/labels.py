"""A list of pictures and their classes, instead of class folders; `config.data.labels` names it.

Read are CSV and TSV, with a header or without; Kaggle's LOC_val_solution.csv; Caffe's val.txt, a
path and a number a line; and ReaL's real.json (Beyer et al., 2020, arXiv 2006.07159).
"""

import collections
import csv
import dataclasses
import io
import json
import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, NoReturn

import numpy as np
from etils import epath

from inception import UserError
from inception.data import paths
from inception.data.folders import counted, folder, folders_in, pictures_below, split_folder
from inception.data.sources import ALL, Examples, first_few, held_out_fifth

# Columns of a header, without case and all but letters and digits; the first of each counts.
OF_PATH = ("path", "filepath", "imagepath", "file", "filename", "image", "imagename", "img",
           "imageid", "id", "name")  # fmt: skip
OF_CLASS = ("label", "class", "category", "predictionstring", "target", "classname", "labelname",
            "categoryname", "classid", "labelid", "categoryid", "species", "breed")  # fmt: skip
MANY = -1  # the index of a short name that several pictures have


class Line(NamedTuple):
    """A line of a list."""

    number: int
    path: str
    label: str


def read_list(file: epath.Path, where: str) -> list[Line]:
    """The lines of a list of paths and classes; UserError, which begins with `where`."""
    data = file.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data:
        raise UserError(f"{where} is not UTF-8, perhaps UTF-16: save it as UTF-8")
    text = data.decode("utf-8-sig", "surrogateescape")
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = next((d for d in "\t," if d in first), "")
    if not delimiter and (other := re.search("[;|]", first)):
        raise UserError(
            f"{where} has '{other[0]}' between its columns: save it with commas or tabs"
        )
    if delimiter:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        with paths.explained(f"{where} is no table", "look for a quote alone", csv.Error):
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    else:
        rows = [(i, line.rsplit(None, 1)) for i, line in enumerate(text.split("\n"), 1)]
    rows = [(i, row) for i, row in rows if any(row)]
    path, label, one_word = 0, 1, False
    if columns := _header(rows[0][1] if rows else [], where):
        path, label, one_word = columns
        rows = rows[1:]
    if short := [i for i, row in rows if len(row) <= max(path, label) or not row[label]]:
        shown = first_few([str(i) for i in short])
        raise UserError(
            f"{where}: {len(short)} lines without a class: {shown}. Each line has a path and a "
            "class, with a comma, a tab or a space between"
        )
    if not rows:
        raise UserError(f"{where} is empty: name a picture and its class on each line")
    return [Line(i, r[path], r[label].split()[0] if one_word else r[label]) for i, r in rows]


def _header(row: Sequence[str], where: str) -> tuple[int, int, bool] | None:
    """(column of paths, column of classes, whether the class is its first word), or no header."""
    names = [re.sub("[^a-z0-9]", "", cell.lower()) for cell in row]
    found = [next((c for c in known if c in names), "") for known in (OF_PATH, OF_CLASS)]
    if not any(found) or len(row) < 2:
        return None
    if not all(found):
        what, known = ("paths", OF_PATH) if found[1] else ("classes", OF_CLASS)
        raise UserError(
            f"{where}: its header ({', '.join(row)}) names no column of {what}: call it {known[0]}"
        )
    path, label = map(names.index, found)
    return path, label, found[1] == "predictionstring"


class Pictures:
    """The pictures below a folder, found by their path, or by a name that only one of them has.

    Args:
        prefix: of paths that begin above the folder, such as the split's name.
    """

    def __init__(self, root: epath.Path, prefix: str = ""):
        self.others: collections.Counter[str] = collections.Counter()
        base = 0 if str(root) == "." else len(str(root)) + 1
        found = [(str(file), file) for file in pictures_below(root, self.others)]
        found.sort(key=lambda pair: pair[0].split("/"))  # as paths compare, but 5 times as fast
        self.files = [file for _, file in found]
        self.names = [whole[base:] for whole, _ in found]
        self._paths: dict[str, int] = {}
        self._short: dict[str, int] = {}
        for i, (whole, _) in enumerate(found):
            name = whole[base:]
            suffix, last = len(os.path.splitext(name)[1]), name.rpartition("/")[2]
            ways = (name, whole, f"{prefix}/{name}") if prefix else (name, whole)
            self._paths |= dict.fromkeys(ways, i)
            for short in {last, last[:-suffix], *(way[:-suffix] for way in ways)}:
                self._short[short] = MANY if self._short.get(short, i) != i else i

    def find(self, path: str) -> int | None:
        """The picture's index; MANY; None for no such picture."""
        path = posixpath.normpath(path.replace("\\", "/"))
        return self._paths.get(path, self._short.get(path))


def listed(path: str, split: str, labels: str, *, training: bool) -> Examples:
    """The pictures of PATH/SPLIT or PATH with the classes that the list `labels` gives them.

    '{split}' in `labels` is replaced by the split's name. Without it the list holds for the
    splits without class folders, and ReaL's for all but the training split; others are read as
    `folder` reads them. In a set without folders of splits the list is of all pictures, and
    split 'val' is a fifth of each class.

    The pictures are in the order of their classes and paths, as class folders have them; classes
    in the order of their names, or of their numbers.

    Raises:
        UserError: an unreadable list, a line that fits no picture or several, two classes for a
            picture, a picture without a line.
    """
    root, named = split_folder(path, split)
    own, file = "{split}" in labels, paths.at(labels.replace("{split}", split))
    where = f"`labels`={file}"
    with paths.explained(f"{where} cannot be read"):
        file.open("rb").close()
    real = file.suffix.lower() == ".json"
    # One folder may hold all pictures, as Tiny ImageNet's val/images.
    if not own and (training if real else named and len(folders_in(root)) > 1):
        unused = f"{split} has class folders: {file} is not used for it"
        return dataclasses.replace(folder(path, split, training=training), notes=(unused,))
    pictures = Pictures(root, split if named else "")
    notes: tuple[str, ...] = ()
    if real:
        several = _real(file, pictures, where)
        if empty := len(several) - sum(map(bool, several)):
            notes = (
                f"{empty} of {len(several)} images do not count: {file} has no class for them",
            )
        of_index = {i: found for i, found in enumerate(several) if found}
    else:
        elsewhere = [p for p in folders_in(paths.at(path)) if p != root] if named else []
        found = _of_pictures(read_list(file, where), pictures, where, elsewhere)
        if (missing := len(pictures.files) - len(found)) and (named or not own):
            unnamed = [n for i, n in enumerate(pictures.names) if i not in found]
            raise UserError(
                f"{where} does not name {missing} of {len(pictures.files)} pictures in {root}: "
                f"{first_few(unnamed)}. Add them, or move them elsewhere"
            )
        of_index = {i: [label] for i, label in found.items()}
    whole = named or own or split == ALL
    return _examples(pictures, of_index, split, whole=whole, where=where, notes=notes)


def _examples(
    pictures: Pictures,
    of_index: dict[int, list[str]],
    split: str,
    *,
    whole: bool,
    where: str,
    notes: tuple[str, ...],
) -> Examples:
    """The pictures with their classes; of a set that is not `whole` the part of the split."""
    known = {label for labels in of_index.values() for label in labels}
    numbers = all(label.isdecimal() for label in known)
    classes = sorted(known, key=lambda label: (int(label) if numbers else 0, label))
    number = {label: i for i, label in enumerate(classes)}
    right = {i: [number[label] for label in labels] for i, labels in of_index.items()}
    order = sorted(right, key=lambda i: (right[i][0], i))  # `files` are sorted
    labels = np.asarray([right[i][0] for i in order], int)
    names = ("train", "val")
    chosen = np.arange(len(order)) if whole else held_out_fifth(labels, split, names=names)
    files = [pictures.files[order[index]] for index in chosen]
    labels = labels[chosen]
    also = {n: right[order[i]][1:] for n, i in enumerate(chosen) if right[order[i]][1:]}
    return Examples(
        tuple(classes),
        len(files),
        lambda index: (files[index].read_bytes(), int(labels[index])),
        lambda index: str(files[index]),
        left_out=len(order) - len(chosen),
        passed_over=counted(pictures.others),
        labels=labels,
        alternatives=also,
        where=where,
        notes=notes,
    )


def _of_pictures(
    lines: Sequence[Line], pictures: Pictures, where: str, elsewhere: Iterable[epath.Path]
) -> dict[int, str]:
    """{index of a picture: its class}; passes over lines for pictures in folders `elsewhere`."""
    found: dict[int, str] = {}
    missing, unclear, twice = [], [], []
    for line in lines:
        index = pictures.find(line.path)
        if index is None:
            missing.append(line)
        elif index == MANY:
            unclear.append(line)
        elif found.setdefault(index, line.label) != line.label:
            twice.append(line)
    if missing:  # listed only here: the training split may be large
        rest = [Pictures(p, p.name) for p in elsewhere]
        missing = [m for m in missing if all(p.find(m.path) is None for p in rest)]
    for wrong, what, remedy in (
        (missing, "name no picture", "Paths begin in `path`, or in its folder of the split"),
        (unclear, "name several pictures", "Write their paths"),
        (twice, "give a picture a second class", "Leave one"),
    ):
        if wrong:
            _refuse(where, wrong, len(lines), what, remedy)
    return found


def _refuse(where: str, wrong: Sequence[Line], count: int, what: str, remedy: str) -> NoReturn:
    shown = first_few([f"{line.path} (line {line.number})" for line in wrong])
    if any("\udc80" <= c <= "\udcff" for line in wrong for c in line.path):
        remedy += "; the list is not UTF-8: save it as UTF-8"
    raise UserError(f"{where}: {len(wrong)} of {count} lines {what}: {shown}. {remedy}")


def _real(file: epath.Path, pictures: Pictures, where: str) -> list[list[str]]:
    """ReaL's classes of each of `pictures`, which come in the order of their names."""
    what = "a JSON list of lists of numbers, as ReaL's real.json"
    with paths.explained(f"{where} is not {what}", errors=(ValueError, TypeError)):
        several = json.loads(file.read_bytes())
        if not isinstance(several, list) or not all(
            type(n) is int for each in several for n in each
        ):
            raise ValueError("another content")
    if len(several) != (count := len(pictures.files)):
        raise UserError(
            f"{where} is for {len(several)} images, in the order of their names, and there are "
            f"{count}: give the validation images that it was made for"
        )
    by_name = sorted(range(count), key=lambda i: posixpath.basename(pictures.names[i]))
    of_index: list[list[str]] = [[] for _ in by_name]
    for index, numbers in zip(by_name, several, strict=True):
        of_index[index] = [str(number) for number in numbers]
    return of_index
