"""One run: from a config and a workdir to trained parameters. The one loop."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import optax
from ml_collections import ConfigDict

from inception import Interrupted, UserError, optim
from inception.config import training_sizes
from inception.data import paths, pipeline, sources
from inception.evaluation.evaluator import Evaluator
from inception.model import TRUNK, GoogLeNet, frozen_modules
from inception.reporting import callbacks, metrics
from inception.reporting.metrics import Callbacks, Steps
from inception.runtime import checkpoint, compiling, prefetch, processes, sharding
from inception.runtime.workdir import locked
from inception.step import TrainState, create_state, first_state, train_step

OF_OPTIMIZER = ("name", "momentum", "momentum_style", "weight_decay", "bias_lr_mult",
                "bias_decay_mult", "trunk_lr_mult", "clip_norm", "adaptive_clip")  # fmt: skip


class Training(NamedTuple):
    """The parts of a run's computation, each created once."""

    mesh: Any
    model: GoogLeNet
    schedule: optax.Schedule  # step -> learning rate
    tx: optax.GradientTransformation
    init: Callable[[], TrainState]  # the state before the first step, without init_from
    step: Any  # CompiledStep, perhaps with teachers: (state, batch) -> (state, metrics)


def build(
    config: ConfigDict,
    mesh: Any,
    *,
    steps_per_epoch: float,
    total_steps: int,
    source: sources.Source | None = None,
) -> Training:
    """Builds the network, the optimiser and the train step of a config.

    Classes weigh as loss.class_balance says if `source`, the training split, is given.
    """
    model = GoogLeNet(**config.model, batch_axis=sharding.batch_axis(mesh))
    schedule = optim.learning_rate_schedule(
        config.optim.schedule,
        total_steps=total_steps,
        warmup_steps=warmup_steps(config, steps_per_epoch),
        **{knob: config.optim[knob] for knob in ("learning_rate", "power", "decay_rate")},
        decay_steps=max(1, round(config.optim.decay_epochs * steps_per_epoch)),
    )
    knobs = {knob: config.optim[knob] for knob in OF_OPTIMIZER}
    frozen = frozen_modules(config.model.frozen_through)
    tx = optim.optimizer(schedule=schedule, trunk=TRUNK, frozen=frozen, **knobs)
    averaging = optim.averaging(config.optim.name, config.optim.polyak_decay)
    size = {"seed": config.seed, "input_px": config.input_px}
    init = functools.partial(create_state, model, tx, **size, averaged=averaging is not None)
    loss = {k: config.loss[k] for k in ("head_weight", "label_smoothing", "smooth_heads")}
    if source is not None and config.loss.class_balance:
        from inception.data import balance

        loss["class_weights"] = balance.class_weights(source, config.loss.class_balance)
    linear = optax.linear_schedule(1.0, 0.0, total_steps)
    step = functools.partial(
        train_step,
        model=model,
        tx=tx,
        seed=config.seed,
        data_seed=config.data.seed,
        colors=config.data.colors.to_dict(),
        mixing={"mixup": config.data.mixup, "cutmix": config.data.cutmix},
        **{knob: config.data[knob] for knob in ("erasing", "repeats", "normalization")},
        averaging=averaging,
        accumulate=config.optim.accumulate,
        gradient_norms=config.run.norms_every_steps > 0,
        over_devices=sharding.over_devices(mesh, gradient_dtype=config.optim.gradient_dtype),
        loss=loss,
        head_schedule={"constant": lambda _: 1.0, "linear": linear}[config.loss.head_schedule],
    )
    if config.distill.teacher:
        from inception.evaluation import teacher

        compiled: Any = teacher.TaughtStep(step, config, mesh, source.classes if source else ())
    else:
        compiled = compiling.CompiledStep(step, mesh, training=True, sizes=training_sizes(config))
    return Training(mesh, model, schedule, tx, init, compiled)


