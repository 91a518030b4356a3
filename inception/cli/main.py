"""The command line: what launch.py calls.

Each command is a module of this folder, inception/cli/COMMAND.py, whose docstring is its help, with

    add_flags(parser)
    run(args, overrides) -> the result, for --json, or an exit status; prints lines for people
"""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from types import ModuleType
from typing import Any, NoReturn

from inception import Interrupted, UserError
from inception.config import STARTED_AS, CommandLineError
from inception.knobs import KNOBS

COMMANDS = (
    "train", "eval", "sweep", "predict", "features", "inspect", "check-data", "prepare", "convert",
    "export", "report", "audit", "bench", "plan", "knobs",
)  # fmt: skip
PROGRAM = STARTED_AS.removeprefix("python ")
FAILED = {
    "predict": "rejected",
    "features": "rejected",
    "inspect": "rejected",
    "eval": "unwritten",
    "check-data": "problems",
    "plan": "too_large",
}  # command -> key of the result whose lines make the exit status 1
LESS_MEMORY = (
    "Give a smaller config.run.eval_batch_size; to train config.optim.accumulate=2 or more, or "
    "config.model.remat=true; to bench a smaller --batch_size"
)


def module(command: str) -> ModuleType:
    """The command's module, imported when it is needed."""
    return importlib.import_module(f"inception.cli.{command.replace('-', '_')}")


def parser(command: str) -> argparse.ArgumentParser:
    """The flags of a command."""
    made = argparse.ArgumentParser(
        prog=f"{PROGRAM} {command}", description=module(command).__doc__, allow_abbrev=False
    )
    made.set_defaults(command=command, parser=made, takes_knobs=False)
    text = "print the result as one JSON object, last on stdout"
    made.add_argument("--json", action="store_true", help=text)
    module(command).add_flags(made)
    return made


def main(argv: list[str]) -> int:
    """Runs one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # for every locale and file name
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    if not argv or argv[0] not in COMMANDS:
        from inception.cli import overview

        return overview.run(argv)
    # Without the knobs: argparse takes no positional argument after an unknown flag.
    knobs = [a for a in argv if re.match(r"--?config\.[^=]+=", a)]
    own = [a for a in argv[1:] if a not in knobs]
    args, rest = parser(argv[0]).parse_known_intermixed_args(own)
    args.argv, overrides = argv, [*knobs, *rest]
    if getattr(args, "on", "local") == "local":  # a submitted job would inherit the choice
        choose_platforms()
    try:
        check_knobs(args, overrides)
        others = getattr(args, "processes", 1) > 1 or getattr(args, "restarts", 0)  # they print it
        with stdout_to_stderr() if args.json and not others else contextlib.nullcontext():
            result = module(args.command).run(args, overrides)
    except (Exception, KeyboardInterrupt) as error:
        text, status = explain(error, args)
        print(f"{PROGRAM} {args.command}: {text}", file=sys.stderr)
        return status
    if isinstance(result, int):
        return result
    failed = result.get(FAILED.get(args.command, ""), ())
    if is_main_process():
        for line in failed:
            text = line if isinstance(line, str) else f"{line['image']}: {line['reason']}"
            print(f"{PROGRAM} {args.command}: {text}", file=sys.stderr)
        if args.json:
            print(json.dumps(result))
    return 1 if failed else 0


def choose_platforms() -> None:
    """Before JAX is imported, selects the CPU if only compilers for accelerators are installed."""
    if any(map(importlib.util.find_spec, ("jax_plugins", "libtpu"))):
        from inception.runtime import platforms

        platforms.choose()


def check_knobs(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Raises CommandLineError for an argument that is neither a flag nor an override."""
    for argument in overrides:
        if not args.takes_knobs or re.match(r"-(?!-?(no)?config\.)", argument):
            raise CommandLineError(f"unknown flag {argument}; see {PROGRAM} {args.command} --help")


def missing_package(error: BaseException) -> ModuleNotFoundError | None:
    """The failed import behind an error, where the requirements are not installed."""
    failed = (e for e in (error, error.__cause__) if isinstance(e, ModuleNotFoundError))
    bare = not all(map(importlib.util.find_spec, ("jax", "ml_collections")))
    return next(failed, None) if bare else None


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


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Context manager: sends stdout to stderr, that of C code too."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def is_main_process() -> bool:
    """Whether this is process 0; without JAX there is no other."""
    processes = sys.modules.get("inception.runtime.processes")
    return not processes or processes.is_main()


def on_sigterm(_number: int, _frame: Any) -> None:
    """Ends the process at SIGTERM, where there is nothing to save."""
    print(f"{PROGRAM}: stopped by SIGTERM", file=sys.stderr)
    raise SystemExit(Interrupted.status)


def run_process(
    function: Callable[[list[str]], int] = main, argv: list[str] | None = None
) -> NoReturn:
    """Ends this process with the status of function(argv); after a failure without cleaning up.

    A clean end would wait for threads that compile, and for the run's other processes.
    """
    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        status = function(sys.argv[1:] if argv is None else argv)
    except SystemExit as error:  # from argparse and `on_sigterm`
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if status in (0, 2):
        sys.exit(status)
    if "inception.runtime.processes" in sys.modules and is_main_process():
        time.sleep(1)  # lets the others fail first: else JAX aborts them with a long text
    os._exit(status)
