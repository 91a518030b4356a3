"""Folders and files: on this machine or, as gs://... and s3://..., in a bucket; locks."""

import fcntl
import json
import pathlib
import sys
from typing import Any

from etils import epath

from inception import UserError

PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}  # what fsspec needs for each


def in_bucket(path: str) -> bool:
    """Whether a path lies in a bucket, such as gs://..."""
    return "://" in path


def at(path: str) -> epath.Path:
    """The path that a flag or a knob names; '~' is the home folder.

    Raises:
        UserError: a bucket for which no package is installed.
    """
    found = epath.Path(path).expanduser()
    if in_bucket(path):
        try:
            found.exists()
        except ImportError as error:
            package = PACKAGES.get(path.split("://")[0], "fsspec's package for it")
            raise UserError(f"{path}: pip install {package} first") from error
        except Exception as error:  # whatever the bucket's library raises: no rights, no network
            raise UserError(f"{path} cannot be reached: {' '.join(str(error).split())}") from error
    return found


def on_disk(path: str) -> pathlib.Path:
    """A folder of ArrayRecord files, which its library cannot read from buckets; '~' as in `at`."""
    if in_bucket(path):
        raise UserError(
            f"`path`={path}: ArrayRecord files are read from disks: mount the bucket, as "
            "with gcsfuse, or copy it"
        )
    return pathlib.Path(path).expanduser()


def check_writable(path: epath.Path) -> None:
    """Raises UserError where `write_whole` would fail: a check before long work."""
    try:
        if not path.parent.is_dir():
            raise FileNotFoundError("no such folder")
        if path.is_dir():
            raise IsADirectoryError("a folder of that name is there")
        unfinished = path.with_name(f"{path.name}.tmp")
        unfinished.write_text("")
        unfinished.unlink()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def lock(file: Any, name: object, *, wait: bool = False) -> None:
    """Locks an open file, called `name`, for this process, until it is closed or the process ends.

    A warning is printed where the file system supports no locks.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is false.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:
        print(
            f"WARNING: {name} cannot be locked ({error}): see that nothing else works there",
            file=sys.stderr,
        )


def is_locked(path: pathlib.Path) -> bool:
    """Whether a process holds the file's lock."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or no locks
        pass
    return False


def read_lines(path: epath.Path) -> list[Any]:
    """The JSON values of a file, one a line; a line cut off by a crash is left out."""
    rows = []
    for line in path.read_bytes().decode(errors="replace").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def write_whole(path: epath.Path, content: str | bytes) -> None:
    """Writes a file, or replaces it, atomically: readers never see a part of it."""
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)  # makes room on a full disk
        raise