def restore_or_initialise(
    config: ConfigDict,
    training: Training,
    checkpoints: checkpoint.Checkpoints,
    classes: tuple[str, ...],
) -> TrainState:
    """The newest checkpoint; without one, the initial state with config.init_from's weights."""
    state = checkpoints.restore(sharding.replicated_shapes(training.init, training.mesh))
    if state is not None:
        return state
    if not config.init_from:
        return compiling.compute_replicated(training.init, training.mesh)
    from inception.runtime import weights

    # Before the initial state, which takes longer than to find that init_from does not fit.
    trained = weights.load_to_start(config.init_from, training.model, config.data.normalization)
    state = compiling.compute_replicated(training.init, training.mesh)
    fresh = jax.device_get(state.raw_variables())
    variables = weights.start_from(config.init_from, trained, fresh, classes)
    start = functools.partial(first_state, tx=training.tx, averaged=bool(state.average))
    return sharding.jit_replicated(start, training.mesh)(variables)


def loop(
    training: Training,
    state: TrainState,
    batches: Iterator[tuple[pipeline.Batch, list[str]]],
    calls: Callbacks,
    checkpoints: checkpoint.Checkpoints,
    stop: processes.Stop,
) -> TrainState:
    """Trains to the last step; a stop from outside saves the state and raises Interrupted.

    The order, and the reason for each part of it::

        for each step:
            stop, if a signal came       # here the state is complete, and all processes agree
            evaluate, then save, if due  # before the step: a stop in either loses nothing
            take the next batch          # read ahead; waiting counts if the devices are idle
            start the step               # the devices compute it while the host continues
            wait for the step before it  # at most two run at a time: memory stays bounded
            log, if due                  # only here metrics are fetched and alarms raised
        evaluate and save the last state
    """
    running: dict[str, jax.Array] = {}  # metrics of the newest step

    def put(item: tuple[pipeline.Batch, list[str]]) -> tuple[Any, list[str]]:
        return sharding.shard_batch(item[0], training.mesh), item[1]

    def poll(waiting: Callable[[float], None], seconds: float) -> None:
        stop.poll()
        waiting(seconds)

    def busy() -> bool:
        return bool(running) and not running["loss"].is_ready()  # type: ignore[attr-defined]

    at_read, at_compile = (functools.partial(poll, on) for on in (calls.on_wait, calls.on_compile))
    with stop, prefetch.Prefetcher(batches, put, poll=at_read, busy=busy) as prefetched:
        try:
            for step in range(calls.steps.start, calls.steps.total):
                stop.check()
                calls.before_step(step, state)
                batch, damaged = next(prefetched)
                previous = running
                state, running = training.step(state, batch, poll=at_compile)
                jax.block_until_ready(previous)
                calls.after_step(running, damaged, starved=prefetched.starved)
            stop.check()
            calls.before_step(calls.steps.total, state)
        except processes.Stopped as stopped:
            calls.fetch()
            checkpoint.save_finite(checkpoints, state)
            raise Interrupted(
                f"stopped by {stopped}: step {state.step} of {calls.steps.total} is saved; the "
                "same command resumes from there"
            ) from stopped
    checkpoints.wait()
    return state


def open_splits(config: ConfigDict, mesh: Any) -> tuple[sources.Source, Evaluator]:
    """The training split, and the other split's evaluator; UserError if the classes do not fit."""
    source = processes.together(lambda: pipeline.open_split(config, config.data.train_split))
    if (found := len(source.classes)) != config.model.classes:
        raise UserError(
            f"`classes`={config.model.classes}, and the set has {found} classes: give "
            f"`classes={found}`"
        )
    if config.data.balance:
        from inception.data import balance

        processes.together(lambda: balance.labels_of(source, "data.balance"))
    make = functools.partial(Evaluator, config, mesh, classes=source.classes)
    evaluator = processes.together(lambda: make(split=config.data.eval_split))
    of_set = {"bits": config.data.bits, "where": config.data.path}
    for line in pipeline.remarks(source, evaluator.source, **of_set) if processes.is_main() else ():
        metrics.say(line)
    return source, evaluator


def warmup_steps(config: ConfigDict, steps_per_epoch: float) -> int:
    """The steps of the warm-up, which the config gives in epochs or steps."""
    return config.optim.warmup_steps or round(config.optim.warmup_epochs * steps_per_epoch)


