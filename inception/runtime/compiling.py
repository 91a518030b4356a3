"""Programs compiled for a mesh, with the compiler's options for its platform."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from inception import kernels
from inception.runtime import prefetch, sharding

CPU_OPTIONS: dict[str, str | bool] = {
    # NOTE: jax 0.10.2 drops jax.checkpoint's barriers, then merges repeated computations: without
    # this option, remat takes up to 1.92 times the memory. From 0.11.2 on jax keeps the barriers.
    "xla_disable_hlo_passes": "cse_barrier_expander",
    # By default YNNPACK computes convolutions too, more slowly: docs/reasons/performance.md.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE",
}
FAST_TO_COMPILE: dict[str, str | bool] = {
    "xla_backend_optimization_level": "1",
    "xla_cpu_use_fusion_emitters": False,
}


@functools.cache
def _knows(option: str, value: str | bool) -> bool:
    """Whether this jax's compiler accepts an option: jax 0.11 dropped some options of 0.10."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options={option: value})
    except Exception as error:
        if "No such compile option" in str(error):
            return False
        raise
    return True


def _on_cpu(mesh: Any, options: dict[str, str | bool]) -> dict[str, str | bool]:
    """On CPUs, the options that this jax accepts and XLA_FLAGS does not set; elsewhere none."""
    if sharding.platform(mesh) != "cpu":
        return {}
    flags = os.environ.get("XLA_FLAGS", "")
    return {k: v for k, v in options.items() if k not in flags and _knows(k, v)}


def compute_replicated(function: Callable, mesh: Any) -> Any:
    """Computes function() -> arrays once, the same on every device.

    A program that runs once is compiled fast: the initial state takes a third of the time.
    """
    options = _on_cpu(mesh, FAST_TO_COMPILE | {"xla_backend_optimization_level": "0"})
    function = kernels.on(sharding.platform(mesh))(function)
    return prefetch.run_in_thread(sharding.jit_replicated(function, mesh, options=options))


class CompiledStep:
    """function(state, batch) -> anything, compiled for a mesh at its first batch of each shape.

    The batch is sharded, everything else replicated. In `training` the result reuses the state's
    memory, and CPUs compile faster at the price of 2% slower steps. Forward passes would be 12%
    slower, so they compile normally: docs/reasons/performance.md.

    Args:
        sizes: the images' sizes in px: at the first batch the program compiles for all of them.
    """

    digest = ""  # of weights that the function reads beside the state: TaughtStep's

    def __init__(self, function: Callable, mesh: Any, *, training: bool, sizes: Sequence[int] = ()):
        self._sizes = set(sizes)
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
        """Calls the function; while it compiles, calls `poll` as `prefetch.run_in_thread` does."""
        if shapes(batch) not in self._compiled:
            for each in (batch, *self._others(batch)):
                compiled = functools.partial(self._compile, state, each)
                self._compiled[shapes(each)] = prefetch.run_in_thread(compiled, poll)
        return self._compiled[shapes(batch)](state, batch)

    def _compile(self, state: Any, batch: Any) -> Any:
        return self.lower(state, batch).compile()

    def _others(self, batch: Any) -> Iterator[Any]:
        """The shapes of batches of the other sizes."""
        for px in sorted(self._sizes - {batch["image"].shape[1]} if self._sizes else ()):
            image = jax.ShapeDtypeStruct((len(batch["image"]), px, px, 3), batch["image"].dtype)
            label = jax.ShapeDtypeStruct(batch["label"].shape, batch["label"].dtype)
            yield {"image": image, "label": label}


def shapes(batch: Any) -> tuple[Any, ...]:
    """What a program is compiled for."""
    return tuple((x.shape, x.dtype) for x in jax.tree.leaves(batch))
