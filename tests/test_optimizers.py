"""Each optimizer against its formula in numpy, in float64; clipping; frozen modules."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inception import optim
from inception.knobs import KNOBS

NAMES = KNOBS["optim.name"].allowed.choices
RATES = (0.1, 0.1, 0.02, 0.004)
DECAY, BIAS_DECAY, BIAS_LR, TRUNK_LR = 0.05, 0.5, 2.0, 0.3
SHAPES = {
    "conv1": {"kernel": (3, 3, 2, 4), "bias": (4,)},
    "3a": {"kernel": (1, 1, 4, 4), "bias": (4,)},
    "head_4a": {"classifier": {"kernel": (4, 3), "bias": (3,)}},
    "classifier": {"kernel": (4, 3), "bias": (3,)},
}
Tree = dict[str, Any]


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    """As users have it: optax raises floats to integer powers."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def problem(rng: np.random.Generator) -> tuple[Tree, list[Tree]]:
    """Parameters, and a gradient for each step."""

    def draw() -> Tree:
        return jax.tree.map(
            lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
            SHAPES,
            is_leaf=lambda x: isinstance(x, tuple),
        )

    return draw(), [draw() for _ in RATES]


def optimizer(name: str, rates=RATES, **choices: Any) -> optax.GradientTransformation:
    knobs = {
        "momentum": 0.9, "momentum_style": "optax", "clip_norm": 0.0, "adaptive_clip": 0.0,
    }  # fmt: skip
    schedule = lambda step: jnp.asarray(rates)[step]  # noqa: E731
    return optim.optimizer(name, schedule=schedule, **{**knobs, **choices})


def trained(name: str, problem: tuple[Tree, list[Tree]], **choices: Any) -> tuple[Tree, Any]:
    """Parameters and optimizer state after the steps."""
    params, grads = problem
    tx = optimizer(name, **choices)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for g in grads:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def by_numpy(name: str, w: Any, grads: list[Any], *, mult: float, decay: float) -> np.ndarray:
    """One parameter after the steps."""
    w = np.asarray(w, np.float64)
    kernel = w.ndim > 1
    norm = np.linalg.norm
    v, m, s = np.zeros_like(w), np.zeros_like(w), np.full_like(w, name == "rmsprop")
    for t, (gradient, rate) in enumerate(zip(grads, RATES, strict=True), 1):
        g = np.asarray(gradient, np.float64)
        if name in ("adamw", "lamb"):
            m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g**2
            epsilon = 1e-6 if name == "lamb" else 1e-8
            direction = m / (1 - 0.9**t) / (np.sqrt(s / (1 - 0.999**t)) + epsilon) + decay * w
            trust = norm(w) / norm(direction) if kernel and name == "lamb" else 1.0
            w = w - rate * mult * trust * direction
            continue
        g = g + decay * w
        if name == "nesterov":
            g = mult * g
            v = 0.9 * v + g
            w = w - rate * (g + 0.9 * v)
        elif name == "rmsprop":
            s = 0.9 * s + 0.1 * g**2
            v = 0.9 * v + rate * mult * g / np.sqrt(s + 1.0)
            w = w - v
        elif name == "lars":
            trust = 0.001 * norm(w) / norm(g) if kernel else 1.0
            v = 0.9 * v + rate * mult * trust * g
            w = w - v
    return w


@pytest.mark.parametrize("name", ["nesterov", "rmsprop", "adamw", "lars", "lamb"])
def test_the_formula(name: str, problem) -> None:
    params, grads = problem
    got, _ = trained(
        name, problem, weight_decay=DECAY, bias_decay_mult=BIAS_DECAY, bias_lr_mult=BIAS_LR,
        trunk=("conv1", "3a"), trunk_lr_mult=TRUNK_LR,
    )  # fmt: skip
    flat = [dict(jax.tree.leaves_with_path(tree)) for tree in (params, got, *grads)]
    for path, w in flat[0].items():
        bias, trunk = w.ndim == 1, path[0].key in ("conv1", "3a")
        mult = (BIAS_LR if bias else 1.0) * (TRUNK_LR if trunk else 1.0)
        decay = DECAY * (BIAS_DECAY if bias else 1.0)
        expected = by_numpy(name, w, [g[path] for g in flat[2:]], mult=mult, decay=decay)
        np.testing.assert_allclose(flat[1][path], expected, rtol=2e-4, atol=1e-5, err_msg=str(path))


