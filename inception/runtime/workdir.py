"""A run's folder: whose it is, and that all processes of the run mean the same by it."""

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from typing import Any

from flax.traverse_util import flatten_dict

from inception import UserError
from inception.data import paths
from inception.runtime import processes

SHARED_S = 20.0  # what process 0 wrote is seen by all within this, or the folder is not shared


@contextlib.contextmanager
def claimed(config: dict[str, Any], workdir: str) -> Iterator[None]:
    """Within it, WORKDIR is this run's alone, and its config.json says `config`.

    config.run may differ from the config that is there: nothing in it changes the result. What
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
                closing.enter_context(_locked(workdir, token))
                write_config(config, workdir)

        processes.together(write)
        processes.together(lambda: _check_shared(workdir, token))
        yield


@contextlib.contextmanager
def _locked(workdir: str, token: str) -> Iterator[None]:
    """Holds WORKDIR/lock, which the system lets go of however this process ends."""
    path = paths.at(workdir) / "lock"
    if paths.in_bucket(workdir):
        path.write_text(token)
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error}") from error
    with file:
        try:
            paths.lock(file, path)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().rsplit(" ", 1)[0]
            raise UserError(
                f"--workdir={workdir} is in use by process {owner}: wait for it, stop it, or "
                "choose another --workdir"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()} {token}")
        file.flush()
        yield


def _check_shared(workdir: str, token: str) -> None:
    path, until = paths.at(workdir) / "lock", time.monotonic() + SHARED_S
    while True:
        try:
            if path.read_text().endswith(token):
                return
        except OSError:
            pass
        if time.monotonic() > until:
            raise UserError(
                f"--workdir={workdir} is not the folder of process 0, seen from "
                f"{socket.gethostname()}: all hosts must share it, as through NFS or gs://"
            )
        time.sleep(0.2)


def write_config(config: dict[str, Any], workdir: str) -> None:
    """WORKDIR/config.json; UserError where a run with another config has begun there."""
    path = paths.at(workdir) / "config.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            there = flatten_dict({"config": json.loads(path.read_text())}, sep=".")
            here = flatten_dict({"config": config}, sep=".")
            checkpoints = path.parent / "checkpoints"
            begun = (path.parent / "metrics.jsonl").exists() or (
                checkpoints.exists() and any(checkpoints.iterdir())
            )
            differing = [
                f"{knob} is {there.get(knob)} there and {here.get(knob)} here"
                for knob in sorted(there.keys() | here.keys())
                if there.get(knob) != here.get(knob) and not knob.startswith("config.run.")
            ]
            if differing and begun:
                raise UserError(
                    f"--workdir={workdir} belongs to another config: {'; '.join(differing)}. "
                    "Choose another --workdir"
                )
        paths.write_whole(path, json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): choose another --workdir") from error
