"""Where the time of a step goes, layer by layer: `launch.py bench --profile`."""

import collections
import itertools
import pathlib
import tempfile
import timeit
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from inception import UserError
from inception.model import GoogLeNet, frozen_modules
from inception.tools import audit, program

STEPS = 3
PRODUCT = 2048  # rows and columns of the matrices that measure the machine's FLOP/s
COPY_BYTES = 2**28


def measure(
    step: Callable[[], Any],
    hlo: str,
    model: GoogLeNet,
    *,
    input_px: int,
    images: int,
    train: bool,
    seconds: float,
) -> dict[str, Any]:
    """Profiles STEPS steps and sums their time, FLOPs and bytes by layer.

    Args:
        step: runs the program once, and waits for it.
        hlo: the text of the optimised program.
        images: of a step, on all devices.
        train: whether the step is a training step; else a forward pass.
        seconds: the time of a step.

    Returns:
        {'product_flops_per_second', 'copy_bytes_per_second': this machine's rates in a matrix
        product and in a copy, 'flops_per_second': of the step, 'rows': [{'name', 'flops': twice
        the multiply-adds, 'bytes': what its operations read and write, in memory or in a cache,
        'seconds', 'share': of the time of all rows, 'bound': the time of its FLOPs or of its
        bytes at the machine's rates, whichever is longer, over its seconds; above 1 where caches
        help}], slowest first}. Rates are of all devices together. Operations that run at once
        share the time.

    Raises:
        UserError: the profiler recorded no operation of the program.
    """
    of_layers = macs(model, input_px, train=train)
    instructions = _instructions(hlo, set(of_layers))
    spans = [span for span in _spans(step) if span[0] in instructions]
    if not spans:
        raise UserError("`profile`: JAX's profiler records no operation on these devices")
    times, moved = (collections.defaultdict[str, float](float) for _ in range(2))
    for (name, *_), part in zip(spans, _parts([span[1:] for span in spans]), strict=True):
        layer, moves = instructions[name]
        times[layer] += part / STEPS
        moved[layer] += moves / STEPS
    work = by_row(of_layers, times)
    product, copy = _machine(model.dtype)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "flops": (flops := 2 * work[name] * images),
            "bytes": round(moved[name]),
            "seconds": times[name],
            "share": times[name] / sum(times.values()),
            "bound": max(flops / product, moved[name] / copy) / times[name],
        }
        for name in sorted(times, key=times.__getitem__, reverse=True)
    ]
    return {
        "product_flops_per_second": product,
        "copy_bytes_per_second": copy,
        "flops_per_second": sum(row["flops"] for row in rows) / seconds,
        "rows": rows,
    }


def by_row(of_layers: Mapping[str, int], rows: Container[str]) -> collections.Counter[str]:
    """`macs` by row; layers computed together have no row and count in their module's."""
    work: collections.Counter[str] = collections.Counter()
    for layer, count in of_layers.items():
        work[layer if layer in rows else layer.split("/")[0]] += count
    return work


def macs(model: GoogLeNet, input_px: int, *, train: bool) -> dict[str, int]:
    """Multiply-adds per image of each layer, in a training step or in a forward pass.

    A trained layer counts three products: its values and two gradients. conv1 counts two, because
    its input needs no gradient; a frozen layer counts one. What `remat` recomputes is not counted.
    """
    frozen = frozen_modules(model.frozen_through)
    found = {}
    for path, count in audit.layer_macs(*audit.trace(model, (1, input_px, input_px, 3))).items():
        products = 1
        if train and path[0] not in frozen:
            products = 2 if path[0] == "conv1" else 3
        if train or not path[0].startswith("head_"):
            found["/".join(path).removesuffix("/Conv_0")] = products * count
    return found


def _instructions(hlo: str, layers: set[str]) -> dict[str, tuple[str, int]]:
    """{instruction: (its layer, the bytes that it moves)} of a program's text."""
    computations = program.parse(hlo).computations.values()
    return {
        i.name: (program.layer(i.path, layers), i.moved_bytes)
        for i in itertools.chain.from_iterable(computations)
        if i.opcode not in program.CONTAINERS
    }


def _spans(step: Callable[[], Any]) -> list[tuple[str, float, float]]:
    """(instruction, begin, end in seconds) of every operation in STEPS steps."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(STEPS):
                step()
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(file))
    begun, ended = [], {}
    lines = (line for plane in profile.planes for line in plane.lines)
    for event in (event for line in lines for event in line.events):
        stats = dict(event.stats)
        if "hlo_op" in stats:
            begun.append((stats["hlo_op"], event.start_ns, event.end_ns, stats.get("_p")))
        elif event.name.startswith("end: ") and "_c" in stats:
            ended[stats["_c"]] = event.start_ns
    # An asynchronous operation has a separate event for its end.
    return [(name, a / 1e9, ended.get(mark, b) / 1e9) for name, a, b, mark in begun]


def _parts(spans: Sequence[tuple[float, float]]) -> np.ndarray:
    """Seconds of each span (begin, end); spans that overlap share the time equally."""
    moments, places = np.unique(spans, return_inverse=True)
    begins, ends = places.reshape(-1, 2).T
    n = len(moments)
    running = np.cumsum(np.bincount(begins, minlength=n) - np.bincount(ends, minlength=n))
    shares = np.diff(moments, prepend=moments[:1]) / np.maximum(1, np.roll(running, 1))
    passed = np.cumsum(shares)  # the time of one span that lasts from first to last
    return passed[ends] - passed[begins]


def _machine(dtype: str) -> tuple[float, float]:
    """The best FLOP/s of a matrix product and bytes/s (read and written) of a copy, all devices."""

    def best(function: Callable[[Any], Any], value: Any) -> float:
        def run() -> None:
            nonlocal value
            value = jax.block_until_ready(function(value))

        return min(timeit.repeat(run, number=1, repeat=6))

    product = best(jax.jit(lambda x: x @ x * 1e-4), jnp.ones((PRODUCT, PRODUCT), dtype))
    copied = jax.jit(lambda y: y + 1, donate_argnums=0)  # else allocation takes most of the time
    copy = best(copied, jnp.ones(COPY_BYTES // 4))
    # CPU devices share the cores, and one device uses them all.
    devices = 1 if jax.default_backend() == "cpu" else jax.device_count()
    return devices * 2 * PRODUCT**3 / product, devices * 2 * COPY_BYTES / copy