def test_muon_turns_kernels_and_leaves_classifiers_and_biases_to_nadam(problem) -> None:
    params, grads = problem
    got, _ = trained("muon", (params, grads[:1]))
    for module, inputs in (("conv1", 18), ("3a", 4)):
        step = (params[module]["kernel"] - got[module]["kernel"]) / RATES[0]
        # Five steps of Newton and Schulz leave singular values between .7 and 1.2.
        values = np.linalg.svd(np.asarray(step).reshape(inputs, 4), compute_uv=False)
        values /= 0.2 * np.sqrt(max(inputs, 4))
        assert values.min() > 0.6 and values.max() < 1.3, values
    other, _ = trained("muon", problem)
    nadam = optax.nadam(lambda step: jnp.asarray(RATES)[step])
    state, expected = nadam.init(params), params
    for g in grads:
        updates, state = nadam.update(g, state, expected)
        expected = optax.apply_updates(expected, updates)
    for tree in ("classifier", "head_4a"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), other[tree], expected[tree]
        )
    np.testing.assert_allclose(other["3a"]["bias"], expected["3a"]["bias"], rtol=1e-4)


@pytest.mark.parametrize("clip_norm", [0.0, 1e6])
def test_schedule_free_is_evaluated_at_its_average(problem, clip_norm: float) -> None:
    params, grads = problem
    rates = (0.02, 0.06, 0.1, 0.05, 0.05)
    knobs: Any = {"weight_decay": DECAY, "bias_decay_mult": BIAS_DECAY, "frozen": ("conv1",)}
    knobs |= {"rates": rates}
    y, state = trained("schedule_free", problem, momentum=0.8, clip_norm=clip_norm, **knobs)
    averaging = optim.averaging("schedule_free", 0.0)
    assert averaging is not None
    new = {"params": y, "batch_stats": {}}
    average = averaging({}, new, jnp.zeros(()), state)["params"]
    jax.tree.map(np.testing.assert_array_equal, average["conv1"], params["conv1"])
    for module, array in (("3a", "kernel"), ("3a", "bias"), ("classifier", "kernel")):
        x = z = at = np.asarray(params[module][array], np.float64)
        decay, total = DECAY * (BIAS_DECAY if array == "bias" else 1.0), 0.0
        for t, g in enumerate(grads):
            rate = rates[t]
            z = z - rate * (np.asarray(g[module][array], np.float64) + decay * at)
            weight = max(rates[1 : t + 2]) ** 2
            total += weight
            x = x + weight / total * (z - x)
            at = 0.8 * x + 0.2 * z
        np.testing.assert_allclose(y[module][array], at, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(average[module][array], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_modules_stay_and_have_no_state(name: str, problem) -> None:
    params, _ = problem
    got, state = trained(name, problem, weight_decay=DECAY, frozen=("conv1",))
    jax.tree.map(np.testing.assert_array_equal, got["conv1"], params["conv1"])
    assert not np.allclose(got["3a"]["kernel"], params["3a"]["kernel"])
    assert (3, 3, 2, 4) not in [np.shape(x) for x in jax.tree.leaves(state)]


def test_gradients_are_clipped_to_a_norm_of_all(problem) -> None:
    params, grads = problem
    clipped, _ = trained("sgd", (params, grads[:1]), clip_norm=0.5)
    steps = jax.tree.map(lambda new, old: (old - new) / RATES[0], clipped, params)
    assert float(optax.global_norm(steps)) == pytest.approx(0.5, rel=1e-4)
    unchanged, _ = trained("sgd", problem, clip_norm=1e6)
    plain, _ = trained("sgd", problem)
    jax.tree.map(np.testing.assert_array_equal, unchanged, plain)


def test_adaptive_clipping_is_by_filter_and_leaves_classifiers(problem) -> None:
    params, grads = problem
    clipped, _ = trained("sgd", (params, grads[:1]), adaptive_clip=0.01)
    steps = jax.tree.map(lambda new, old: np.asarray(old - new) / RATES[0], clipped, params)
    for module in ("conv1", "3a"):
        taken = np.linalg.norm(steps[module]["kernel"].reshape(-1, 4), axis=0)
        weights = np.linalg.norm(np.asarray(params[module]["kernel"]).reshape(-1, 4), axis=0)
        np.testing.assert_allclose(taken, 0.01 * weights, rtol=1e-3)
    for classifier in ("classifier", "head_4a"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
            steps[classifier],
            grads[0][classifier],
        )
