"""Devices, the mesh, and where arrays lie on it: the only file that says sharding."""

import functools
import gc
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from inception import UserError

T = TypeVar("T")
POLL_S = 0.05
BUSY_POLL_S = 0.001  # while a step is under way: some take a few milliseconds


def go_on(_seconds: float) -> None:
    """What is called while there is nothing to look for."""


def make_mesh() -> Mesh:
    """All devices of all processes on one axis, 'data', in the order of the processes.

    NOTE: the axis is Auto. JAX's default, Explicit, breaks Linen's Dropout. jax.make_mesh may
    order the devices of a TPU pod another way: then a process's rows would lie apart.

    Raises:
        UserError: processes with different numbers of devices.
    """
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    counts = np.bincount([d.process_index for d in devices])
    if len(set(counts)) > 1:
        raise UserError(f"processes with different numbers of devices: {counts.tolist()}")
    mesh = Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))
    if len(counts) > 1:
        # CPU devices must join a collective within 30 s of each other, but only the first time:
        # now that all are here, and not when one has compiled sooner than another.
        ones = to_global({"": np.ones(counts[0], np.float32)}, mesh)[""]
        jax.block_until_ready(jax.jit(jnp.sum, out_shardings=_replicated(mesh))(ones))
    return mesh


def _replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


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
    return jax.device_put(tree, _replicated(mesh))


def wait_for(function: Callable[[], T], poll: Callable[[float], None]) -> T:
    """function() in a thread, while this one calls poll(seconds since the start) often.

    What poll raises goes up at once; the thread is left to itself.
    """
    done: queue.Queue[tuple[bool, Any]] = queue.Queue()

    def work() -> None:
        try:
            done.put((True, function()))
        except BaseException as error:
            done.put((False, error))

    threading.Thread(target=work, daemon=True).start()
    start = time.monotonic()
    while True:
        try:
            fine, result = done.get(timeout=POLL_S)
        except queue.Empty:
            poll(time.monotonic() - start)
            continue
        if fine:
            return result
        raise result


class Ahead(Generic[T]):
    """Reads an iterator ahead of its use, in a thread, and puts what it gives on the devices.

    Args:
        items: an iterator, read by the thread alone.
        put: item -> what comes out here, such as arrays on the devices.
        poll: called with the seconds waited so far, often, while the next item is not there.
        busy: whether the devices have work meanwhile.
        size: how many are ready at most.
    """

    def __init__(
        self,
        items: Iterable[Any],
        put: Callable[[Any], T],
        *,
        poll: Callable[[float], None] = go_on,
        busy: Callable[[], bool] = lambda: False,
        size: int = 2,
    ):
        self.starved = 0.0  # of the last item: seconds in which it was not there and no device busy
        self._poll, self._busy = poll, busy
        self._ready: queue.Queue[tuple[str, Any]] = queue.Queue(size)
        self._closed = threading.Event()
        threading.Thread(target=self._read, args=(items, put), daemon=True).start()

    def _read(self, items: Iterable[Any], put: Callable[[Any], T]) -> None:
        try:
            for item in items:
                self._offer(("item", put(item)))
                if self._closed.is_set():
                    return
            self._offer(("end", None))
        except BaseException as error:
            self._offer(("error", error))

    def _offer(self, thing: tuple[str, Any]) -> None:
        while not self._closed.is_set():
            try:
                return self._ready.put(thing, timeout=POLL_S)
            except queue.Full:
                continue

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        self.starved = 0.0
        start = last = time.monotonic()
        was_busy = self._busy()
        while True:
            try:
                kind, item = self._ready.get(timeout=BUSY_POLL_S if was_busy else POLL_S)
            except queue.Empty:
                kind, item = "none", None
            now, busy = time.monotonic(), self._busy()
            if not busy:  # it ended between two looks, half-way as likely as not
                self.starved += (now - last) / (2 if was_busy else 1)
            last, was_busy = now, busy
            if kind == "item":
                return item
            if kind == "error":
                raise item
            if kind == "end":
                raise StopIteration
            self._poll(now - start)

    def __enter__(self) -> "Ahead[T]":
        return self

    def __exit__(self, *_: Any) -> None:
        self._closed.set()  # the thread ends


def _lower(jitted: Any, *args: Any) -> Any:
    """jitted.lower(*args) without looks for garbage: a fifth of its time, and there is none."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return jitted.lower(*args)
    finally:
        if collects:
            gc.enable()


CPU_OPTIONS: dict[str, str | bool] = {
    # The compiler drops the barriers of jax.checkpoint, and then what is computed twice: the
    # memory stays as it was. Without that pass it is as on other devices.
    "xla_disable_hlo_passes": "cse_barrier_expander",
    # Not convolutions, which it has YNNPACK compute otherwise, more slowly: docs/performance.md.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE",
}
FAST_TO_COMPILE: dict[str, str | bool] = {
    "xla_backend_optimization_level": "1",
    "xla_cpu_use_fusion_emitters": False,
}


def _on_cpu(mesh: Mesh, options: dict[str, str | bool]) -> dict[str, str | bool]:
    """The compiler's options, on CPUs, less those that XLA_FLAGS sets; elsewhere none."""
    if mesh.devices.flat[0].platform != "cpu":
        return {}
    flags = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in options.items() if name not in flags}


def compute_replicated(function: Callable, mesh: Mesh) -> Any:
    """function() -> arrays, computed once, alike on every device.

    What runs once is compiled fast rather than well: the initial state in a third of the time.
    """
    options = _on_cpu(mesh, FAST_TO_COMPILE) | {"xla_backend_optimization_level": "0"}
    jitted = jax.jit(function, out_shardings=_replicated(mesh))
    return wait_for(lambda: _lower(jitted).compile(compiler_options=options), go_on)()


def replicated_shapes(function: Callable, mesh: Mesh) -> Any:
    """What `compute_replicated(function)` would return, as shapes, dtypes and places."""
    everywhere = _replicated(mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
        jax.eval_shape(function),
    )


class OverBatch:
    """function(state, batch) -> anything, compiled; the batch split and all else replicated.

    Under jit a mean over the batch is the mean over all devices: gradients and BatchNorm
    statistics come out the same everywhere. In `training` the result takes the state's memory, and
    CPUs compile sooner, for steps 2% slower; a forward pass would be 12% slower:
    docs/performance.md.
    """

    def __init__(self, function: Callable, mesh: Mesh, *, training: bool):
        everywhere = _replicated(mesh)
        split = NamedSharding(mesh, PartitionSpec("data"))
        options = CPU_OPTIONS | (FAST_TO_COMPILE if training else {})
        jitted = jax.jit(
            function,
            in_shardings=(everywhere, split),
            out_shardings=everywhere,
            donate_argnums=(0,) if training else (),
            compiler_options=_on_cpu(mesh, options),
        )
        self.function = function
        self.lower = functools.partial(_lower, jitted)
        self._compiled: dict[Any, Any] = {}

    def __call__(self, state: Any, batch: Any, *, poll: Callable[[float], None] = go_on) -> Any:
        """Calls the function; compiles first for a batch of new shapes, polling as `wait_for`."""
        shapes = tuple((x.shape, x.dtype) for x in jax.tree.leaves(batch))
        if shapes not in self._compiled:
            self._compiled[shapes] = wait_for(lambda: self.lower(state, batch).compile(), poll)
        return self._compiled[shapes](state, batch)
