"""Each platform's forms against the plain ones, values and gradients; which platform takes which."""

import functools
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception import kernels, ops
from inception.model import TABLE_1, Conv, GoogLeNet, Inception
from tests import tiny

LAYOUTS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def platforms(operation: str) -> Any:
    return pytest.mark.parametrize("platform", kernels.FORMS[operation])


def computed(platform: str, function: Callable, *inputs: jax.Array) -> tuple[jax.Array, ...]:
    """On this machine, in a platform's forms: values alone, values, gradients of each input."""

    @jax.jit
    def values_and_gradients(*inputs: jax.Array) -> tuple[jax.Array, ...]:
        y, back = jax.vjp(function, *inputs)
        g = jnp.asarray(np.random.default_rng(0).normal(size=y.shape), y.dtype)
        return function(*inputs), y, *back(g)

    with kernels.on(platform):
        return values_and_gradients(*inputs)


def test_every_form_is_tested_here() -> None:
    tested = {"max_pool", "convolution", "local_response_normalization", "relu"}
    assert kernels.FORMS.keys() == tested | {"side_by_side", "to_update"}


@pytest.mark.slow
@platforms("max_pool")
@hypothesis.settings(max_examples=20)
@hypothesis.given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    stride=st.sampled_from([1, 2]),
    window=st.sampled_from([2, 3]),
    ties=st.booleans(),
    seed=st.integers(0, 99),
)
def test_max_pool(
    height: int, width: int, stride: int, window: int, ties: bool, seed: int, platform: str
) -> None:
    x = np.random.default_rng(seed).normal(size=(2, height, width, 3))
    x = jnp.asarray(np.round(x).clip(0) if ties else x, jnp.float32)
    pool = functools.partial(ops.max_pool, stride=stride, window=window)
    (value, y, gradient), (expected, _, plain) = (computed(p, pool, x) for p in (platform, "any"))
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(y, expected)
    # The same values get the same gradients, summed in another order.
    np.testing.assert_allclose(gradient, plain, atol=1e-5)


@pytest.mark.slow
@platforms("convolution")
@hypothesis.settings(max_examples=20)
@hypothesis.given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    kernel_px=st.sampled_from([1, 3, 5, 7]),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2),
    seed=st.integers(0, 99),
)
def test_convolution(
    height: int,
    width: int,
    kernel_px: int,
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], ...],
    seed: int,
    platform: str,
) -> None:
    rng = np.random.default_rng(seed)
    sizes = (height, width)
    hypothesis.assume(all(n + sum(p) >= kernel_px for n, p in zip(sizes, padding, strict=True)))
    x, kernel = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((2, height, width, 3), (kernel_px, kernel_px, 3, 4))
    )

    def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return ops.convolution(x, kernel, strides, padding, **LAYOUTS)

    results = [computed(p, convolution, x, kernel) for p in (platform, "any")]
    for own, plain in zip(*results, strict=True):
        np.testing.assert_allclose(own, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@platforms("local_response_normalization")
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("shape", [(2, 3, 4, 11), (1, 1, 1, 3), (2, 5)])
def test_local_response_normalization(
    rng: np.random.Generator, scale: float, shape: tuple[int, ...], platform: str
) -> None:
    x = jnp.asarray(rng.normal(size=shape) * scale, jnp.float32)
    results = [computed(p, ops.local_response_normalization, x) for p in (platform, "any")]
    for own, plain in zip(*results, strict=True):
        np.testing.assert_allclose(own, plain, rtol=1e-4, atol=1e-6)


@platforms("relu")
def test_relu(rng: np.random.Generator, platform: str) -> None:
    x = jnp.asarray(rng.normal(size=(2, 3, 4, 5)).round(), jnp.float32)  # a third of them 0
    for own, plain in zip(*(computed(p, ops.relu, x) for p in (platform, "any")), strict=True):
        np.testing.assert_array_equal(own, plain)


@pytest.mark.slow
@platforms("side_by_side")
@pytest.mark.parametrize(("batch_norm", "naive"), [(False, False), (True, False), (False, True)])
def test_convolutions_of_one_input(
    rng: np.random.Generator, batch_norm: bool, naive: bool, platform: str
) -> None:
    conv = functools.partial(Conv, batch_norm=batch_norm, width=0.3)
    module = Inception(TABLE_1["4d"], conv, naive)
    x = jnp.asarray(rng.normal(size=(3, 5, 4, 7)), jnp.float32)
    variables = tiny.draw(jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=True)), 0)
    params, others = variables["params"], {k: v for k, v in variables.items() if k != "params"}

    def output(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        both = {"params": params, **others}
        y, changed = module.apply(both, x, train=True, mutable=["batch_stats"])
        return jnp.square(y).sum(), (y, changed)

    results = []
    for form in (platform, "any"):
        with kernels.on(form):
            both_of = jax.jit(jax.value_and_grad(output, (0, 1), has_aux=True))
            results.append(both_of(params, x))
    own, plain = results
    assert jax.tree.structure(own) == jax.tree.structure(plain)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, own, plain)


