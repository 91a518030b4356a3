"""Devices, the mesh, and where arrays lie on it: the only file that says sharding."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from inception import UserError


def make_mesh() -> Mesh:
    """All devices of all processes on one axis, 'data'.

    NOTE: the axis is Auto. JAX's default, Explicit, breaks Linen's Dropout.
    """
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def check_batch_size(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Raises UserError where devices times micro-batches do not divide the global batch."""
    if accumulate < 1:
        raise UserError(f"config.optim.accumulate={accumulate}: must be at least 1")
    devices = mesh.devices.size
    parts = accumulate * devices
    if batch_size < 1 or batch_size % parts:
        below = batch_size // parts * parts
        near = " or ".join(str(n) for n in (below, below + parts) if n > 0)
        raise UserError(
            f"config.optim.batch_size={batch_size} is not divided by the {devices} devices times "
            f"config.optim.accumulate={accumulate}: take {near}"
        )


def to_global(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows -> global arrays, split over the devices along the first axis."""
    split = NamedSharding(mesh, PartitionSpec("data"))
    return {k: jax.make_array_from_process_local_data(split, v) for k, v in batch.items()}


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts the same arrays on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def compute_replicated(function: Callable, mesh: Mesh) -> Any:
    """function() -> arrays, computed once, alike on every device.

    What runs once is compiled fast rather than well: for the initial state on two CPU cores 5.0 s
    instead of 12.8 s.
    """
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
    jitted = jax.jit(function, out_shardings=NamedSharding(mesh, PartitionSpec()))
    return jitted.lower().compile(compiler_options=options)()


def replicated_shapes(function: Callable, mesh: Mesh) -> Any:
    """What `compute_replicated(function)` would return, as shapes, dtypes and places."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
        jax.eval_shape(function),
    )


def jit_over_batch(function: Callable, mesh: Mesh, *, donate: bool) -> Callable:
    """Compiles function(state, batch) -> anything, the batch split and all else replicated.

    Under jit a mean over the batch is the mean over all devices: gradients and BatchNorm
    statistics come out the same everywhere. `donate` gives the state's memory to the result.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    # NOTE: XLA's CPU compiler drops the barriers of jax.checkpoint, and then what is computed
    # twice: the memory stays as it was. Without that pass it is as on other devices.
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return jax.jit(
        function,
        in_shardings=(everywhere, split),
        out_shardings=everywhere,
        donate_argnums=(0,) if donate else (),
        compiler_options={"xla_disable_hlo_passes": "cse_barrier_expander"} if on_cpu else None,
    )
