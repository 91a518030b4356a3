"""Saving and restoring the training state: the only file that imports orbax."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import sys
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_manager, checkpoint_managers

from inception import UserError
from inception.data import paths
from inception.runtime import processes

logging.set_verbosity(logging.FATAL)  # orbax tells of every file, and of errors that it raises


def _tell_unraisable(unraisable: Any, *, before: Any = sys.unraisablehook) -> None:
    # When a write fails, tensorstore tells of every other that the loop it reports to is gone.
    if str(unraisable.exc_value) != "Event loop is closed":
        before(unraisable)


sys.unraisablehook = _tell_unraisable


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


def read_config(workdir: str) -> dict[str, Any]:
    """WORKDIR/config.json, what the run was started with or `convert` wrote; lists as tuples.

    Raises:
        UserError: no such file, or a damaged one.
    """
    path = paths.at(workdir) / "config.json"
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or not {"input_px", "model", "data"} <= content.keys():
            raise ValueError("it is no config of this project")
    except FileNotFoundError as error:
        raise UserError(f"{workdir} is neither a run nor converted: no config.json") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: tuples(v) for k, v in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return tuples(content)


def write_classes(workdir: str, classes: tuple[str, ...]) -> None:
    """WORKDIR/classes.txt: what the labels 0, 1, ... stand for, a line each."""
    (paths.at(workdir) / "classes.txt").write_text("".join(f"{c}\n" for c in classes))


class Trained(NamedTuple):
    """What a folder holds that `train` or `convert` wrote.

    config: as `read_config`; classes: what the labels stand for, such as WordNet ids or a data
    folder's class folders; variables: {'params', 'batch_stats'}, numpy arrays, the Polyak average
    if there is one; step: of the checkpoint.
    """

    config: dict[str, Any]
    classes: tuple[str, ...]
    variables: Any
    step: int


def load(workdir: str, *, best: bool = False) -> Trained:
    """The newest whole checkpoint in a folder, or the best, ready for inference.

    Raises:
        UserError: none there, or all damaged.
    """
    config = read_config(workdir)
    try:
        classes = tuple((paths.at(workdir) / "classes.txt").read_text().splitlines())
    except OSError as error:
        raise UserError(f"{workdir} has no readable classes.txt: train writes it") from error
    checkpoints = Checkpoints(workdir, read_only=True)
    if not checkpoints.steps():
        raise UserError(f"{workdir} has no checkpoint: train first")
    state: Any = checkpoints.restore(None, step=checkpoints.best_step() if best else None)
    checkpoints.close()
    if len(set(processes.gather_text(f"{state['step']}"))) > 1:
        raise UserError(
            f"{workdir}: the processes read checkpoints of different steps: it is being written "
            "to, or one of them cannot read the newest. Try again"
        )
    variables = state["average"] or {key: state[key] for key in ("params", "batch_stats")}
    return Trained(config, classes, jax.device_get(variables), int(state["step"]))


def _processes(*, alone: bool) -> ocp.options.MultiprocessingOptions:
    """Who takes part in reading and writing: this process, or all."""
    me = jax.process_index()
    if not alone:
        return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )


class _Manager(ocp.CheckpointManager):
    """Orbax's, that saves when it is told to, and does not look for a preemption itself.

    NOTE: JAX's preemption service counts one row of calls, `processes.Stop`'s. Orbax's own, with
    the step for a count, came in between, and a signal after a save was then never answered.
    """

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


class Checkpoints:
    """The checkpoints of one run: the last `keep` and the best, written while training goes on.

    Each holds the state, its sha256 and, if it was evaluated, its top-1. A checkpoint whose
    state does not have that sum is damaged, whatever Orbax thinks of it. Every process of a run
    takes part in each call, but for read_only: then each is on its own.
    """

    def __init__(self, workdir: str, *, keep: int = 2, read_only: bool = False):
        if keep < 1:
            raise UserError(f"config.run.keep_checkpoints={keep}: must be at least 1")
        self._directory = paths.at(workdir).resolve() / "checkpoints"
        self._read_only = read_only
        best = checkpoint_managers.BestN(
            get_metric_fn=lambda metrics: metrics["top1"],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        policy = checkpoint_managers.AnyPreservationPolicy(
            [checkpoint_managers.LatestN(keep), best]
        )
        if not read_only:
            processes.together(self._prepare)
        members = _processes(alone=read_only)
        self._manager = _Manager(
            self._directory,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(multiprocessing_options=members),
                "check": ocp.JsonCheckpointHandler(multiprocessing_options=members),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                best_fn=lambda metrics: metrics["top1"],
                create=not read_only,
                multiprocessing_options=members,
                cleanup_tmp_directories=not read_only,
            ),
        )

    def _prepare(self) -> None:
        if processes.is_main():
            self._directory.mkdir(parents=True, exist_ok=True)
            paths.check_writable(self._directory / "trial")

    def steps(self) -> list[int]:
        """The saved steps, oldest first."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The saved step with the highest top-1, if any was evaluated."""
        return self._manager.best_step()

    def save(self, step: int, state: Any, *, top1: float | None = None) -> None:
        """Starts to save; of a step that is saved already `top1` alone, if it had none.

        Raises:
            UserError: this or the save before it did not reach the disk.
        """
        if step in self._manager.all_steps():
            if top1 is not None and self._manager.metrics(step) is None:
                processes.together(lambda: self._add_metrics(step, {"top1": top1}))
                self._manager.reload()
            return
        # Twice the state, and Orbax's own files: a disk that fills up half-way is a noisy end.
        needed = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + 10_000_000
        try:
            local = "://" not in str(self._directory)
            free = shutil.disk_usage(self._directory).free if local else needed
            if free < needed:
                told = f"it needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free"
                raise OSError(errno.ENOSPC, f"no space: {told}")
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    check=ocp.args.JsonSave({"sha256": digest(state)}),
                ),
                metrics=None if top1 is None else {"top1": top1},
            )
        except Exception as error:
            raise self._failed(error) from error

    def _add_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """To a checkpoint of a run that was stopped while it evaluated; as Orbax writes them."""
        if not processes.is_main():
            return
        name = checkpoint_manager.METRIC_ITEM_NAME
        try:
            folder = self._directory / str(step) / name
            folder.mkdir(exist_ok=True)
            paths.write_whole(folder / name, json.dumps(metrics))
        except OSError as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Returns when everything is on disk; UserError if something is not."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> Exception:
        """What a failed save is for the user; the error itself if another process has died."""
        if processes.is_lost_peer(error):
            return error
        whole = sorted(ocp.utils.checkpoint_steps(self._directory))
        if told := re.search(r"os_error_code='(\d+)'", str(error)):  # at the end of tensorstore's
            error = OSError(int(told[1]), os.strerror(int(told[1])))
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        remedy = "make room" if full or "No space left" in str(error) else "mend it"
        return UserError(
            f"saving a checkpoint in {self._directory} failed ({_first_line(error)}): the "
            f"checkpoints of steps {whole} are kept; {remedy}, or choose another --workdir"
        )

    def restore(self, template: Any, *, step: int | None = None) -> Any | None:
        """The newest whole state (or the one of `step`), in the template's shapes and places.

        A damaged checkpoint is named on stderr, and the one before it is tried; once that is
        restored, the damaged ones are moved to WORKDIR/damaged, unless read_only.

        Args:
            template: a state of jax.ShapeDtypeStruct with shardings; None: nested dicts of
                arrays on the first device of this process.

        Returns:
            The state, or None if nothing was saved.

        Raises:
            UserError: all are damaged, or the one that was asked for is.
        """
        steps = self.steps() if step is None else [step]
        damaged: list[int] = []
        for candidate in reversed(steps):
            restored, failure = None, None
            try:
                restored = self._restore(candidate, template)
            except Exception as error:
                failure = error
            why = _first_line(failure) if failure else ""
            said = [s for s in ([why] if self._read_only else processes.gather_text(why)) if s]
            if not said:
                if not self._read_only:
                    self._set_aside(damaged)
                return restored
            place = self._directory / str(candidate)
            message = f"checkpoint {place} is damaged, or another code's ({said[0]})"
            damaged.append(candidate)
            if candidate == steps[0]:
                remedy = "" if self._read_only else ": choose another --workdir to start anew"
                raise UserError(
                    f"{message}, and there is no other to fall back to{remedy}"
                ) from failure
            if self._read_only or processes.is_main():
                print(f"WARNING: {message}: trying the one before", file=sys.stderr)
        return None

    def _restore(self, step: int, template: Any) -> Any:
        """The state of `step`; any exception if it is not as it was saved."""
        if template is None:  # not where they were when saved: that may be another process's
            here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            template = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
                self._manager.item_metadata(step)["state"],
            )
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
        """Moves checkpoints to WORKDIR/damaged."""
        aside = self._directory.parent / "damaged"

        def move() -> None:
            for step in damaged if processes.is_main() else ():
                print(f"checkpoint {step} was moved to {aside}", file=sys.stderr)
                try:
                    if (aside / str(step)).exists():
                        (aside / str(step)).rmtree()
                    aside.mkdir(exist_ok=True)
                    (self._directory / str(step)).rename(aside / str(step))
                except OSError as error:
                    raise UserError(
                        f"checkpoint {step} is damaged and cannot be moved aside: {error}"
                    ) from error

        if damaged:
            processes.together(move)
            self._manager.reload()

    def close(self) -> None:
        """Waits for what is being saved, and lets go of the directory."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception):  # it tells of the failed save once more
                self._manager.close()
