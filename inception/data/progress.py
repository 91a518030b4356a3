"""A progress bar for terminals, and periodic lines for log files."""

import sys
from collections.abc import Iterable
from typing import Any

import tqdm

LOG_SECONDS = 15.0


class _Lines:
    """Writes each drawing of a bar as a line to stderr, for a file or a pipe."""

    def write(self, text: str) -> None:
        if text.startswith("\r") and (drawn := text.strip()):  # other text moves the cursor
            sys.stderr.write(f"{drawn}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def bar(items: Iterable | None = None, **options: Any) -> tqdm.tqdm:
    """tqdm's bar on stderr, over `items` or updated by hand. If stderr is no terminal, it prints
    a line every 15 s, and none for shorter work.

    Args:
        options: tqdm's, such as desc, total, unit and leave.
    """
    if sys.stderr.isatty():
        return tqdm.tqdm(items, mininterval=0.5, dynamic_ncols=True, **options)
    seconds = {"mininterval": LOG_SECONDS, "maxinterval": LOG_SECONDS, "delay": LOG_SECONDS}
    return tqdm.tqdm(items, file=_Lines(), **seconds, **options)
