"""Programs compiled for a mesh, with the compiler's options for its platform."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax

from inception import kernels
from inception.runtime import prefetch, sharding

CPU_OPTIONS: dict[str, str | bool] = {
    # NOTE: jax 0.10.2 drops the barriers of jax.checkpoint, then what is computed twice: without
    # this remat takes up to 1.92 times the memory. From 0.11.2 on it does not.
    "xla_disable_hlo_passes": "cse_barrier_expander",
    # Not convolutions, which it has YNNPACK compute otherwise, more slowly: docs/performance.md.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE",
}
FAST_TO_COMPILE: dict[str, str | bool] = {
    "xla_backend_optimization_level": "1",
    "xla_cpu_use_fusion_emitters": False,
}


@functools.cache
def _knows(option: str, value: str | bool) -> bool:
    """Whether this jax's compiler takes an option: jax 0.11 dropped some that 0.10 has."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options={option: value})
    except Exception as error:
        if "No such compile option" in str(error):
            return False
        raise
    return True


def _on_cpu(mesh: Any, options: dict[str, str | bool]) -> dict[str, str | bool]:
    """Those of the options that this jax knows and XLA_FLAGS does not set; elsewhere none."""
    if sharding.platform(mesh) != "cpu":
        return {}
    flags = os.environ.get("XLA_FLAGS", "")
    return {k: v for k, v in options.items() if k not in flags and _knows(k, v)}


def compute_replicated(function: Callable, mesh: Any) -> Any:
    """function() -> arrays, computed once, alike on every device.

    What runs once is compiled fast rather than well: the initial state in a third of the time.
    """
    options = _on_cpu(mesh, FAST_TO_COMPILE | {"xla_backend_optimization_level": "0"})
    function = kernels.on(sharding.platform(mesh))(function)
    return prefetch.run_in_thread(sharding.jit_replicated(function, mesh, options=options))


class CompiledStep:
    """function(state, batch) -> anything, compiled for a mesh at its first batch of each shape.

    The batch is split over the devices and all else replicated. In `training` the result takes
    the state's memory, and CPUs compile sooner, for steps 2% slower; a forward pass would be 12%
    slower: docs/performance.md.
    """

    def __init__(self, function: Callable, mesh: Any, *, training: bool):
        self.function = kernels.on(sharding.platform(mesh))(function)
        options = _on_cpu(mesh, CPU_OPTIONS | (FAST_TO_COMPILE if training else {}))
        jitted = sharding.jit_over_batch(
            self.function, mesh, donate_state=training, options=options
        )
        self.lower = jitted.lower
        self._compiled: dict[Any, Any] = {}

    def __call__(
        self, state: Any, batch: Any, *, poll: Callable[[float], None] = prefetch.noop
    ) -> Any:
        """Calls the function; while it compiles, `poll` as in `prefetch.run_in_thread`."""
        shapes = tuple((x.shape, x.dtype) for x in jax.tree.leaves(batch))
        if shapes not in self._compiled:
            self._compiled[shapes] = prefetch.run_in_thread(
                lambda: self.lower(state, batch).compile(), poll
            )
        return self._compiled[shapes](state, batch)
