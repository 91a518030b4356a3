"""Errors as users read them: one line and an exit status."""

import argparse
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Collection

from inception import Interrupted, UserError
from inception.config import CommandLineError
from inception.knobs import KNOBS

LESS_MEMORY = (
    "Give a smaller config.run.eval_batch_size; to train config.optim.accumulate=2 or more, or "
    "config.model.remat=true; to bench a smaller --batch_size"
)


def explain(error: BaseException, args: argparse.Namespace) -> tuple[str, int]:
    """The line and exit status of an error that the user can fix; re-raises a bug."""
    text = str(error)
    if lacking := missing_package(error):
        return (
            f"{lacking}: {sys.executable} lacks what this project needs: in its folder run "
            "`make .venv/installed && . .venv/bin/activate`"
        ), 1
    if isinstance(error, CommandLineError | UserError | OSError):
        status = 2 if isinstance(error, CommandLineError) else getattr(error, "status", 1)
        return as_flags(text, vars(args)), status
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 1
    processes = sys.modules.get("inception.runtime.processes")
    if processes and processes.is_lost_peer(error):
        return (
            "another process of the run has ended or is out of reach "
            f"({text.splitlines()[0]}). Saved state is kept: the same command resumes from there",
            Interrupted.status,
        )
    if without_devices(error):
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = f" ({' '.join(text.split())})" if text else ""
        return (
            f"JAX starts no device with JAX_PLATFORMS={asked}{reason}: "
            "unset the variable, or install the extra for the device, as docs/start.md says"
        ), 1
    if "RESOURCE_EXHAUSTED" in text and "memory" in text:
        return f"{text.splitlines()[0]} {LESS_MEMORY}", 1
    raise error


def missing_package(error: BaseException) -> ModuleNotFoundError | None:
    """The failed import behind an error, where the requirements are not installed."""
    failed = (e for e in (error, error.__cause__) if isinstance(e, ModuleNotFoundError))
    bare = not all(map(importlib.util.find_spec, ("jax", "ml_collections")))
    return next(failed, None) if bare else None


def without_devices(error: BaseException) -> bool:
    """Whether JAX raised the error while it looked for devices; for some it has no text."""
    # NOTE: JAX leaves its own frames out of some tracebacks; the cause has them.
    ends = [traceback.extract_tb(e.__traceback__)[-1:] for e in (error, error.__cause__) if e]
    return any(f.name == "backends" and "xla_bridge" in f.filename for end in ends for f in end)


def as_flags(text: str, flags: Collection[str]) -> str:
    """Rewrites a message's backquoted parameters as a command's flags or as config.KNOB.

    `output` -> --output, `path` -> config.data.path, `path=...`, with a value to give, ->
    --config.data.path=... A flag takes precedence over a knob of the same name.
    """

    def flag(match: re.Match[str]) -> str:
        name, value = match[1], match[2] or ""
        if name in flags:
            return f"--{name}{value}"
        known = [k for k in KNOBS if k == name or k.endswith(f".{name}")]
        known += [name for k in KNOBS if k.startswith(f"{name}.")]  # a section, as data
        if not known:
            return name + value
        return f"{'--' if value else ''}config.{min(known, key=len)}{value}"

    return re.sub(r"`([a-z][\w.]*)(=[^`]*)?`", flag, text)
