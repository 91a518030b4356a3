"""The pictures of `launch.py predict` and of `Predictor`: finding and reading them."""

import collections
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from inception import UserError
from inception.data import decoding, folders, paths, pipeline, sources
from inception.runtime import processes

Picture = str | pathlib.Path | Image.Image | np.ndarray


class Pictures:
    """Pictures as a source of upright RGB pixels; unreadable ones are black and in `rejected`."""

    classes: tuple[str, ...] = ("",)

    def __init__(self, pictures: Sequence[Any], **reading: Any):
        self._pictures = pictures
        self._reading = reading  # arguments of `decode`
        self.rejected: dict[int, str] = {}  # the reason by index

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        picture, name = self._pictures[index], self.name(index)
        try:
            if isinstance(picture, str | pathlib.Path):
                picture = pathlib.Path(picture).read_bytes()
            return np.asarray(decoding.decode(picture, name, upright=True, **self._reading)), 0
        except (OSError, ValueError) as error:  # a ValueError: an impossible file name
            self.rejected[index] = f"{name}: {getattr(error, 'strerror', None) or error}"
        except decoding.DamagedImageError as error:
            self.rejected[index] = str(error)
        return np.zeros((1, 1, 3), np.uint8), 0

    def name(self, index: int) -> str:
        """The file's path, or the picture's number in the call."""
        picture = self._pictures[index]
        return str(picture) if isinstance(picture, str | pathlib.Path) else f"picture {index}"


def find(names: Sequence[str], others: collections.Counter[str] | None = None) -> list[str]:
    """Finds picture files: files, folders at any depth, and lists (.txt files, a path a line).

    In folders, names that begin with a dot are skipped, and `others` counts the suffixes of files
    that are no pictures.

    Raises:
        UserError: an unreadable or empty list, a folder without pictures, a URL.
    """
    found: list[str] = []
    if urls := [name for name in names if paths.in_bucket(name)]:
        raise UserError(f"{urls[0]}: pictures are read from local disks: download it first")
    others = collections.Counter() if others is None else others
    for path in map(pathlib.Path, names):
        if path.is_dir():
            inside = sorted(map(str, folders.pictures_below(epath.Path(path), others)))
            if not inside:
                kinds = ", ".join(sorted(decoding.FORMATS))
                raise UserError(f"{path}: no picture in this folder ({kinds})")
            found += inside
        elif path.suffix.lower() == ".txt":
            what = f"{path}: cannot be read as a list of pictures"
            with paths.explained(what, errors=(OSError, UnicodeDecodeError)):
                lines = path.read_text("utf-8-sig", "surrogateescape").splitlines()
            listed = [line.strip() for line in lines if line.strip()]
            if not listed:
                raise UserError(f"{path}: an empty list")
            found += listed
        else:
            found.append(str(path))
    return found


def remarks(names: Sequence[str], others: collections.Counter[str], *, bits: int) -> list[str]:
    """`pipeline.remarks` on the pictures that `find` found; [] except in process 0."""

    def read(index: int) -> tuple[bytes, int]:
        return pathlib.Path(names[index]).read_bytes(), 0

    over = folders.counted(others)
    files = sources.Examples((), len(names), read, names.__getitem__, passed_over=over)
    return pipeline.remarks(files, bits=bits) if processes.is_main() else []
