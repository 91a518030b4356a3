"""Folders and files, local or in a bucket (gs://..., s3://...): checks, atomic writes, locks."""

import contextlib
import fcntl
import json
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

from etils import epath

from inception import UserError

UTF8: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape"}  # for text files
PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}  # the package that fsspec needs for each


@contextlib.contextmanager
def explained(what: str, remedy: str = "", errors: Any = OSError) -> Iterator[None]:
    """Turns an OSError, or any of `errors`, within the block into a UserError of one line.

    The line is 'WHAT: the error', or with a remedy 'WHAT (the error): REMEDY'.
    """
    try:
        yield
    except UserError:
        raise
    except errors as error:
        reason = re.sub(r"^\[Errno \d+\] ", "", " ".join(str(error).split()))
        raise UserError(
            f"{what} ({reason}): {remedy}" if remedy else f"{what}: {reason}"
        ) from error


def in_bucket(path: str) -> bool:
    """Whether a path is in a bucket, such as gs://..."""
    return "://" in path


def at(path: str) -> epath.Path:
    """The path of a flag or a knob; '~' is the home folder.

    Raises:
        UserError: a bucket whose package is not installed, or that cannot be reached.
    """
    found = epath.Path(path).expanduser()
    if in_bucket(path):
        try:
            found.exists()
        except ImportError as error:
            package = PACKAGES.get(path.split("://")[0], "fsspec's package for it")
            raise UserError(f"{path}: pip install {package} first") from error
        except Exception as error:  # any type, by library: no rights, no network
            raise UserError(f"{path} cannot be reached: {' '.join(str(error).split())}") from error
    return found


def on_disk(path: str) -> pathlib.Path:
    """A local folder of ArrayRecord files, whose library reads no buckets; '~' as in `at`."""
    if in_bucket(path):
        raise UserError(
            f"`path`={path}: ArrayRecord files are read from disks: mount the bucket, as "
            "with gcsfuse, or copy it"
        )
    return pathlib.Path(path).expanduser()


def check_writable(path: epath.Path, kind: bytes = b"") -> None:
    """Before the work, raises UserError if `write_whole` would fail or replace a foreign file.

    Args:
        kind: bytes that the first MB of every file of the output's kind contains, and of few other
            files: a file with these bytes, or an empty one, may be replaced. b'': any file.
    """
    with explained(f"{path} cannot be written"):
        if not path.parent.is_dir():
            raise FileNotFoundError("no such folder")
        if path.is_dir():
            raise IsADirectoryError("a folder of that name exists")
        if kind and path.exists():
            with path.open("rb") as file:
                head = file.read(1 << 20)
            if head and kind not in head:
                raise FileExistsError("a file of another kind exists: name another, or remove it")
        unfinished = _unfinished(path)
        unfinished.write_text("")
        unfinished.unlink()


def lock(file: Any, name: object, *, wait: bool = False) -> None:
    """Locks an open file, called `name`, for this process, until it is closed or the process ends.

    Prints a warning if the file system does not support locks.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is false.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:
        print(
            f"WARNING: {name} cannot be locked ({error}): make sure that no other process uses it",
            file=sys.stderr,
        )


def is_locked(path: pathlib.Path) -> bool:
    """Whether a process holds the file's lock; False if it cannot be read or locked."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or no locks
        pass
    return False


def read_lines(path: epath.Path) -> list[Any]:
    """The JSON values of a file, one a line; skips a line that a crash has cut off."""
    rows = []
    for line in path.read_bytes().decode(errors="replace").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def read_text(path: Any) -> str:
    """A UTF-8 file's text in any locale; invalid bytes become surrogates, as in file names."""
    return path.read_bytes().decode(**UTF8)


def _unfinished(path: epath.Path) -> epath.Path:
    """The path of a file while it is being written: a name that nothing else uses."""
    return path.with_name(f".{path.name}.unfinished")


def write_whole(path: epath.Path, content: str | bytes) -> None:
    """Writes or replaces a file atomically: readers never see a part of it."""
    unfinished = _unfinished(path)
    try:
        unfinished.write_bytes(content.encode(**UTF8) if isinstance(content, str) else content)
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)  # makes room on a full disk
        raise
