"""Ends a benchmark with one line if it lacks anything; all need the package itself."""

import importlib.metadata
import os
import pathlib
import shutil
import sys


def packages(extra: str, *names: str) -> None:
    """Ends the script if a distribution of pyproject.toml's `extra` is missing."""
    missing = []
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        script = pathlib.Path(sys.argv[0]).name
        pip = f"pip install -c requirements.txt -e '.{f'[{extra}]' * bool(extra)}'"
        raise SystemExit(f"{script} needs {', '.join(missing)}: {pip}")


def compiler() -> None:
    """Ends the script if torch.compile would find no C++ compiler."""
    if not shutil.which(os.environ.get("CXX", "g++")):
        raise SystemExit("torch.compile needs g++: apt-get install g++, or leave out its --sides")


def cores(wanted: int) -> None:
    """Ends the script if this process has fewer cores."""
    if wanted and wanted > (found := len(os.sched_getaffinity(0))):
        raise SystemExit(f"--cores={wanted}: this process has {found}")
