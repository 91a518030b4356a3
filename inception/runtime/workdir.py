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
from inception.data import paths
from inception.knobs import KNOBS
from inception.runtime import processes

# What a run writes after config.json; by `lock` what this process writes into WORKDIR/lock.
WRITTEN = ("checkpoints", "classes.txt", "metrics.jsonl", "eval.json", "report.html", "result.json")
OWNER = re.compile(r"(\d+ on \S+ )?[0-9a-f]{16}")
SHARED_S = 20.0  # what process 0 wrote is seen by all within this, or the folder is not shared


@contextlib.contextmanager
def locked(config: dict[str, Any], workdir: str) -> Iterator[None]:
    """Within it, no other run uses WORKDIR, and its config.json is `config`.

    config.run may differ from that of an earlier start: nothing in it changes the result. What
    another start wrote that failed before it began is written anew.

    NOTE: in a bucket (gs://) nothing can be locked; there the second run is not refused.

    Raises:
        UserError, in all processes: one of them has another config or other code, the folder
            cannot be written, is in use, is not shared, or belongs to another config.
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
        raise UserError(f"{path} was written by no run: choose another `workdir`")
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
                f"`workdir`={workdir} is not the folder of process 0, seen from "
                f"{socket.gethostname()}: all hosts must share it, as through NFS or gs://"
            )
        time.sleep(0.2)


def write_config(config: dict[str, Any], workdir: str) -> None:
    """WORKDIR/config.json; UserError where a run with another config has begun."""
    path = paths.at(workdir) / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _check_config(config, path, workdir)
    elif others := [name for name in WRITTEN if path.with_name(name).exists()]:
        raise UserError(f"`workdir`={workdir} has {', '.join(others)} of no run: choose another")
    paths.write_whole(path, json.dumps(config, indent=2) + "\n")


def _check_config(config: dict[str, Any], path: epath.Path, workdir: str) -> None:
    """Raises UserError where the run that wrote `path` has begun, and with another config."""
    with paths.explained(f"{path} is damaged", "choose another `workdir`", ValueError):
        written = flatten_dict(_of_this_project(json.loads(path.read_text())), sep=".")
    given = flatten_dict(config, sep=".")
    # A version without a knob of today's computed what its default does.
    defaults = {name: knob.default for name, knob in KNOBS.items() if name in given}
    written = json.loads(json.dumps(defaults)) | written  # lists for tuples
    saved = path.with_name("checkpoints")  # NOTE: etils' glob would read [x] in a folder's name
    begun = path.with_name("metrics.jsonl").exists() or (saved.exists() and any(saved.iterdir()))
    differing = [
        f"`{knob}` is {written.get(knob)} there and {given.get(knob)} here"
        for knob in sorted(written.keys() | given.keys())
        if written.get(knob) != given.get(knob) and not knob.startswith("run.")
    ]
    if differing and begun:
        raise UserError(
            f"`workdir`={workdir} belongs to another config: {'; '.join(differing)}. "
            "Choose another `workdir`"
        )


def read_config(workdir: str) -> dict[str, Any]:
    """WORKDIR/config.json, what the run was started with or `convert` wrote; lists as tuples.

    Raises:
        UserError: no such file, or a damaged one.
    """
    path = paths.at(workdir) / "config.json"
    if not path.exists():
        raise UserError(f"{workdir} is neither a run nor converted: no config.json")
    with paths.explained(f"{path} cannot be read", errors=(OSError, ValueError)):
        return _of_this_project(json.loads(path.read_text(), object_hook=_with_tuples))


def _of_this_project(config: Any) -> dict[str, Any]:
    if not isinstance(config, dict) or not {"input_px", "model", "data"} <= config.keys():
        raise ValueError("it is no config of this project")
    return config


def _with_tuples(group: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in group.items()}
