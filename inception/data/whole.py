"""Folders that are written whole or not at all."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from inception import UserError
from inception.data import paths

MARK = ".incomplete"  # a file in folders that are not complete yet


@contextlib.contextmanager
def all_or_nothing(output: str, *, flag: str = "output") -> Iterator[pathlib.Path]:
    """A folder OUTPUT.incomplete to write in, renamed to OUTPUT when the block ends.

    Deletes the leftovers, with MARK, of an interrupted start; after an error, deletes the folder.

    Raises:
        UserError: OUTPUT exists and is not empty, cannot be written, is in a bucket, or another
            process writes it; OUTPUT.incomplete contains files but no MARK.
    """
    if paths.in_bucket(output):
        raise UserError(f"`{flag}`={output}: write a local folder, then copy it there")
    errors = (OSError, ValueError, RuntimeError)  # also for a path without a name
    with paths.explained(f"`{flag}`={output} cannot be written", errors=errors):
        final = pathlib.Path(output).expanduser().resolve()
        work = final.with_name(f"{final.name}.incomplete")
        if not output or final.is_mount():
            raise UserError(f"`{flag}`={output}: name a new folder; a mount point cannot be one")
        if final.exists() and (not final.is_dir() or any(final.iterdir())):
            raise UserError(
                f"`{flag}`={output} is not empty: choose a new folder, or empty this one"
            )
        work.mkdir(parents=True, exist_ok=True)
        if any(work.iterdir()) and not (work / MARK).exists():
            raise UserError(f"`{flag}`={output}: {work} holds foreign files: name another folder")
        held = os.open(work, os.O_RDONLY)
    try:
        paths.lock(held, work)
    except BlockingIOError as error:
        os.close(held)
        raise UserError(f"`{flag}`={output}: another process is writing there") from error
    try:
        for left in work.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        (work / MARK).touch()
        yield work
        work.replace(final)
        (final / MARK).unlink()
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        os.close(held)


def check_room(folder: pathlib.Path, needed: float, what: str, remedy: str = "") -> None:
    """Raises UserError if the disk has fewer bytes free than WHAT needs."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"`output`: {what} {needed / 1e9:.1f} GB and {folder.parent} has {free / 1e9:.1f} GB "
            f"free: choose another disk{remedy}"
        )
