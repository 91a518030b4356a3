"""A run's folder: locked for one run, shared by its processes; its config.json."""

import contextlib
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from typing import Any

from etils import epath
from flax.traverse_util import flatten_dict

from inception import UserError
from inception.config import folders
from inception.data import paths
from inception.knobs import KNOBS
from inception.runtime import processes

# What a run writes after config.json; OWNER matches what `_lock` writes into WORKDIR/lock.
WRITTEN = ("checkpoints", "classes.txt", "metrics.jsonl", "eval.json", "report.html", "result.json")
OWNER = re.compile(r"(\d+ on \S+ )?[0-9a-f]{16}")
PLACES = {"data.path", "data.labels", "init_from", "distill.teacher"}  # name files or folders
SHARED_S = 20.0  # after which a folder without process 0's file counts as not shared


@contextlib.contextmanager
def locked(config: dict[str, Any], workdir: str) -> Iterator[None]:
    """A context in which no other run uses WORKDIR, and its config.json is `config`.

    config.run may differ from an earlier start's: nothing in it changes the result. The config of
    an earlier start that failed before training is overwritten.

    NOTE: a bucket (gs://) cannot be locked: there a second run is not refused.

    Raises:
        UserError: in all processes, if their configs or code differ, or the folder cannot be
            written, is in use, is not shared, or belongs to another config.
    """
    processes.check_same(config)
    token = processes.gather_text(secrets.token_hex(8))[0]
    with contextlib.ExitStack() as closing:

        def write() -> None:
            if processes.is_main():
                with paths.explained(f"`workdir`={workdir} cannot be written"):
                    _lock(workdir, token, closing)
                    write_config(config, workdir)

        processes.together(write)
        processes.together(lambda: _check_shared(workdir, token))
        yield


def _lock(workdir: str, token: str, closing: contextlib.ExitStack) -> None:
    """Locks WORKDIR/lock; the system releases it however this process ends."""
    path = paths.at(workdir) / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = paths.read_text(path) if path.is_file() else ""
    if owner and not OWNER.fullmatch(owner):
        raise UserError(f"{path} was not written by a run: choose another `workdir`")
    if paths.in_bucket(workdir):
        path.write_text(token)
        return
    file = closing.enter_context(open(path, "a+", **paths.UTF8))  # noqa: SIM115
    try:
        paths.lock(file, path)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().rsplit(" ", 1)[0]
        raise UserError(
            f"`workdir`={workdir} is in use by process {owner}: wait for it, stop it, or "
            "choose another `workdir`"
        ) from error
    file.truncate(0)
    file.write(f"{os.getpid()} on {socket.gethostname()} {token}")
    file.flush()


def _check_shared(workdir: str, token: str) -> None:
    path, until = paths.at(workdir) / "lock", time.monotonic() + SHARED_S
    while True:
        with contextlib.suppress(OSError):
            if path.read_text().endswith(token):
                return
        if time.monotonic() > until:
            raise UserError(
                f"`workdir`={workdir} on {socket.gethostname()} is not the folder of process 0: "
                "all hosts must share it, as through NFS or gs://"
            )
        time.sleep(0.2)


def write_config(config: dict[str, Any], workdir: str) -> None:
    """Writes WORKDIR/config.json; raises UserError if a run with another config has begun."""
    path = paths.at(workdir) / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _check_config(config, path, workdir)
    elif others := [name for name in WRITTEN if path.with_name(name).exists()]:
        raise UserError(f"`workdir`={workdir} has {', '.join(others)}, no config: choose another")
    paths.write_whole(path, json.dumps(config, indent=2) + "\n")


def _check_config(config: dict[str, Any], path: epath.Path, workdir: str) -> None:
    """Raises UserError if the run that wrote `path` has begun, and its config differs."""
    with paths.explained(f"{path} is damaged", "choose another `workdir`", ValueError):
        written = flatten_dict(_of_this_project(json.loads(path.read_text())), sep=".")
    given = flatten_dict(config, sep=".")
    # Code that lacked one of today's knobs computed what the knob's default does.
    defaults = {name: knob.default for name, knob in KNOBS.items() if name in given}
    written = json.loads(json.dumps(defaults)) | written  # tuples as lists
    saved = path.with_name("checkpoints")  # NOTE: etils' glob takes [x] in a path for a pattern
    begun = path.with_name("metrics.jsonl").exists() or (saved.exists() and any(saved.iterdir()))
    differing = [
        knob
        for knob in sorted(written.keys() | given.keys())
        if not knob.startswith("run.") and not _alike(knob, written.get(knob), given.get(knob))
    ]
    if differing and begun:
        values = (f"`{k}` is {written.get(k)} there and {given.get(k)} here" for k in differing)
        moved = ", or, if the same files have moved, make the old path a link to the new one"
        raise UserError(
            f"`workdir`={workdir} belongs to another config: {'; '.join(values)}. "
            f"Choose another `workdir`{moved * PLACES.issuperset(differing)}"
        )


def _alike(knob: str, one: Any, other: Any) -> bool:
    """Whether two values of a knob are equal, or name one file or folder."""
    if one == other:
        return True
    if knob not in PLACES or not (one and other) or paths.in_bucket(one + other):
        return False
    one, other = ([os.path.realpath(paths.at(p)) for p in folders(x)] for x in (one, other))
    return one == other


def read_config(workdir: str) -> dict[str, Any]:
    """Reads WORKDIR/config.json, written by `train` or `convert`; lists become tuples.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = paths.at(workdir) / "config.json"
    if not path.exists():
        raise UserError(f"{workdir} is neither a run nor converted weights: no config.json")
    with paths.explained(f"{path} cannot be read", errors=(OSError, ValueError)):
        return _of_this_project(json.loads(path.read_text(), object_hook=_with_tuples))


def _of_this_project(config: Any) -> dict[str, Any]:
    if not isinstance(config, dict) or not {"input_px", "model", "data"} <= config.keys():
        raise ValueError("it is no config of this project")
    return config


def _with_tuples(group: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in group.items()}
