"""One run: from a config and a workdir to trained parameters. The one loop."""

import contextlib
import functools
import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from inception import Interrupted, UserError, optim
from inception.data import cropping, decoding, paths, pipeline, sources
from inception.evaluation import evaluate, results
from inception.model import TRUNK, GoogLeNet, frozen_modules
from inception.reporting import monitor, page, samples
from inception.runtime import checkpoint, compiling, prefetch, processes, sharding, transfer
from inception.runtime.workdir import claimed
from inception.step import TrainState, create_state, train_step


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


def check(config: ConfigDict) -> None:
    """Looks at what needs neither data nor devices; nothing is compiled.

    Raises:
        UserError: a choice that there is not, or a number that can never do.
    """
    GoogLeNet(**config.model).check_input_px(config.input_px)
    samples.training_sampler(config)
    cropping.Views((1,), config.input_px, config.data.resize_px, config.data.resize)
    decoding.check_decoder(config.data.decoder)
    sources.check_kind(config.data.source)
    pipeline.threads(config.run.workers)
    for knob, value in (
        ("optim.batch_size", config.optim.batch_size),
        ("optim.accumulate", config.optim.accumulate),
        ("run.log_every_steps", config.run.log_every_steps),
        ("run.keep_checkpoints", config.run.keep_checkpoints),
        ("run.eval_batch_size", config.run.eval_batch_size),
    ):
        if value < 1:
            raise UserError(f"config.{knob}={value}: must be at least 1")
    if not config.optim.warmup_epochs < config.optim.epochs:
        raise UserError(
            f"config.optim.warmup_epochs={config.optim.warmup_epochs}: must be shorter than "
            f"config.optim.epochs={config.optim.epochs}"
        )
    optimizer(config, steps_per_epoch=1.0, total_steps=sys.maxsize)


def step_function(config: ConfigDict, tx: Any, mesh: Any) -> Any:
    """The train step that `run` takes, jitted: (state, batch) -> (state, metrics)."""
    step = functools.partial(
        train_step,
        model=GoogLeNet(**config.model),
        tx=tx,
        seed=config.seed,
        data_seed=config.data.seed,
        colors=config.data.colors.to_dict(),
        mixing={knob: config.data.get(knob, 0.0) for knob in ("mixup", "cutmix")},
        normalization=config.data.normalization,
        head_weight=config.loss.head_weight,
        label_smoothing=config.loss.label_smoothing,
        polyak_decay=config.optim.polyak_decay,
        accumulate=config.optim.accumulate,
    )
    return compiling.CompiledStep(step, mesh, training=True)


def initializer(config: ConfigDict, tx: Any) -> Callable[[], TrainState]:
    """What makes the state before the first step."""
    return functools.partial(
        create_state,
        GoogLeNet(**config.model),
        tx,
        seed=config.seed,
        input_px=config.input_px,
        polyak_decay=config.optim.polyak_decay,
    )


def _state_and_step(
    config: ConfigDict,
    tx: Any,
    mesh: Any,
    checkpoints: checkpoint.Checkpoints,
    classes: tuple[str, ...],
) -> tuple[TrainState, Any]:
    """The newest saved state, or the first; and the compiled train step."""
    init = initializer(config, tx)
    state = checkpoints.restore(sharding.replicated_shapes(init, mesh))
    if state is None:
        state = compiling.compute_replicated(init, mesh)
        if config.init_from:
            taken = transfer.start_from(
                config.init_from,
                jax.device_get(state.raw_variables()),
                model=GoogLeNet(**config.model),
                normalization=config.data.normalization,
                classes=classes,
            )
            average = sharding.replicate(taken if state.average else {}, mesh)
            state = state.replace(**sharding.replicate(taken, mesh), average=average)
    return state, step_function(config, tx, mesh)


def training_batches(
    config: ConfigDict, source: sources.Source, start_step: int, total_steps: int
) -> Any:
    """This process's (batch, what was damaged in it), from one step to another."""
    return pipeline.train_batches(
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
        process=jax.process_index(),
        processes=jax.process_count(),
    )


def run(config: ConfigDict, workdir: str, *, command: str = "") -> dict[str, Any]:
    """Trains `config` in `workdir`, going on where the last start stopped.

    Every process of the run calls it; process 0 writes metrics and pages, and all come to the same
    result.

    Args:
        config: locked, with the knobs of experiments/base.py.
        workdir: of this run alone.
        command: how the run was started, for the page.

    Returns:
        {'steps', 'images_per_second', 'waiting_for_data': share of the training time,
        'params_digest', 'damaged'} and the keys of `Evaluation.result`.

    Raises:
        UserError: whatever the user can mend.
        Interrupted: after a signal or a maintenance notice, when the state is saved.
    """
    with claimed(json.loads(config.to_json()), workdir):
        return _run(config, workdir, command)


