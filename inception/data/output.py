"""Folders that are written as a whole or not at all."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from inception import UserError
from inception.data import paths


@contextlib.contextmanager
def all_or_nothing(output: str) -> Iterator[pathlib.Path]:
    """A folder OUTPUT.incomplete to write in, which becomes OUTPUT when the block ends.

    Leftovers of an interrupted start are deleted first; after an error all is deleted.

    Raises:
        UserError: OUTPUT exists and is not empty, cannot be written, lies in a bucket, or another
            process writes it.
    """
    if paths.in_bucket(output):
        raise UserError(f"`output`={output}: write a local folder, then copy it there")
    errors = (OSError, ValueError, RuntimeError)  # also of a path without a name
    with paths.explained(f"`output`={output} cannot be written", errors=errors):
        final = pathlib.Path(output).expanduser().resolve()
        work = final.with_name(f"{final.name}.incomplete")
        if not output or final.is_mount():
            raise UserError(f"`output`={output}: name a new folder; a mount point cannot be one")
        if final.exists() and (not final.is_dir() or any(final.iterdir())):
            raise UserError(
                f"`output`={output} is not empty: choose a new folder, or empty this one"
            )
        work.mkdir(parents=True, exist_ok=True)
        lock = os.open(work, os.O_RDONLY)
    try:
        paths.lock(lock, work)
    except BlockingIOError as error:
        os.close(lock)
        raise UserError(f"`output`={output}: another process is writing there") from error
    try:
        for left in work.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield work
        work.replace(final)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def check_room(folder: pathlib.Path, needed: float, what: str, remedy: str = "") -> None:
    """Raises UserError, about WHAT that needs so many bytes, where the disk has fewer."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"`output`: {what} {needed / 1e9:.1f} GB and {folder.parent} has {free / 1e9:.1f} GB "
            f"free: choose another disk{remedy}"
        )
