"""A callback that writes norms of each module's gradient, update and weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from inception.reporting.metrics import Callback, Steps, Window, Writer
from inception.step import TrainState, norms_by_module

NORMS = ("gradient", "update", "weights")
copy = jax.jit(lambda params: jax.tree.map(jnp.copy, params))


@jax.jit
def of_step(before: dict[str, Any], after: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    """Norms by module of a step's update, and of the weights after it."""
    updates = jax.tree.map(jnp.subtract, after, before)
    return norms_by_module(updates), norms_by_module(after)


@dataclasses.dataclass
class WriteNorms(Callback):
    """Writes norms in the first step and then every so many.

    The train step computes the gradients' norms, which this takes out of the window's metrics. All
    else happens between steps: inside the step it would cost every step 3%, not only those written.
    """

    writer: Writer
    steps: Steps
    every_steps: int
    before: Any = None  # the parameters before the step to write
    gradient: Any = None  # the norms of the newest step's gradient

    def due(self, step: int) -> bool:
        return step % self.every_steps == 0 or self.before is not None

    def before_step(self, step: int, state: TrainState) -> None:
        if self.before is not None:
            found = (self.gradient, *jax.device_get(of_step(self.before, state.params)))
            values = {
                f"{kind}/{module}": float(norm)
                for kind, row in zip(NORMS, found, strict=True)
                for module, norm in zip(sorted(state.params), row, strict=True)
            }
            self.writer.write("norms", step, epoch=step / self.steps.per_epoch, **values)
        due = step % self.every_steps == 0 and step < self.steps.total
        self.before = copy(state.params) if due else None

    def on_metrics(self, window: Window) -> None:
        for metrics in window.metrics.values():
            self.gradient = np.asarray(metrics.pop("gradient_norms"))
