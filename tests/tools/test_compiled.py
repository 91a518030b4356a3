"""What the accelerators' own compilers make of the programs: structure, not time.

`make compile-checks` installs them; elsewhere these are skipped.
"""

import collections
import functools
import importlib.util
import math
import re
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import pytest

from inception import kernels, ops
from inception.model import TABLE_1
from inception.runtime import sharding
from inception.tools import bench, estimate, program, topology
from tests import tiny

if not all(map(importlib.util.find_spec, ("jax_cuda13_plugin", "libtpu"))):
    pytest.skip("the compilers are not here: make compile-checks", allow_module_level=True)

PLATFORMS = {"gpu": "h100", "tpu": "v5e:2x4"}
mesh = functools.cache(lambda name: sharding.make_mesh(topology.described(name).devices))


def compiled(platform: str, form: str, function: Callable, *shape: int) -> str:
    """The program of an operation's gradient, bfloat16, in the form of `form`."""

    def gradient(x: jax.Array, g: jax.Array) -> jax.Array:
        return jax.vjp(function, x)[1](g)[0]

    device = mesh(PLATFORMS[platform]).devices.flat[0]
    where = jax.sharding.SingleDeviceSharding(device)
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=where)
    g = jax.eval_shape(function, x)
    g = jax.ShapeDtypeStruct(g.shape, g.dtype, sharding=where)
    return jax.jit(kernels.on(form)(gradient)).lower(x, g).compile().as_text()


def opcodes(text: str) -> set[str]:
    return {i.opcode for inside in program.parse(text).computations.values() for i in inside}


def moved(text: str) -> int:
    parsed = program.parse(text)
    return sum(i.moved_bytes * times for i, times in program.executed(parsed))


@pytest.mark.parametrize(("stride", "shape"), [(1, (8, 28, 28, 256)), (2, (8, 56, 56, 192))])
def test_a_pools_gradient_on_a_gpu_scatters_nothing(stride: int, shape: tuple[int, ...]) -> None:
    pool = functools.partial(ops.max_pool, stride=stride)
    own, plain = (compiled("gpu", form, pool, *shape) for form in ("gpu", "any"))
    assert "scatter" in opcodes(plain) and "scatter" not in opcodes(own)
    assert moved(own) < 0.5 * moved(plain)


def test_a_pools_gradient_on_a_tpu_is_select_and_scatter() -> None:
    pool = functools.partial(ops.max_pool, stride=1)
    assert "select-and-scatter" in opcodes(compiled("tpu", "tpu", pool, 8, 14, 14, 512))


def cycles(text: str) -> float:
    return sum(estimate.cycles(i) * times for i, times in program.executed(program.parse(text)))


def test_lrn_on_a_tpu_is_a_product() -> None:
    """By the compiler's cycles too: shifts along lanes cost twice that."""
    own, plain = (
        compiled("tpu", form, ops.local_response_normalization, 8, 56, 56, 192)
        for form in ("tpu", "any")
    )
    assert "convolution" in opcodes(own) and "convolution" not in opcodes(plain)
    assert cycles(own) < 0.7 * cycles(plain)


def activations(text: str, rows: int) -> set[tuple[str, tuple[int, ...]]]:
    """(dtype, shape) of what passes through memory and is [rows, h, w, c]."""
    found = set()
    for i, _ in program.executed(program.parse(text)):
        for shape in (i.shape, *i.operands):
            found |= {(d, s) for d, s in program.arrays(shape) if len(s) == 4 and s[0] == rows}
    return found


@pytest.mark.usefixtures("short_network")
def test_evaluation_on_a_gpu_writes_no_float32_activation() -> None:
    config = tiny.config("--config.model.norm=lrn", "--config.model.dtype=bfloat16",
                         "--config.model.width=0.25", "--config.optim.batch_size=24")  # fmt: skip
    step, _ = bench.compile_step(config, mesh("h100"), training=False)
    found = activations(step.as_text(), 24)
    assert {dtype for dtype, _ in found} == {"bf16", "u8"}, found


@pytest.fixture
def two_modules() -> Iterator[None]:
    """GoogLeNet with 3a and 5b alone: these compilers take seconds for a module."""
    with tiny.short_network(*list(TABLE_1)[1:-1]):
        yield


@pytest.mark.usefixtures("two_modules")
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("h100:8", "float32"), ("h100:8", "bfloat16"), ("v5e:2x4", "float32")],
)
def test_eight_devices_sum_gradients_in_the_dtype_asked_for(name: str, dtype: str) -> None:
    config = tiny.config("--config.model.norm=lrn", "--config.model.dtype=bfloat16",
                         "--config.model.heads=false",
                         f"--config.optim.gradient_dtype={dtype}")  # fmt: skip
    step, init = bench.compile_step(config, mesh(name), training=True)
    params = jax.tree.leaves(jax.eval_shape(init).params)
    size = sum(p.size for p in params)
    parsed = program.parse(step.as_text())
    sums = [i for i, _ in program.executed(parsed) if program.collective(i)]
    assert {program.collective(i) for i in sums} == {"all-reduce"} and len(sums) <= 2
    # Within a device a bias's gradient is a sum over batch and pixels.
    biases = r"transpose\(.*(Conv_0|classifier)/reduce_sum"
    everywhere = [i for inside in parsed.computations.values() for i in inside]
    found = [i.shape for i in everywhere if i.opcode == "reduce" and re.search(biases, i.path)]
    assert found and {kind for s in found for kind, _ in program.arrays(s)} == {"f32"}, found
    # Results, not operands: a TPU widens a bfloat16 operand, a bias's gradient, as it sums.
    summed: collections.Counter[str] = collections.Counter()
    for i in sums:
        for name, sides in program.arrays(i.shape):
            summed[name] += math.prod(sides)
    metrics = 8
    assert size <= summed.pop({"float32": "f32", "bfloat16": "bf16"}[dtype]) <= size + metrics
    assert summed.total() <= metrics, summed
