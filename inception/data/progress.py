"""A progress bar for terminals, and lines now and then for log files."""

import sys
from collections.abc import Iterable
from typing import Any

import tqdm

LOG_SECONDS = 15.0


class _Lines:
    """What a bar draws, a line each time, on a stderr that is a file or a pipe."""

    def write(self, text: str) -> None:
        if text.startswith("\r") and (drawn := text.strip()):  # the rest moves the cursor
            sys.stderr.write(f"{drawn}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def bar(items: Iterable | None = None, **options: Any) -> tqdm.tqdm:
    """tqdm's bar on stderr, over `items` or updated by hand; where that is no terminal, a line
    every 15 s, and none about what takes less.

    Args:
        options: tqdm's, such as desc, total, unit and leave.
    """
    if sys.stderr.isatty():
        return tqdm.tqdm(items, mininterval=0.5, dynamic_ncols=True, **options)
    seconds = {"mininterval": LOG_SECONDS, "maxinterval": LOG_SECONDS, "delay": LOG_SECONDS}
    return tqdm.tqdm(items, file=_Lines(), **seconds, **options)
