"""A network and a run so small that tests can train them."""

import contextlib
import functools
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from inception import UserError
from inception.cli.errors import as_flags
from inception.config import load_config
from inception.model import TABLE_1, GoogLeNet
from inception.runtime import checkpoint
from inception.step import TrainState, create_state

EXPERIMENT = str(pathlib.Path(__file__).parents[1] / "experiments" / "digits.py")
# 16 images of noise around three colours, two steps an epoch: every part of a run, in seconds.
OVERRIDES = (
    "--config.model.width=0.05",
    "--config.model.norm=lrn",  # a program with BatchNorm takes twice the time to compile
    "--config.model.classes=3",
    "--config.data.source=synthetic",
    "--config.data.examples=32",
    "--config.data.colors.brightness=0.2",
    "--config.optim.batch_size=16",
    "--config.optim.epochs=3.",
    "--config.optim.learning_rate=0.02",
    "--config.run.eval_batch_size=24",
    "--config.run.log_every_steps=2",
    "--config.run.workers=2",
)

TX = optax.identity()
WITH_POOLS = ("4b", "4c", "5a")  # for `short_network`: published weights fit, pool4 stays


@contextlib.contextmanager
def short_network(*left_out: str) -> Iterator[None]:
    """GoogLeNet without some modules: less to compile.

    By default without 4b, 4c, 5a, and 4e, after which pool4 comes: 5b's grid has stride 16.
    """
    whole = dict(TABLE_1)
    for row in left_out or ("4b", "4c", "4e", "5a"):
        del TABLE_1[row]
    jax.clear_caches()  # programs of equal GoogLeNets
    try:
        yield
    finally:
        TABLE_1.update({row: TABLE_1.pop(row, filters) for row, filters in whole.items()})
        jax.clear_caches()


def config(*overrides: str) -> ConfigDict:
    return load_config(EXPERIMENT, [*OVERRIDES, *overrides])


def draw(shapes: Any, seed: int) -> Any:
    """Kernels as He drew them, all else as it begins; without a program for each shape."""
    rng = np.random.default_rng(seed)

    def leaf(path: Any, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key == "kernel":
            return rng.normal(0, np.sqrt(2 / np.prod(shape.shape[:-1])), shape.shape).astype("f")
        return np.full(shape.shape, path[-1].key in ("scale", "var"), shape.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def draw_state(shapes: TrainState) -> TrainState:
    """The state before the first step, as `draw` has its weights."""
    raw = draw(shapes.raw_variables(), 0)
    state = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
    return state.replace(**raw, average=raw if shapes.average else {})


def state(
    model: GoogLeNet,
    tx: optax.GradientTransformation = TX,
    *,
    averaged: bool = False,
    input_px: int = 65,
) -> TrainState:
    """A first state."""
    create = functools.partial(
        create_state, model, tx, seed=0, input_px=input_px, averaged=averaged
    )
    return draw_state(jax.eval_shape(create))


def variables(config: ConfigDict, seed: int) -> Any:
    """Random weights, {'params', 'batch_stats'}."""
    shapes = state(GoogLeNet(**config.model), input_px=config.input_px).raw_variables()
    return draw(shapes, seed)


@functools.partial(jax.jit, static_argnums=0)
def logits(model: GoogLeNet, variables: Any, images: jax.Array) -> jax.Array:
    """Of the main classifier, in evaluation; images are normalised."""
    return model.apply(variables, images, train=False)["main"]


def write_run(
    workdir: pathlib.Path, config: ConfigDict, *, seed: int = 0, average: bool = False
) -> str:
    """A folder as train leaves it, with random weights, and others in an average; returns its path."""
    workdir.mkdir()
    (workdir / "config.json").write_text(config.to_json())
    checkpoint.write_classes(
        str(workdir), tuple(f"colour {i}" for i in range(config.model.classes))
    )
    saved = checkpoint.Checkpoints(str(workdir))
    mean = variables(config, seed + 1) if average else {}
    saved.save(0, {**variables(config, seed), "average": mean, "step": np.zeros((), np.int32)})
    saved.close()
    return str(workdir)


@contextlib.contextmanager
def refused(match: str, *flags: str) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """Like pytest.raises(UserError, match=...), of the line that the command line makes of it.

    Args:
        flags: of the command that would have run this, such as workdir.
    """
    with pytest.raises(UserError) as raised:
        yield raised
    line = as_flags(str(raised.value), flags or ("workdir",))
    assert re.search(match, line), line
