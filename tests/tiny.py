"""A network and a run so small that tests can train them."""

import contextlib
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
from inception.cli.main import as_flags
from inception.config import load_config
from inception.model import GoogLeNet
from inception.runtime import checkpoint
from inception.step import create_state

EXPERIMENT = str(pathlib.Path(__file__).parents[1] / "experiments" / "digits.py")
# 16 images of noise around three colours, two steps an epoch: every part of a run, in seconds.
OVERRIDES = (
    "--config.model.width=0.05",
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


def config(*overrides: str) -> ConfigDict:
    return load_config(EXPERIMENT, [*OVERRIDES, *overrides])


def variables(config: ConfigDict, seed: int) -> Any:
    """Random weights, {'params', 'batch_stats'}."""
    state = create_state(
        GoogLeNet(**config.model),
        optax.identity(),
        seed=seed,
        input_px=config.input_px,
        polyak_decay=0.0,
    )
    return jax.device_get(state.raw_variables())


def write_run(workdir: pathlib.Path, config: ConfigDict, *, seed: int = 0) -> str:
    """A folder as train leaves it, with random weights; returns its path."""
    workdir.mkdir()
    (workdir / "config.json").write_text(config.to_json())
    checkpoint.write_classes(
        str(workdir), tuple(f"colour {i}" for i in range(config.model.classes))
    )
    saved = checkpoint.Checkpoints(str(workdir))
    saved.save(0, {**variables(config, seed), "average": {}, "step": np.zeros((), np.int32)})
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
