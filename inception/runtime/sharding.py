"""The mesh of devices, and the arrays' sharding over it: the only file that uses jax.sharding."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from inception import UserError


def make_mesh(described: Sequence[Any] = ()) -> Mesh:
    """All devices of all processes along one axis, 'data', in process order.

    A mesh of `described` devices, which this machine lacks, serves to compile, not to run.

    NOTE: the axis is Auto. With JAX's default, Explicit, Linen's Dropout raises ShardingTypeError,
    but only under jax.set_mesh (jax 0.10.2 to 0.12.0). jax.make_mesh may reorder the devices of a
    TPU pod: then a process's rows would not be adjacent.

    Raises:
        UserError: processes with different numbers of devices.
    """
    devices = sorted(described or jax.devices(), key=lambda d: (d.process_index, d.id))
    counts = np.bincount([d.process_index for d in devices])
    if len(set(counts)) > 1:
        raise UserError(f"processes with different numbers of devices: {counts.tolist()}")
    mesh = Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))
    if len(counts) > 1 and not described:
        # CPU devices must join the first collective within 30 s of each other. It runs now, while
        # all processes are together: later, some compile longer than others.
        ones = shard_batch({"": np.ones(counts[0], np.float32)}, mesh)[""]
        jax.block_until_ready(jit_replicated(jnp.sum, mesh)(ones))
    return mesh


def platform(mesh: Mesh) -> str:
    """The platform of the mesh's devices: 'cpu', 'gpu' or 'tpu'."""
    return mesh.devices.flat[0].platform


def check_batch_size(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Raises UserError unless the devices times the micro-batches divide the global batch."""
    devices = mesh.devices.size
    parts = accumulate * devices
    if batch_size % parts:
        below = batch_size // parts * parts
        near = " or ".join(str(n) for n in (below, below + parts) if n > 0)
        raise UserError(
            f"`optim.batch_size`={batch_size} is not divisible by the {devices} devices times "
            f"`optim.accumulate`={accumulate}: take {near}"
        )


def _along(mesh: Mesh, *axes: str) -> NamedSharding:
    """Sharded along axes of the mesh; without any, replicated."""
    return NamedSharding(mesh, PartitionSpec(*axes))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows -> global arrays, sharded over the devices along the first axis."""
    split = _along(mesh, "data")
    return {k: jax.make_array_from_process_local_data(split, v) for k, v in batch.items()}


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts the same arrays on every device."""
    return jax.device_put(tree, _along(mesh))


def replicated_shapes(function: Callable, mesh: Mesh) -> Any:
    """What `jit_replicated(function, mesh)()` would return, as jax.ShapeDtypeStruct."""
    return jit_replicated(function, mesh).eval_shape()


def jit_replicated(function: Callable, mesh: Mesh, *, options: Any = None, **more: Any) -> Any:
    """jax.jit of a function whose result is the same on every device.

    Args:
        options: the compiler's options, {name: value}.
        more: further arguments of jax.jit.
    """
    return jax.jit(function, out_shardings=_along(mesh), compiler_options=options, **more)


def batch_axis(mesh: Mesh) -> str | None:
    """The axis whose devices share a batch; None on one device."""
    return "data" if mesh.devices.size > 1 else None


def over_devices(mesh: Mesh, *, gradient_dtype: str) -> Callable[[Callable], Callable]:
    """Spreads a mean gradient over the devices: each computes the gradient of its own rows.

    The gradients are then summed over the devices in the requested dtype. jit alone would sum them
    in the network's dtype, before they become float32.

    Args:
        gradient_dtype: the dtype in which the gradients are summed; the result is float32.

    Returns:
        A decorator for function(params, batch_stats, micro_batches) -> (gradients, batch_stats,
        metrics) on one device's rows, micro_batches [n, rows, ...]; the result takes all rows.
    """
    axis = batch_axis(mesh)
    if axis is None:
        return lambda function: function

    def mean(gradient: jax.Array) -> jax.Array:
        total = jax.lax.psum(gradient.astype(gradient_dtype), axis)
        return total.astype(gradient.dtype) / mesh.devices.size

    def spread(function: Callable) -> Callable:
        def on_each(params: Any, batch_stats: Any, micro_batches: Any) -> Any:
            grads, batch_stats, metrics = function(params, batch_stats, micro_batches)
            return jax.tree.map(mean, grads), batch_stats, jax.lax.pmean(metrics, axis)

        alike, rows = PartitionSpec(), PartitionSpec(None, axis)
        # Unchecked: the check would sum the gradients itself, in the network's dtype.
        return jax.shard_map(
            on_each, mesh=mesh, in_specs=(alike, alike, rows), out_specs=alike, check_vma=False
        )

    return spread


def jit_over_batch(function: Callable, mesh: Mesh, *, donate_state: bool, options: Any) -> Any:
    """`jit_replicated` of function(state, batch), whose batch is sharded over the devices.

    Under jit a mean over the batch is the mean over all devices. With `donate_state` the result
    reuses the state's memory.
    """
    shardings = (_along(mesh), _along(mesh, "data"))
    donated = (0,) if donate_state else ()
    return jit_replicated(
        function, mesh, options=options, in_shardings=shardings, donate_argnums=donated
    )
