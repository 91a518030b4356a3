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
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, NoReturn

from inception import Interrupted
from inception.config import STARTED_AS, CommandLineError

COMMANDS = (
    "train", "eval", "sweep", "predict", "features", "inspect", "check-data", "prepare", "convert",
    "average", "export", "report", "audit", "bench", "plan", "knobs",
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
        from inception.cli import errors

        text, status = errors.explain(error, args)
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
