"""A callback that writes norms of each module's gradient, update and weights."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

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
    else is computed between steps: inside the step it would cost every step 3%, due or not.
    """

    writer: Writer
    steps: Steps
    every_steps: int
    modules: Sequence[str] = ()  # sorted
    before: Any = None  # the parameters before the step that is due
    found: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)  # step -> by kind
    fetches = False

    def due(self, step: int) -> bool:
        return step % self.every_steps == 0 or self.before is not None

    def before_step(self, step: int, state: TrainState) -> None:
        if self.before is not None:
            self.modules = sorted(state.params)
            update, weights = of_step(self.before, state.params)
            self._add(step, update=update, weights=weights)
        due = step % self.every_steps == 0 and step < self.steps.total
        self.before = copy(state.params) if due else None

    def on_metrics(self, window: Window) -> None:
        for step, metrics in window.metrics.items():
            norms = metrics.pop("gradient_norms")
            if (step - 1) % self.every_steps == 0:
                self._add(step, gradient=norms)

    def _add(self, step: int, **norms: Any) -> None:
        """Adds norms of a step, and writes the line when all are there."""
        found = self.found.setdefault(step, {})
        found |= norms
        if len(found) == len(NORMS):
            values = {
                f"{kind}/{module}": float(norm)
                for kind in NORMS
                for module, norm in zip(self.modules, jax.device_get(found[kind]), strict=True)
            }
            self.writer.write("norms", step, epoch=step / self.steps.per_epoch, **values)
            del self.found[step]