def count_steps(config: ConfigDict, images: int) -> tuple[float, int]:
    """(steps per epoch, total steps); UserError for no steps, or none after the warm-up."""
    batch_size, epochs = config.optim.batch_size, config.optim.epochs
    steps_per_epoch = max(images / batch_size, config.optim.min_epoch_steps)
    total_steps = round(epochs * steps_per_epoch)
    if total_steps < 1:
        raise UserError(
            f"`epochs`={epochs} makes no step of `optim.batch_size`={batch_size} on {images} "
            "images: raise the epochs or lower the batch size"
        )
    if (warmup := warmup_steps(config, steps_per_epoch)) >= total_steps:
        knob = "warmup_steps" if config.optim.warmup_steps else "warmup_epochs"
        raise UserError(
            f"`optim.{knob}` lasts {warmup} of {total_steps} steps: it must be shorter than "
            "`optim.epochs`"
        )
    return steps_per_epoch, total_steps


def write_results(
    workdir: str, result: dict[str, Any], evaluation: callbacks.EvaluateAndSave
) -> None:
    """Process 0 writes eval.json, the page and result.json."""
    if not processes.is_main():
        return
    from inception.reporting import page

    if count := result["damaged"]:
        metrics.say(f"{count} damaged images were skipped; metrics.jsonl names them")
    from inception.evaluation import results

    evaluator = evaluation.evaluator
    of = {"split": evaluator.split, "step": result["steps"]}
    results.write(workdir, evaluation.newest, evaluator.source, **of)
    page.write([workdir], f"{workdir}/report.html")
    paths.write_whole(paths.at(workdir) / "result.json", json.dumps(result) + "\n")


def run(config: ConfigDict, workdir: str, *, command: str = "") -> dict[str, Any]:
    """Trains `config` in `workdir`, resuming where the last start stopped.

    Every process of the run calls it; process 0 writes. The page shows `command`, the command line.

    Returns:
        {'steps', 'images_per_second', 'waiting_for_data': share of the training time,
        'params_digest', 'damaged'} and the keys of `Evaluation.result`.

    Raises:
        UserError: any error that the user can correct.
        Interrupted: after a signal or a maintenance notice, once the state is saved.
    """
    with locked(json.loads(config.to_json()), workdir), contextlib.ExitStack() as closing:
        mesh = sharding.make_mesh()
        sharding.check_batch_size(config.optim.batch_size, config.optim.accumulate, mesh)
        source, evaluator = open_splits(config, mesh)
        per_epoch, total = count_steps(config, len(source))
        devices, n = jax.devices(), jax.process_count()
        metrics.say(
            f"{len(source)} images, {total} steps of {config.optim.batch_size} on {len(devices)} "
            f"device(s) of kind {devices[0].device_kind}{f' of {n} processes' * (n > 1)}; compiling"
        )
        training = build(config, mesh, steps_per_epoch=per_epoch, total_steps=total, source=source)
        checkpoints = checkpoint.Checkpoints(workdir, keep=config.run.keep_checkpoints)
        closing.callback(checkpoints.close)
        state = restore_or_initialise(config, training, checkpoints, source.classes)
        steps = Steps(int(state.step), total, per_epoch, config.optim.batch_size)
        writer = metrics.open_log(workdir, steps, source, command, training.step.digest)
        closing.callback(writer.close)
        stop = processes.Stop()
        every = (config.run.eval_every_epochs, config.run.checkpoint_every_epochs)
        evaluation = callbacks.EvaluateAndSave(evaluator, checkpoints, writer, stop, steps, *every)
        called = [
            evaluation,
            *callbacks.write_norms(writer, steps, config.run.norms_every_steps),
            callbacks.DamagedImages(writer, config.data.max_damaged_share * len(source)),
            callbacks.NotFinite(),
            written := callbacks.WriteMetrics(writer, training.schedule),
            callbacks.ProgressBar(steps),
            callbacks.DeadHeads(writer, steps, config.model.classes, config.run.dead_head_epochs),
            callbacks.Stalls(writer),
        ]
        calls = Callbacks(called, writer, steps, log_every=config.run.log_every_steps)
        closing.callback(calls.close)
        share = {"process": jax.process_index(), "processes": jax.process_count()}
        batches = pipeline.training_batches(
            config, source, start_step=steps.start, total_steps=total, **share
        )
        state = loop(training, state, batches, calls, checkpoints, stop)
        result = {
            "steps": total,
            **written.result(),
            "params_digest": checkpoint.digest(jax.device_get(state.params)),
            "damaged": len(writer.damaged),
            **evaluation.newest.result(),
        }
        closing.close()  # writes all files that the page reads
        write_results(workdir, result, evaluation)
    return result
