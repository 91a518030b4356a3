"""Measures the speed of training, evaluation or the input on this machine: `launch.py bench`."""

import functools
import math
import time
import timeit
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from inception import UserError, train
from inception.config import training_sizes
from inception.data import pipeline
from inception.evaluation.networks import eval_batch_size, eval_step
from inception.model import GoogLeNet
from inception.runtime import compiling, processes, sharding
from inception.tools import profiler

FEWEST = 3  # the fewest steps to measure, however long they take
ENOUGH_S = 10.0


def run(
    config: ConfigDict, *, what: str, batch_size: int | None = None, profile: bool = False
) -> dict[str, Any]:
    """Times the step of `train` or `eval` on noise, or the batches of the loader.

    A training step of several sizes counts by the sizes' shares of the run.

    Args:
        config: locked; gives the batch sizes that `batch_size` leaves open.
        what: 'train'; 'eval': the forward pass of one batch; 'input': batches of the training
            split, loaded and discarded.
        batch_size: of all devices together; None: config.optim's, for 'eval' config.run's.
            'eval' rounds it up to a multiple of the devices.
        profile: adds 'profile', the result of `profiler.measure`; not for 'input'.

    Returns:
        {'images_per_second', 'seconds_per_step': the median, 'p99_seconds': the 99th percentile
        of the steps, 'compile_seconds': the time to build and compile the step, for 'input' the
        time to the first batch, 'memory_bytes': the program's memory on each device, as the
        compiler reports it (0 for 'input'), 'batch_size', 'device', 'devices', 'what'}.

    Raises:
        UserError: a batch that the devices do not divide, a set that cannot be opened, a profile
            of the input.
    """
    if profile and what == "input":
        raise UserError("`what`=input has no layers: `profile` goes with train and eval")
    mesh = sharding.make_mesh()
    size = batch_size or (config.run.eval_batch_size if what == "eval" else config.optim.batch_size)
    size = eval_batch_size(size, size, mesh) if what == "eval" else size
    config = config.copy_and_resolve_references()
    config.optim.batch_size = size
    sizes = training_sizes(config) if what == "train" else (config.input_px,)
    if profile and len(set(sizes)) > 1:
        raise UserError(f"`profile` is of one size: give `train.sizes`=({sizes[0]},)")
    timed = {px: _timed(config, mesh, what, px, profile=profile) for px in set(sizes)}

    def mean(function: Callable[[list[float]], Any]) -> float:
        return float(np.mean([function(timed[px].seconds) for px in sizes]))

    result = {
        "what": what,
        "images_per_second": size / mean(np.mean),
        "seconds_per_step": mean(np.median),
        "p99_seconds": max(float(np.quantile(t.seconds, 0.99)) for t in timed.values()),
        "compile_seconds": sum(t.ready_seconds for t in timed.values()),
        "memory_bytes": max(t.memory_bytes for t in timed.values()),
        "batch_size": size,
        "device": jax.devices()[0].device_kind,
        "devices": mesh.devices.size,
    }
    return result | ({"profile": timed[sizes[0]].profile} if profile else {})


class Timed(NamedTuple):
    """What was measured of the steps at one size."""

    seconds: list[float]  # of each step
    ready_seconds: float
    memory_bytes: int
    profile: dict[str, Any]


def _timed(config: ConfigDict, mesh: Any, what: str, px: int, *, profile: bool) -> Timed:
    step, compiled, ready_seconds = _begun(config, mesh, what, px)
    seconds = timeit.repeat(step, number=1, repeat=FEWEST)
    more = math.ceil((ENOUGH_S - sum(seconds)) / np.mean(seconds))
    more = int(processes.gather_text(str(more))[0])  # all processes take equally many steps
    seconds += timeit.repeat(step, number=1, repeat=max(0, more))
    measured = {}
    if profile:
        measured = profiler.measure(
            step,
            compiled.as_text(),
            GoogLeNet(**config.model),
            input_px=px,
            images=config.optim.batch_size,
            train=what == "train",
            seconds=float(np.median(seconds)),
        )
    memory = memory_bytes(compiled) if compiled else 0
    return Timed(seconds, ready_seconds, memory, measured)


def memory_bytes(compiled: Any) -> int:
    """Memory of a compiled program on each device, arguments and results included."""
    memory = compiled.memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return kept - memory.alias_size_in_bytes + memory.temp_size_in_bytes


def _noise(config: ConfigDict, mesh: Any, px: int) -> dict[str, jax.Array]:
    """This process's share of a batch of noise, in the format of the loader."""
    rng = np.random.default_rng(0)
    rows = config.optim.batch_size // jax.process_count()
    shape = (rows, px, px, 3)
    labels = rng.integers(0, config.model.classes, rows).astype(np.int32)
    batch = {"image": rng.integers(0, 256, shape, np.uint8), "label": labels}
    return sharding.shard_batch(batch, mesh)


def compile_step(
    config: ConfigDict, mesh: Any, *, training: bool, px: int = 0
) -> tuple[Any, Callable]:
    """Compiles a training step or a forward pass from shapes; returns it and its state's init.

    Args:
        px: the size of the images, config.input_px by default.

    Raises:
        UserError: a batch that the devices do not divide.
    """
    init: Callable[[], Any]
    if training:
        sharding.check_batch_size(config.optim.batch_size, config.optim.accumulate, mesh)
        built = train.build(config, mesh, steps_per_epoch=1e6, total_steps=10**8)
        program, init = built.step, built.init
    else:
        model = GoogLeNet(**config.model)
        x = np.zeros((1, config.input_px, config.input_px, 3), np.float32)
        init = functools.partial(model.init, jax.random.key(config.seed), x, train=False)
        step = functools.partial(eval_step, model=model, normalization=config.data.normalization)
        program = compiling.CompiledStep(step, mesh, training=False)
    px = px or config.input_px
    shape = (config.optim.batch_size, px, px, 3)
    batch = {
        "image": jax.ShapeDtypeStruct(shape, np.uint8),
        "label": jax.ShapeDtypeStruct(shape[:1], np.int32),
    }
    return program.lower(sharding.replicated_shapes(init, mesh), batch).compile(), init


def _begun(
    config: ConfigDict, mesh: Any, what: str, px: int
) -> tuple[Callable[[], Any], Any, float]:
    """Returns a function that runs one step, its program (None for the input) and the set-up time.

    The first step, which takes longer, has run already.
    """
    start = time.perf_counter()
    if what == "input":
        source = pipeline.open_split(config, config.data.train_split)
        share = {"process": jax.process_index(), "processes": jax.process_count()}
        batches = pipeline.training_batches(
            config, source, start_step=0, total_steps=10**8, **share
        )
        next(batches)
        return lambda: next(batches), None, time.perf_counter() - start
    compiled, init = compile_step(config, mesh, training=what == "train", px=px)
    ready_seconds = time.perf_counter() - start
    state, batch = compiling.compute_replicated(init, mesh), _noise(config, mesh, px)

    def step() -> None:
        nonlocal state
        out = jax.block_until_ready(compiled(state, batch))
        if what == "train":
            state = out[0]

    step()
    return step, compiled, ready_seconds
