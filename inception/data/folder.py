"""A folder of class folders of images, here or in a bucket."""

from collections.abc import Collection, Iterator

import numpy as np
from etils import epath

from inception import UserError
from inception.data import paths
from inception.data.sources import ALL, SPLITS, SUFFIXES, held_out_fifth


def images_below(folder: epath.Path, suffixes: Collection[str] = SUFFIXES) -> Iterator[epath.Path]:
    """The paths of images in a folder, at any depth; names that begin with a dot are skipped."""
    for path in folder.iterdir():
        if path.name.startswith("."):  # macOS leaves ._photo.jpg beside photo.jpg
            continue
        if path.is_dir():
            yield from images_below(path, suffixes)
        elif path.suffix.lower() in suffixes:
            yield path


class Folder:
    """A folder of class folders of JPEG, PNG and WebP files, at any depth below the class.

    PATH/SPLIT/CLASS/... if PATH has a folder train, val, validation or test; otherwise
    PATH/CLASS/..., and of each class a fifth is split 'val', the rest 'train', both 'all'. Classes
    are sorted by name; names that begin with a dot are passed over. PATH may lie in a bucket
    (gs://...). `left_out`: how many images of an unsplit PATH belong to the other split.
    """

    def __init__(self, path: str, split: str):
        if not path:
            raise UserError("`path` is empty: name the folder of class folders")
        root = paths.at(path)
        if not root.is_dir():
            raise UserError(f"`path`={path}: no such folder")
        found_splits = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name in SPLITS)
        has_splits = bool(found_splits) or (root / split).is_dir()
        root = root / split if has_splits else root
        if not root.is_dir():
            raise UserError(
                f"`data`: there is no split '{split}' in {path}; there are "
                f"{', '.join(found_splits)}"
            )
        folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        if not folders:
            raise UserError(f"`path`: {root} has no class folders in it")
        files, labels = [], []
        for label, folder in enumerate(folders):
            found = sorted(images_below(folder))
            if not found:
                raise UserError(
                    f"`path`: class folder {folder} has no image "
                    f"({', '.join(sorted(SUFFIXES))}): add some or remove it"
                )
            if len(found) == 1 and not has_splits and split != ALL:
                raise UserError(
                    f"`path`: class folder {folder} has one image, and a fifth of each "
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
