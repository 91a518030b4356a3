"""One run: from a config and a workdir to trained parameters. The one loop."""

import contextlib
import functools
import json
import pathlib
import signal
import sys
from typing import Any

import jax
from ml_collections import ConfigDict

from inception import (
    UserError,
    checkpoint,
    evaluate,
    monitor,
    optim,
    parallel,
    report,
    results,
    samples,
    transfer,
)
from inception.data import loader, sources
from inception.model import TRUNK, GoogLeNet, frozen_modules
from inception.step import TrainState, create_state, train_step


class _StopOnSignal:
    """Within it, ctrl-C and SIGTERM ask the loop to save and stop; a second one does not ask."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __enter__(self) -> "_StopOnSignal":
        self.name = ""
        self._handlers: dict[int, Any] = {s: signal.signal(s, self._ask) for s in self.SIGNALS}
        return self

    def _ask(self, number: int, _frame: Any) -> None:
        self.name = signal.Signals(number).name
        print(f"\n{self.name}: saving after this step; again to stop at once", file=sys.stderr)
        signal.signal(number, self._handlers[number])

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def _flatten(tree: dict[str, Any], prefix: str = "config") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}.{key}"
        flat |= _flatten(value, name) if isinstance(value, dict) else {name: value}
    return flat


def claim_workdir(config: dict[str, Any], workdir: str) -> None:
    """Writes WORKDIR/config.json, or checks that the run that is there has the same config.

    config.run may differ: nothing in it changes the result. What another start wrote that failed
    before it began is written anew.

    Raises:
        UserError: the folder cannot be written, or belongs to another config.
    """
    path = pathlib.Path(workdir) / "config.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            there, here = _flatten(json.loads(path.read_text())), _flatten(config)
            begun = path.with_name("metrics.jsonl").exists() or any(
                path.with_name("checkpoints").glob("*")
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
        whole = path.with_suffix(".tmp")  # a full disk leaves no half config.json
        whole.write_text(json.dumps(config, indent=2) + "\n")
        whole.replace(path)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}): choose another --workdir") from error


def optimizer(config: ConfigDict, steps_per_epoch: float, total_steps: int) -> tuple[Any, Any]:
    """(learning-rate schedule, optax transform) that config.optim asks for."""
    schedule = optim.learning_rate_schedule(
        config.optim.schedule,
        learning_rate=config.optim.learning_rate,
        total_steps=total_steps,
        warmup_steps=round(config.optim.warmup_epochs * steps_per_epoch),
        power=config.optim.power,
        decay_rate=config.optim.decay_rate,
        decay_steps=max(1, round(config.optim.decay_epochs * steps_per_epoch)),
    )
    tx = optim.sgd(
        schedule,
        momentum=config.optim.momentum,
        momentum_style=config.optim.momentum_style,
        weight_decay=config.optim.weight_decay,
        bias_lr_mult=config.optim.bias_lr_mult,
        bias_decay_mult=config.optim.bias_decay_mult,
        trunk=TRUNK,
        trunk_lr_mult=config.optim.trunk_lr_mult,
        frozen=frozen_modules(config.model.frozen_through),
    )
    return schedule, tx


def _state_and_step(
    config: ConfigDict,
    tx: Any,
    mesh: Any,
    checkpoints: checkpoint.Checkpoints,
    classes: tuple[str, ...],
) -> tuple[TrainState, Any]:
    """The newest saved state, or the first; and the compiled train step."""
    model = GoogLeNet(**config.model)
    polyak_decay = config.optim.polyak_decay
    init = functools.partial(
        create_state,
        model,
        tx,
        seed=config.seed,
        input_px=config.input_px,
        polyak_decay=polyak_decay,
    )
    state = checkpoints.restore(parallel.replicated_shapes(init, mesh))
    if state is None:
        state = parallel.compute_replicated(init, mesh)
        if config.init_from:
            taken = transfer.start_from(
                config.init_from,
                jax.device_get(state.raw_variables()),
                model=model,
                normalization=config.data.normalization,
                classes=classes,
            )
            average = parallel.replicate(taken if state.average else {}, mesh)
            state = state.replace(**parallel.replicate(taken, mesh), average=average)
    step = functools.partial(
        train_step,
        model=model,
        tx=tx,
        seed=config.seed,
        data_seed=config.data.seed,
        colors=config.data.colors.to_dict(),
        normalization=config.data.normalization,
        head_weight=config.loss.head_weight,
        label_smoothing=config.loss.label_smoothing,
        polyak_decay=polyak_decay,
        accumulate=config.optim.accumulate,
    )
    return state, parallel.jit_over_batch(step, mesh, donate=True)


def _batches(config: ConfigDict, source: sources.Source, start_step: int, total_steps: int) -> Any:
    return loader.train_batches(
        source,
        sample=samples.training_sampler(config),
        decoder=config.data.decoder,
        seed=config.data.seed,
        start_step=start_step,
        total_steps=total_steps,
        batch_size=config.optim.batch_size,
        input_px=config.input_px,
        classes=config.model.classes,
        max_megapixels=config.data.max_megapixels,
        workers=config.run.workers,
    )


def run(config: ConfigDict, workdir: str, *, command: str = "") -> dict[str, Any]:
    """Trains `config` in `workdir`, going on where the last start stopped.

    Args:
        config: locked, with the knobs of experiments/base.py.
        workdir: of this run alone.
        command: how the run was started, for the page.

    Returns:
        {'steps', 'images_per_second', 'params_digest', 'damaged'} and the keys of
        `Evaluation.result`.

    Raises:
        UserError: whatever the user can mend; also after a signal, when the state is saved.
    """
    claim_workdir(json.loads(config.to_json()), workdir)
    mesh = parallel.make_mesh()
    batch_size = config.optim.batch_size
    parallel.check_batch_size(batch_size, config.optim.accumulate, mesh)
    source = evaluate.open_split(config, config.data.train_split)
    if len(source.classes) != config.model.classes:
        raise UserError(
            f"config.model.classes={config.model.classes}, and the set has {len(source.classes)} "
            f"classes: give --config.model.classes={len(source.classes)}"
        )
    evaluator = evaluate.Evaluator(config, mesh, split=config.data.eval_split)
    sources.check_classes(source.classes, evaluator.source.classes)
    checkpoint.write_classes(workdir, source.classes)

    steps_per_epoch = len(source) / batch_size
    total_steps = round(config.optim.epochs * steps_per_epoch)
    if total_steps < 1:
        raise UserError(
            f"config.optim.epochs={config.optim.epochs} makes no step of "
            f"config.optim.batch_size={batch_size} on {len(source)} images: raise or lower them"
        )
    log_every = config.run.log_every_steps
    if log_every < 1:
        raise UserError(f"config.run.log_every_steps={log_every}: must be at least 1")
    schedule, tx = optimizer(config, steps_per_epoch, total_steps)

    with contextlib.ExitStack() as closing:
        checkpoints = checkpoint.Checkpoints(workdir, keep=config.run.keep_checkpoints)
        closing.callback(checkpoints.close)
        state, step_fn = _state_and_step(config, tx, mesh, checkpoints, source.classes)
        start_step = int(state.step)
        batches = _batches(config, source, start_step, total_steps)
        writer = monitor.Writer(workdir, start_step=start_step)
        closing.callback(writer.close)
        writer.check_images(len(source))
        writer.write(
            "start", start_step, command=command, images=len(source), **report.environment()
        )
        watch = monitor.Monitor(
            writer,
            schedule=schedule,
            start_step=start_step,
            total_steps=total_steps,
            steps_per_epoch=steps_per_epoch,
            batch_size=batch_size,
            classes=config.model.classes,
            dead_head_epochs=config.run.dead_head_epochs,
            max_damaged=config.data.max_damaged_share * len(source),
        )
        closing.callback(watch.close)
        watch.say(
            f"{len(source)} images, {total_steps} steps of {batch_size} on {mesh.devices.size} "
            f"device(s) of kind {jax.devices()[0].device_kind}"
            + (f", going on at step {start_step}" if start_step else "; compiling")
        )
        state, evaluation = _loop(
            state,
            step_fn,
            batches,
            evaluator,
            checkpoints,
            watch,
            mesh=mesh,
            start_step=start_step,
            total_steps=total_steps,
            eval_every=max(1, round(config.run.eval_every_epochs * steps_per_epoch)),
            save_every=max(1, round(config.run.checkpoint_every_epochs * steps_per_epoch)),
            log_every=log_every,
        )
        damaged = watch.damaged()
        if damaged:
            watch.say(f"{damaged} damaged images were skipped; metrics.jsonl names them")
        result = {
            "steps": total_steps,
            "images_per_second": watch.images_per_second(),
            "params_digest": checkpoint.digest(jax.device_get(state.params)),
            "damaged": damaged,
            **evaluation.result(),
        }
    results.write_json(
        workdir, evaluation, source=evaluator.source, split=evaluator.split, step=total_steps
    )
    report.write_page([workdir], f"{workdir}/report.html")
    return result


def _loop(
    state: TrainState,
    step_fn: Any,
    batches: Any,
    evaluator: evaluate.Evaluator,
    checkpoints: checkpoint.Checkpoints,
    watch: monitor.Monitor,
    *,
    mesh: Any,
    start_step: int,
    total_steps: int,
    eval_every: int,
    save_every: int,
    log_every: int,
) -> tuple[TrainState, results.Evaluation]:
    """Evaluates and saves the state that is there, then takes the next batch and steps."""
    with _StopOnSignal() as stop:
        for step in range(start_step, total_steps + 1):
            done = step == total_steps
            top1 = None
            if done or (step % eval_every == 0 and watch.wants_evaluation(step) and not stop.name):
                watch.flush()
                try:
                    evaluation = evaluator(state.eval_variables())
                except UserError:  # a damaged image costs no training
                    evaluator.check_finite(state.raw_variables())
                    checkpoints.save(step, state)
                    raise
                top1 = evaluation.accuracy(1)
                watch.evaluated(step, evaluation.metrics())
            if done or stop.name or (step % save_every == 0 and step > start_step):
                watch.flush()
                evaluator.check_finite(state.raw_variables())
                checkpoints.save(step, state, top1=top1)
                watch.restart_clock()
            if done:
                checkpoints.wait()
                return state, evaluation
            if stop.name:
                checkpoints.wait()
                raise UserError(
                    f"stopped by {stop.name}: step {step} of {total_steps} is saved; the same "
                    "command goes on from there"
                )

            batch, damaged = next(batches)
            state, metrics = step_fn(state, parallel.to_global(batch, mesh))
            if step == start_step:
                jax.block_until_ready(metrics)
                watch.compiled()
            watch.add(metrics, damaged)
            if (step + 1) % log_every == 0:
                watch.flush()
    raise AssertionError("the loop returns at its last step")
