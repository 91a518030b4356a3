"""The mesh of devices, and how arrays lie on it: the only file that says sharding."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from inception import UserError


def make_mesh(described: Sequence[Any] = ()) -> Mesh:
    """All devices of all processes on one axis, 'data', in the order of the processes.

    Or `described` devices, that are not here: to compile for, not to run on.

    NOTE: the axis is Auto. With JAX's default, Explicit, Linen's Dropout raises ShardingTypeError
    under jax.set_mesh, and under it alone (jax 0.10.2 to 0.12.0). jax.make_mesh may order the
    devices of a TPU pod another way: then a process's rows would lie apart.

    Raises:
        UserError: processes with different numbers of devices.
    """
    devices = sorted(described or jax.devices(), key=lambda d: (d.process_index, d.id))
    counts = np.bincount([d.process_index for d in devices])
    if len(set(counts)) > 1:
        raise UserError(f"processes with different numbers of devices: {counts.tolist()}")
    mesh = Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))
    if len(counts) > 1 and not described:
        # CPU devices must join a collective within 30 s of each other, but only the first time:
        # now that all are here, and not when one has compiled sooner than another.
        ones = shard_batch({"": np.ones(counts[0], np.float32)}, mesh)[""]
        jax.block_until_ready(jit_replicated(jnp.sum, mesh)(ones))
    return mesh


def platform(mesh: Mesh) -> str:
    """What kind the mesh's devices are: 'cpu', 'gpu' or 'tpu'."""
    return mesh.devices.flat[0].platform


def check_batch_size(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Raises UserError unless the devices times the micro-batches divide the global batch."""
    devices = mesh.devices.size
    parts = accumulate * devices
    if batch_size % parts:
        below = batch_size // parts * parts
        near = " or ".join(str(n) for n in (below, below + parts) if n > 0)
        raise UserError(
            f"`optim.batch_size`={batch_size} is not divided by the {devices} devices times "
            f"`optim.accumulate`={accumulate}: take {near}"
        )


def _along(mesh: Mesh, *axes: str) -> NamedSharding:
    """Split along the mesh's axes; without any, the same everywhere."""
    return NamedSharding(mesh, PartitionSpec(*axes))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows -> global arrays, split over the devices along the first axis."""
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
        options: of the compiler, {name: value}.
        more: further arguments of jax.jit.
    """
    return jax.jit(function, out_shardings=_along(mesh), compiler_options=options, **more)


def batch_axis(mesh: Mesh) -> str | None:
    """The axis whose devices share a batch; None on one device."""
    return "data" if mesh.devices.size > 1 else None


def over_devices(mesh: Mesh, *, gradient_dtype: str) -> Callable[[Callable], Callable]:
    """Spreads a mean gradient over the devices: each computes that of its rows.

    So the sum over devices has the dtype that was asked for. jit alone would add the gradients
    where the network's dtype still holds, before they become float32.

    Args:
        gradient_dtype: in which the gradients are summed; the result is float32.

    Returns:
        What makes function(params, batch_stats, micro_batches) -> (gradients, batch_stats,
        metrics) of a device's rows, micro_batches [n, rows, ...], one of all rows.
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
        # Unchecked: the check would add the gradients itself, in the network's dtype.
        return jax.shard_map(
            on_each, mesh=mesh, in_specs=(alike, alike, rows), out_specs=alike, check_vma=False
        )

    return spread


def jit_over_batch(function: Callable, mesh: Mesh, *, donate_state: bool, options: Any) -> Any:
    """`jit_replicated` of function(state, batch), whose batch is split over the devices.

    Under jit a mean over the batch is the mean over all devices. With `donate_state` the result
    takes the state's memory.
    """
    shardings = (_along(mesh), _along(mesh, "data"))
    donated = (0,) if donate_state else ()
    return jit_replicated(
        function, mesh, options=options, in_shardings=shardings, donate_argnums=donated
    )
