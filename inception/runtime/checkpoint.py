"""Saving and restoring the training state: the only file that imports orbax."""

import contextlib
import hashlib
import json
import operator
import os
import re
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_manager, checkpoint_managers

from inception import UserError
from inception.data import paths
from inception.runtime import processes

logging.set_verbosity(logging.FATAL)  # Orbax logs every file, and errors that it also raises


def _report_unraisable(unraisable: Any, *, before: Any = sys.unraisablehook) -> None:
    # After one failed write, each other pending write of tensorstore reports a closed event loop.
    if str(unraisable.exc_value) != "Event loop is closed":
        before(unraisable)


sys.unraisablehook = _report_unraisable


def digest(tree: Any) -> str:
    """sha256 over names, dtypes, shapes and bytes of all leaves: equal for equal trees only."""
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    sha = hashlib.sha256()
    for name, array in sorted(leaves.items()):
        sha.update(f"{name} {array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:400]


def write_classes(workdir: str, classes: tuple[str, ...]) -> None:
    """Writes WORKDIR/classes.txt: the classes of the labels 0, 1, ..., one a line."""
    paths.write_whole(paths.at(workdir) / "classes.txt", "".join(f"{c}\n" for c in classes))


def read_classes(workdir: str) -> tuple[str, ...]:
    """Reads WORKDIR/classes.txt; UserError if it cannot be read."""
    with paths.explained(f"{workdir} has no readable classes.txt, which train writes"):
        text = paths.read_text(paths.at(workdir) / "classes.txt")
    return tuple(line.removesuffix("\r") for line in text.removesuffix("\n").split("\n"))


def numbered(count: int) -> tuple[str, ...]:
    """Names for classes of which only the number is known: 'class 0', ..."""
    return tuple(f"class {i}" for i in range(count))


def check_classes(workdir: str, classes: tuple[str, ...]) -> None:
    """Raises UserError if WORKDIR/classes.txt names other classes, or other labels.

    Converted weights may only have numbered them.
    """
    if not (paths.at(workdir) / "classes.txt").exists():
        return
    before = read_classes(workdir)
    if before == numbered(len(classes)):
        return
    if changed := [pair for pair in zip(before, classes, strict=False) if pair[0] != pair[1]]:
        raise UserError(
            f"`data`: the training set has class {changed[0][1]} where {changed[0][0]} was when "
            "this run began: restore the names, or choose another `workdir`"
        )


class _Manager(ocp.CheckpointManager):
    """Orbax's manager without its own check for a preemption.

    NOTE: JAX's preemption service expects one increasing counter, that of `processes.Stop`.
    Orbax's own calls pass the step as the counter: they would break the order and lose signals.
    """

    def reached_preemption(self, _step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints of one run: the last `keep` and the best, written while training continues.

    Each stores the state, its sha256 and, if it was evaluated, its top-1. A checkpoint whose
    state has another sha256 is damaged, even if Orbax restores it. Every process of a run must
    make each call; with read_only each process acts alone.
    """

    def __init__(self, workdir: str, *, keep: int = 2, read_only: bool = False):
        self._directory = paths.at(workdir).resolve() / "checkpoints"
        self._read_only = read_only

        def check_writable() -> None:
            if processes.is_main():
                self._directory.mkdir(parents=True, exist_ok=True)
                paths.check_writable(self._directory / "trial")

        if not read_only:
            processes.together(check_writable)
        top1 = operator.itemgetter("top1")
        best = checkpoint_managers.BestN(
            get_metric_fn=top1, n=1, keep_checkpoints_without_metrics=False
        )
        kept = [checkpoint_managers.LatestN(keep), best]
        i = jax.process_index()
        own = {"primary_host": i, "active_processes": {i}, "barrier_sync_key_prefix": f"process{i}"}
        group = ocp.options.MultiprocessingOptions(**(own if read_only else {}))
        self._manager = _Manager(
            self._directory,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(multiprocessing_options=group),
                "check": ocp.JsonCheckpointHandler(multiprocessing_options=group),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(kept),
                best_fn=top1,
                create=not read_only,
                multiprocessing_options=group,
                cleanup_tmp_directories=not read_only,
            ),
        )

    def steps(self) -> list[int]:
        """The saved steps, oldest first."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The saved step with the highest top-1, if any was evaluated."""
        return self._manager.best_step()

    def save(self, step: int, state: Any, *, top1: float | None = None) -> None:
        """Starts saving; if `step` is already saved, only adds `top1` to a checkpoint without one.

        Raises:
            UserError: this save, or the one before it, did not reach the disk.
        """
        if step in self._manager.all_steps():
            if top1 is not None and self._manager.metrics(step) is None:
                processes.together(lambda: self._add_top1(step, top1))
                self._manager.reload()
            return
        with self._named_failures():
            self._check_space(state)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    check=ocp.args.JsonSave({"sha256": digest(state)}),
                ),
                metrics=None if top1 is None else {"top1": top1},
            )

    def _check_space(self, state: Any) -> None:
        """Raises OSError unless twice the state and 10 MB are free: full disks make Orbax noisy."""
        if not paths.in_bucket(str(self._directory)):
            needed = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + 10_000_000
            if (free := shutil.disk_usage(self._directory).free) < needed:
                text = f"no space: it needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free"
                raise OSError(text)

    def _add_top1(self, step: int, top1: float) -> None:
        """Adds top-1, in Orbax's format, to a checkpoint that a stop during evaluation saved."""
        if processes.is_main():
            folder = self._directory / str(step) / checkpoint_manager.METRIC_ITEM_NAME
            with self._named_failures():
                folder.mkdir(exist_ok=True)
                paths.write_whole(folder / folder.name, json.dumps({"top1": top1}))

    def wait(self) -> None:
        """Waits until everything is on disk; raises UserError if a save failed."""
        with self._named_failures():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _named_failures(self) -> Iterator[None]:
        """Turns the error of a failed save into a UserError, unless another process has died."""
        try:
            yield
        except Exception as error:
            if processes.is_lost_peer(error):
                raise
            whole = sorted(ocp.utils.checkpoint_steps(self._directory))
            cause = _first_line(error)
            if code := re.search(r"os_error_code='(\d+)'", str(error)):  # tensorstore appends it
                cause = os.strerror(int(code[1]))
            remedy = "make room" if re.search("no space|quota", cause, re.I) else "mend it"
            raise UserError(
                f"saving a checkpoint in {self._directory} failed ({cause}): the "
                f"checkpoints of steps {whole} are kept; {remedy}, or choose another `workdir`"
            ) from error

    def restore(self, template: Any, *, step: int | None = None) -> Any | None:
        """Restores the newest intact state, or that of `step`; returns None if nothing was saved.

        It names each damaged checkpoint on stderr and falls back to the one before. After a
        restore, it moves the damaged ones to WORKDIR/damaged, unless read_only.

        Args:
            template: the result's form, a state of jax.ShapeDtypeStruct with shardings; None:
                nested dicts of NumPy arrays.

        Raises:
            UserError: all checkpoints are damaged, or that of `step` is.
        """
        steps = self.steps() if step is None else [step]
        damaged: list[int] = []
        for candidate in reversed(steps):
            restored, failure = None, ""
            try:
                restored = self._restore(candidate, template)
            except Exception as error:
                failure = _first_line(error)
            if not self._read_only:
                failure = next(filter(None, processes.gather_text(failure)), "")
            if not failure:
                self._set_aside(damaged)
                return restored
            damaged.append(candidate)
            path = self._directory / str(candidate)
            message = f"checkpoint {path} is damaged, or another version's ({failure})"
            if candidate == steps[0]:
                remedy = "" if self._read_only else ": choose another `workdir` to start anew"
                raise UserError(f"{message}, and there is no other to fall back to{remedy}")
            if self._read_only or processes.is_main():
                print(f"WARNING: {message}: trying the one before", file=sys.stderr)
        return None

    def _restore(self, step: int, template: Any) -> Any:
        """Restores the state of `step`; raises any exception if it differs from the saved one."""
        if template is None:  # NumPy: its devices may be another process's
            saved = self._manager.item_metadata(step)["state"]
            template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(template), check=ocp.args.JsonRestore()
            ),
        )
        if digest(restored["state"]) != restored["check"]["sha256"]:
            raise ValueError("its sha256 differs from the one that was saved with it")
        return restored["state"]

    def _set_aside(self, damaged: list[int]) -> None:
        """Moves checkpoints to WORKDIR/damaged; does nothing if read_only."""
        aside = self._directory.parent / "damaged"

        def move() -> None:
            for step in map(str, damaged if processes.is_main() else ()):
                print(f"checkpoint {step} was moved to {aside}", file=sys.stderr)
                with paths.explained(f"checkpoint {step} is damaged and cannot be moved aside"):
                    if (aside / step).exists():
                        (aside / step).rmtree()
                    aside.mkdir(exist_ok=True)
                    (self._directory / step).rename(aside / step)

        if damaged and not self._read_only:
            processes.together(move)
            self._manager.reload()

    def close(self) -> None:
        """Waits for pending saves, and releases the directory."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception):  # it raises a failed save's error again
                self._manager.close()


def save_finite(checkpoints: Checkpoints, state: Any) -> None:
    """Saves at once if all numbers are finite, without an evaluation; else UserError."""
    numbers = jax.device_get((state.raw_variables(), state.average))
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(numbers)):
        raise UserError(
            "the parameters or statistics are not finite: this state was not saved. Lower "
            "`learning_rate`, and start in a new `workdir`"
        )
    checkpoints.save(int(state.step), state)
    checkpoints.wait()
