"""Operations against plain numpy and the framework; their forms of platforms: tests/kernels/."""

import functools
import math
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from inception import ops


def lrn_by_loops(x: np.ndarray, n: int, alpha: float, beta: float, k: float) -> np.ndarray:
    """Caffe's formula, one value at a time."""
    y = np.empty_like(x)
    for c in range(x.shape[-1]):
        low, high = max(0, c - n // 2), min(x.shape[-1], c + n // 2 + 1)
        energy = (x[..., low:high].astype(np.float64) ** 2).sum(-1)
        y[..., c] = x[..., c] / (k + alpha / n * energy) ** beta
    return y


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_lrn_is_caffes(rng: np.random.Generator, scale: float) -> None:
    x = (rng.normal(size=(2, 3, 4, 11)) * scale).astype(np.float32)
    expected = lrn_by_loops(x, 5, 1e-4, 0.75, 1.0)
    np.testing.assert_allclose(
        ops.local_response_normalization(jnp.asarray(x)), expected, rtol=1e-5
    )


def lrn_of_jax(x: jax.Array) -> jax.Array:
    energy = lax.reduce_window(x * x, 0.0, lax.add, (1, 1, 1, 5), (1, 1, 1, 1), "SAME")
    return x / (1 + 2e-5 * energy) ** 0.75


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_lrns_gradient_is_the_frameworks(rng: np.random.Generator, scale: float) -> None:
    x, g = (jnp.asarray(rng.normal(size=(2, 3, 4, 11)), jnp.float32) for _ in range(2))
    x = x * scale
    ours, theirs = (
        jax.vjp(lrn, x)[1](g)[0] for lrn in (ops.local_response_normalization, lrn_of_jax)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_lrn_bites_on_0_255_inputs_only(rng: np.random.Generator) -> None:
    x = jnp.asarray(rng.normal(size=(1, 4, 4, 64)), jnp.float32)
    change = [
        float(jnp.abs(ops.local_response_normalization(x * s) / (x * s) - 1).max())
        for s in (1.0, 100.0)
    ]
    assert change[0] < 1e-3
    assert change[1] > 0.1


def test_lrn_keeps_bfloat16() -> None:
    y, back = jax.vjp(ops.local_response_normalization, jnp.ones((1, 1, 1, 8), jnp.bfloat16))
    assert y.dtype == back(y)[0].dtype == jnp.bfloat16


def dropped(x: jax.Array, rows: list[int], *, rate: float, seed: int = 0) -> np.ndarray:
    rngs = {"dropout": jax.random.key(seed)}
    return np.asarray(ops.Dropout(rate).apply({}, x, True, jnp.asarray(rows), rngs=rngs))


@pytest.mark.parametrize("rate", [0.4, 0.7])
def test_dropout_drops_the_share_and_scales_the_rest(rate: float) -> None:
    got = dropped(jnp.full((64, 1024), 3.0), list(range(64)), rate=rate)
    kept = got != 0
    np.testing.assert_allclose(got[kept], 3 / (1 - rate), rtol=1e-6)
    sigma = (rate * (1 - rate) / 1024) ** 0.5
    assert abs(kept.mean() - (1 - rate)) < 4 * sigma / 8
    assert np.abs(kept.mean(1) - (1 - rate)).max() < 5 * sigma
    assert np.abs(kept.mean(0) - (1 - rate)).max() < 5 * sigma * 4


def test_a_rows_mask_is_a_function_of_the_key_and_the_row() -> None:
    x = jnp.ones((6, 256))
    whole = dropped(x, [0, 1, 2, 3, 4, 5], rate=0.5)
    np.testing.assert_array_equal(dropped(x[:3], [4, 0, 2], rate=0.5), whole[[4, 0, 2]])
    assert (
        len({row.tobytes() for row in [*whole, *dropped(x, [0, 1, 2, 3, 4, 5], rate=0.5, seed=1)]})
        == 12
    )


def test_dropout_only_in_training_and_in_the_inputs_dtype() -> None:
    x, rows = jnp.ones((2, 8), jnp.bfloat16), jnp.arange(2)
    assert dropped(x, [0, 1], rate=0.5).dtype == jnp.bfloat16
    for rate, train in ((0.5, False), (0.0, True)):  # no random numbers are asked for
        assert ops.Dropout(rate).apply({}, x, train, rows) is x


@hypothesis.settings(max_examples=20)
@hypothesis.given(height=st.integers(1, 17), width=st.integers(1, 17), outputs=st.integers(1, 5))
def test_adaptive_avg_pool_averages_the_cells_of_torchs(
    height: int, width: int, outputs: int
) -> None:
    """Cell by cell in float64; tests/formats/test_pretrained.py compares with torch's own."""
    x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    got = np.asarray(jax.jit(functools.partial(ops.adaptive_avg_pool, outputs=outputs))(x))
    assert got.shape == (2, outputs, outputs, 3) and got.dtype == jnp.float32
    for i in range(outputs):
        top, bottom = math.floor(i * height / outputs), math.ceil((i + 1) * height / outputs)
        for j in range(outputs):
            left, right = math.floor(j * width / outputs), math.ceil((j + 1) * width / outputs)
            cell = x[:, top:bottom, left:right].astype(np.float64).mean((1, 2))
            np.testing.assert_allclose(got[:, i, j], cell, atol=1e-5)


def test_adaptive_avg_pool_keeps_bfloat16() -> None:
    x = jnp.ones((1, 6, 6, 2), jnp.bfloat16)
    assert ops.adaptive_avg_pool(x, outputs=4).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "pool",
    [
        functools.partial(ops.max_pool, stride=1),
        functools.partial(ops.max_pool, stride=2),
        functools.partial(ops.avg_pool, window=5, stride=3),
        functools.partial(ops.adaptive_avg_pool, outputs=4),
    ],
)
def test_the_pools_round_bfloat16_once(rng: np.random.Generator, pool: Any) -> None:
    """Their sums, and those of their gradients, are float32's."""
    x = jnp.asarray(rng.normal(size=(4, 11, 11, 3)), jnp.bfloat16)
    g = jnp.asarray(rng.normal(size=jax.eval_shape(pool, x).shape), jnp.bfloat16)

    @jax.jit
    def value_and_gradient(x: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, back = jax.vjp(pool, x)
        return y, back(g)[0]

    wide = value_and_gradient(x.astype(jnp.float32), g.astype(jnp.float32))
    for ours, expected in zip(value_and_gradient(x, g), wide, strict=True):
        assert ours.dtype == jnp.bfloat16
        # A sum half-way between two values of bfloat16 may go to either.
        ours = ours.astype(jnp.float32)
        np.testing.assert_allclose(ours, expected, rtol=2**-8 + 1e-4, atol=1e-5)