@platforms("to_update")
def test_gradients_to_update_are_as_they_were(rng: np.random.Generator, platform: str) -> None:
    shapes = {"kernel": (3, 3, 2, 4), "bias": (4,)}
    gradients = {k: rng.normal(size=shape).astype("float32") for k, shape in shapes.items()}
    with kernels.on(platform):
        jax.tree.map(np.testing.assert_array_equal, jax.jit(ops.to_update)(gradients), gradients)


ARRAYS = kernels.FORMS.keys() - {"side_by_side", "to_update"}


@pytest.mark.parametrize(
    ("operation", "platform"), [(o, p) for o in sorted(ARRAYS) for p in kernels.FORMS[o]]
)
def test_forms_keep_bfloat16(operation: str, platform: str) -> None:
    x, kernel = jnp.ones((1, 4, 4, 2), jnp.bfloat16), jnp.ones((3, 3, 2, 2), jnp.bfloat16)
    inputs: tuple[jax.Array, ...] = (x,)
    choices: dict[str, Any] = {}
    if operation == "convolution":
        inputs = (x, kernel)
        choices = {"window_strides": (1, 1), "padding": ((1, 1), (1, 1)), **LAYOUTS}
    if operation == "max_pool":
        choices = {"stride": 2}
    function = functools.partial(getattr(ops, operation), **choices)
    assert {y.dtype for y in computed(platform, function, *inputs)} == {jnp.dtype("bfloat16")}


def test_a_traced_function_takes_its_platform_into_any_thread() -> None:
    x = jnp.ones((1, 4, 4, 2))
    pool = functools.partial(ops.max_pool, stride=1)
    programs: list[str] = []

    def lower(platform: str) -> None:
        programs.append(jax.jit(kernels.on(platform)(pool)).lower(x).as_text())

    thread = threading.Thread(target=lower, args=("tpu",))
    thread.start()
    thread.join()
    lower("cpu")
    assert ["reduce_window" in program for program in programs] == [True, False]


@pytest.mark.slow
def test_only_cpus_load_the_forms_of_cpus() -> None:
    program = """
import sys, jax, jax.numpy as jnp
from inception import kernels
from inception.model import GoogLeNet
model = GoogLeNet(classes=3, width=0.05)
keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
images = jnp.zeros((1, 65, 65, 3))
for platform in ("gpu", "cpu"):
    with kernels.on(platform):
        jax.eval_shape(lambda: model.init(keys, images, train=True))
    print("inception.kernels.cpu" in sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert run.stdout.split() == ["False", "True"]


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_a_whole_network(platform: str) -> None:
    """In a platform's forms all together: logits of three heads, and every gradient."""
    model = GoogLeNet(classes=5, width=0.1)
    variables = tiny.state(model).raw_variables()
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 65, 65, 3)), jnp.float32)

    def loss(params: Any) -> tuple[jax.Array, Any]:
        rngs = {"dropout": jax.random.key(0)}
        logits = model.apply({"params": params}, images, train=True, rngs=rngs)
        return sum(jnp.square(head).mean() for head in logits.values()), logits

    found, plain = (
        jax.jit(kernels.on(p)(jax.value_and_grad(loss, has_aux=True)))(variables["params"])
        for p in (platform, "any")
    )
    for own, expected in zip(*map(jax.tree.leaves, (found, plain)), strict=True):
        scale = float(np.abs(expected).max()) or 1.0
        np.testing.assert_allclose(own, expected, rtol=1e-3, atol=1e-4 * scale)
