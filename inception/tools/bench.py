"""How fast training, evaluation or the input is on this machine: `launch.py bench`."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from inception import UserError, train
from inception.data import pipeline
from inception.evaluation.networks import eval_batch_size, eval_step
from inception.model import GoogLeNet
from inception.runtime import compiling, sharding
from inception.tools import profiler

FEWEST = 3  # steps that are measured, however long they take
ENOUGH_S = 10.0


# What runs a step once, its program (the input has none), and the seconds to compile it.
Workload = tuple[Callable[[], Any], Any, float]


def run(
    config: ConfigDict, *, what: str, batch_size: int | None = None, profile: bool = False
) -> dict[str, Any]:
    """Times the step that `train` or `eval` runs, on noise, or what the loader gives.

    Args:
        config: locked; the batch sizes in it are for the network, and for the loader.
        what: 'train'; 'eval': the forward pass of one batch; 'input': batches of the training
            split, loaded and thrown away.
        batch_size: of all devices together; None: config.optim's, in evaluation config.run's,
            which is rounded up to a multiple of the devices.
        profile: adds 'profile', what `profiler.measure` returns; not of the input.

    Returns:
        {'images_per_second', 'seconds_per_step': the median, 'p99_seconds': what all but a
        hundredth of the steps stayed under, 'compile_seconds': what comes before the first
        step, for 'input' the time to the first batch, 'memory_bytes': what the program needs on
        each device, by the compiler's account (0 for 'input'), 'batch_size', 'device', 'devices',
        'what'}.

    Raises:
        UserError: a batch that does not fit the devices, a set that cannot be opened, a profile
            of the input.
    """
    if profile and what == "input":
        raise UserError("`what`=input has no layers: `profile` goes with train and eval")
    mesh = sharding.make_mesh()
    size = batch_size or (config.run.eval_batch_size if what == "eval" else config.optim.batch_size)
    size = eval_batch_size(size, size, mesh) if what == "eval" else size
    config = config.copy_and_resolve_references()
    config.optim.batch_size = size
    begin = {"train": _training, "eval": _evaluation, "input": _input}[what]
    start = time.perf_counter()
    step, compiled, compile_seconds = begin(config, mesh)
    step()  # the first of a program takes longer; the loader's first batch is waited for
    if what == "input":
        compile_seconds = time.perf_counter() - start
    times = _times(step)
    result = {
        "what": what,
        "images_per_second": size * len(times) / times.sum(),
        "seconds_per_step": float(np.median(times)),
        "p99_seconds": float(np.quantile(times, 0.99)),
        "compile_seconds": compile_seconds,
        "memory_bytes": memory_bytes(compiled) if compiled else 0,
        "batch_size": size,
        "device": jax.devices()[0].device_kind,
        "devices": mesh.devices.size,
    }
    if profile:
        result["profile"] = profiler.measure(
            step,
            compiled.as_text(),
            GoogLeNet(**config.model),
            input_px=config.input_px,
            images=size,
            train=what == "train",
            seconds=result["seconds_per_step"],
        )
    return result


def to_text(result: dict[str, Any]) -> str:
    """What `run` returns, for people."""
    ready = "to the first batch" if result["what"] == "input" else "to compile"
    text = (
        f"{result['what']} at batch {result['batch_size']} on {result['devices']} device(s) of "
        f"kind {result['device']}: {result['images_per_second']:.1f} images/s, "
        f"{result['seconds_per_step'] * 1e3:.1f} ms a step (p99 {result['p99_seconds'] * 1e3:.1f}),"
        f" {result['compile_seconds']:.1f} s {ready}"
    )
    if result["memory_bytes"]:
        text += f", {result['memory_bytes'] / 1e6:,.0f} MB a device"
    return text + ("\n" + profiler.to_text(result["profile"]) if "profile" in result else "")


def memory_bytes(compiled: Any) -> int:
    """What a compiled program needs on each device, arguments and results included."""
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def _times(step: Callable[[], Any]) -> np.ndarray:
    """Seconds of each step, one after the other, until there are enough."""
    times: list[float] = []
    while len(times) < FEWEST or sum(times) < ENOUGH_S:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return np.asarray(times)


def _noise(config: ConfigDict, mesh: Any) -> dict[str, jax.Array]:
    """This process's share of a batch of noise, as the loader would give it."""
    rng = np.random.default_rng(0)
    rows = config.optim.batch_size // jax.process_count()
    shape = (rows, config.input_px, config.input_px, 3)
    labels = rng.integers(0, config.model.classes, rows).astype(np.int32)
    batch = {"image": rng.integers(0, 256, shape, np.uint8), "label": labels}
    return sharding.shard_batch(batch, mesh)


def compile_training(config: ConfigDict, mesh: Any) -> tuple[Callable[[], Any], Any, float]:
    """What makes the first state; the training step, compiled for shapes alone; the seconds.

    Raises:
        UserError: a batch that does not fit the devices.
    """
    sharding.check_batch_size(config.optim.batch_size, config.optim.accumulate, mesh)
    training = train.build(config, mesh, steps_per_epoch=1e6, total_steps=10**8)
    shape = (config.optim.batch_size, config.input_px, config.input_px, 3)
    batch = {
        "image": jax.ShapeDtypeStruct(shape, np.uint8),
        "label": jax.ShapeDtypeStruct(shape[:1], np.int32),
    }
    state = sharding.replicated_shapes(training.init, mesh)
    return training.init, *_compile(training.step, state, batch)


def _compile(program: compiling.CompiledStep, state: Any, batch: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    compiled = program.lower(state, batch).compile()
    return compiled, time.perf_counter() - start


def _training(config: ConfigDict, mesh: Any) -> Workload:
    init, compiled, compile_seconds = compile_training(config, mesh)
    state, batch = compiling.compute_replicated(init, mesh), _noise(config, mesh)

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics)

    return step, compiled, compile_seconds


def _evaluation(config: ConfigDict, mesh: Any) -> Workload:
    model = GoogLeNet(**config.model)
    shape = (1, config.input_px, config.input_px, 3)
    init = functools.partial(
        model.init, jax.random.key(config.seed), np.zeros(shape, np.float32), train=False
    )
    variables, batch = compiling.compute_replicated(init, mesh), _noise(config, mesh)
    forward = functools.partial(eval_step, model=model, normalization=config.data.normalization)
    program = compiling.CompiledStep(forward, mesh, training=False)
    compiled, compile_seconds = _compile(program, variables, batch)
    return lambda: jax.block_until_ready(compiled(variables, batch)), compiled, compile_seconds


def _input(config: ConfigDict, _mesh: Any) -> Workload:
    source = pipeline.open_split(config, config.data.train_split)
    share = {"process": jax.process_index(), "processes": jax.process_count()}
    batches = pipeline.training_batches(config, source, start_step=0, total_steps=10**8, **share)
    return lambda: next(batches), None, 0.0