def _run(config: ConfigDict, workdir: str, command: str) -> dict[str, Any]:
    check(config)
    mesh = sharding.make_mesh()
    batch_size = config.optim.batch_size
    sharding.check_batch_size(batch_size, config.optim.accumulate, mesh)
    source = processes.together(lambda: evaluate.open_split(config, config.data.train_split))
    if len(source.classes) != config.model.classes:
        raise UserError(
            f"config.model.classes={config.model.classes}, and the set has {len(source.classes)} "
            f"classes: give --config.model.classes={len(source.classes)}"
        )
    evaluator = processes.together(
        lambda: evaluate.Evaluator(config, mesh, split=config.data.eval_split)
    )
    sources.check_classes(source.classes, evaluator.source.classes)
    if processes.is_main():
        checkpoint.write_classes(workdir, source.classes)

    steps_per_epoch = len(source) / batch_size
    total_steps = round(config.optim.epochs * steps_per_epoch)
    if total_steps < 1:
        raise UserError(
            f"config.optim.epochs={config.optim.epochs} makes no step of "
            f"config.optim.batch_size={batch_size} on {len(source)} images: raise or lower them"
        )
    schedule, tx = optimizer(config, steps_per_epoch, total_steps)

    with contextlib.ExitStack() as closing:
        checkpoints = checkpoint.Checkpoints(workdir, keep=config.run.keep_checkpoints)
        closing.callback(checkpoints.close)
        state, step_fn = _state_and_step(config, tx, mesh, checkpoints, source.classes)
        start_step = int(state.step)
        writer = monitor.Writer(workdir, start_step=start_step)
        closing.callback(writer.close)
        writer.check_images(len(source))
        writer.write("start", start_step, command=command, images=len(source), **page.environment())
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
            + (f" of {n} processes" if (n := jax.process_count()) > 1 else "")
            + (f", going on at step {start_step}" if start_step else "; compiling")
        )
        state, evaluation = _loop(
            state,
            step_fn,
            training_batches(config, source, start_step, total_steps),
            evaluator,
            checkpoints,
            watch,
            mesh=mesh,
            start_step=start_step,
            total_steps=total_steps,
            eval_every=max(1, round(config.run.eval_every_epochs * steps_per_epoch)),
            save_every=max(1, round(config.run.checkpoint_every_epochs * steps_per_epoch)),
            log_every=config.run.log_every_steps,
        )
        damaged = watch.damaged()
        if damaged:
            watch.say(f"{damaged} damaged images were skipped; metrics.jsonl names them")
        result = {
            "steps": total_steps,
            "images_per_second": watch.images_per_second(),
            "waiting_for_data": watch.waiting_for_data(),
            "params_digest": checkpoint.digest(jax.device_get(state.params)),
            "damaged": damaged,
            **evaluation.result(),
        }
    if processes.is_main():
        results.write_json(
            workdir, evaluation, source=evaluator.source, split=evaluator.split, step=total_steps
        )
        page.write([workdir], f"{workdir}/report.html")
        paths.write_whole(paths.at(workdir) / "result.json", json.dumps(result) + "\n")
    return result


def _check_finite(state: TrainState) -> None:
    """At once, where Evaluator.check_finite, which sees too large numbers as well, takes long."""
    numbers = jax.device_get((state.raw_variables(), state.average))
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(numbers)):
        raise UserError(
            "the parameters or statistics are not finite: this state was not saved. Lower "
            "config.optim.learning_rate, and start in a new --workdir"
        )


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
    newest: dict[str, jax.Array] = {}  # of the step that the devices are at

    def put(item: tuple[pipeline.Batch, list[str]]) -> tuple[dict[str, jax.Array], list[str]]:
        return sharding.shard_batch(item[0], mesh), item[1]

    def poll(seconds: float) -> None:
        stop.waiting()
        watch.stalled(seconds)

    def busy() -> bool:
        return bool(newest) and not newest["loss"].is_ready()  # type: ignore[attr-defined]

    with processes.Stop() as stop, prefetch.Prefetcher(batches, put, poll=poll, busy=busy) as ahead:
        step = start_step
        try:
            while True:
                stop.check()
                done = step == total_steps
                top1 = None
                if done or (step % eval_every == 0 and watch.wants_evaluation(step)):
                    watch.flush()
                    try:
                        evaluation = evaluator(state.eval_variables(), stop=stop)
                    except UserError:  # a damaged image costs no training
                        if jax.process_count() == 1:  # the others are still evaluating
                            evaluator.check_finite(state.raw_variables())
                            checkpoints.save(step, state)
                        raise
                    top1 = evaluation.accuracy(1)
                    watch.evaluated(step, evaluation.metrics())
                if done or (step % save_every == 0 and (step > start_step or top1 is not None)):
                    watch.flush()
                    evaluator.check_finite(state.raw_variables())
                    checkpoints.save(step, state, top1=top1)
                    watch.restart_clock()
                if done:
                    checkpoints.wait()
                    return state, evaluation

                batch, damaged = next(ahead)
                previous = newest
                state, newest = step_fn(state, batch, poll=stop.waiting)
                watch.add(newest, damaged, starved=ahead.starved)
                jax.block_until_ready(previous)  # two steps are under way at most
                if step == start_step:
                    jax.block_until_ready(newest)
                    watch.compiled()
                step += 1
                if step % log_every == 0:
                    watch.flush()
        except processes.Stopped as stopped:
            watch.flush()
            _check_finite(state)
            checkpoints.save(step, state)
            checkpoints.wait()
            raise Interrupted(
                f"stopped by {stopped}: step {step} of {total_steps} is saved; the same command "
                "goes on from there"
            ) from stopped
    raise AssertionError("the loop returns at its last step")
