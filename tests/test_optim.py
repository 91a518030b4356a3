"""Schedules and update rules against a few lines of numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inception import optim
from inception.knobs import KNOBS

RATE = 0.1
MOMENTUM_STYLES = KNOBS["optim.momentum_style"].allowed.choices


def schedule(name: str, **choices) -> list[float]:
    rates = optim.learning_rate_schedule(name, learning_rate=RATE, total_steps=20, **choices)
    return [float(rates(step)) for step in range(20)]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_polynomial(power: float) -> None:
    expected = [RATE * (1 - t / 20) ** power for t in range(20)]
    np.testing.assert_allclose(schedule("polynomial", power=power), expected, rtol=1e-5)


def test_the_papers_steps() -> None:
    expected = [RATE * 0.96 ** (t // 8) for t in range(20)]
    np.testing.assert_allclose(schedule("exponential", decay_steps=8), expected, rtol=1e-5)


def test_cosine() -> None:
    expected = [RATE * (1 + np.cos(np.pi * t / 20)) / 2 for t in range(20)]
    np.testing.assert_allclose(schedule("cosine"), expected, atol=1e-7)


def test_linear() -> None:
    expected = [RATE * (1 - t / 20) for t in range(20)]
    np.testing.assert_allclose(schedule("linear"), expected, rtol=1e-5)


@pytest.mark.parametrize(("warmup_steps", "total"), [(29, 100), (1, 49), (2, 3), (0, 3)])
def test_one_cycle_peaks_at_the_end_of_its_rise(warmup_steps: int, total: int) -> None:
    with jax.numpy_dtype_promotion("standard"):
        rates = optim.learning_rate_schedule(
            "one_cycle", learning_rate=RATE, total_steps=total, warmup_steps=warmup_steps
        )
        values = [float(rates(step)) for step in range(total)]
    assert int(np.argmax(values)) == (warmup_steps or 1) and max(values) == pytest.approx(RATE)


@pytest.mark.parametrize(("warmup_steps", "rise"), [(0, 6), (10, 10)])
def test_one_cycle(warmup_steps: int, rise: int) -> None:
    half = [(1 - np.cos(np.pi * t / rise)) / 2 for t in range(rise)]
    up = [RATE / 25 + (RATE - RATE / 25) * share for share in half]
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        rates = schedule("one_cycle", warmup_steps=warmup_steps)
    np.testing.assert_allclose(rates[: rise + 1], [*up, RATE], rtol=1e-4)
    assert (np.diff(rates[rise:]) < 0).all() and rates[-1] < 0.03 * RATE


WITH_WARMUP = [s for s in KNOBS["optim.schedule"].allowed.choices if s != "one_cycle"]


@pytest.mark.parametrize("name", WITH_WARMUP)
def test_warm_up_rises_from_0_and_then_the_schedule_starts(name: str) -> None:
    rates = schedule(name, warmup_steps=5, decay_steps=2)
    np.testing.assert_allclose(rates[:6], [RATE * t / 5 for t in range(6)], rtol=1e-5)
    assert rates[6] <= rates[5] and (rates[19] < rates[5] or name == "constant")


def test_an_unknown_choice_takes_no_other_branch() -> None:
    with pytest.raises(KeyError):
        schedule("square")
    with pytest.raises(KeyError):
        optim.sgd(optax.constant_schedule(0.1), momentum=0.9, momentum_style="x")


def updated(style: str, grads: list, params: dict, rates: list[float], **choices) -> dict:
    """Parameters after one step for each of the gradients."""
    tx = optim.sgd(
        lambda step: jnp.asarray(rates)[step], momentum=0.9, momentum_style=style, **choices
    )
    state = tx.init(params)
    for g in grads:
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params


def by_numpy(style: str, grads, params, rates, *, weight_decay, lr_mult, decay_mult) -> dict:
    """Caffe's SGDSolver line by line, and optax's order of the same operations."""
    result = {}
    for name, w in params.items():
        bias = w.ndim == 1
        decay = weight_decay * (decay_mult if bias else 1)
        mult = lr_mult if bias else 1
        w, v = np.asarray(w, np.float64), 0.0
        for g, rate in zip(grads, rates, strict=True):
            d = np.asarray(g[name], np.float64) + decay * w
            if style == "caffe":
                v = 0.9 * v + rate * mult * d
                w = w - v
            else:
                v = 0.9 * v + mult * d
                w = w - rate * v
        result[name] = w
    return result


@pytest.fixture
def problem(rng: np.random.Generator):
    def draw() -> dict[str, jax.Array]:
        return {
            "kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=4), jnp.float32),
        }

    return [draw() for _ in range(4)], draw(), [0.1, 0.1, 0.02, 0.004]


@pytest.mark.parametrize("style", MOMENTUM_STYLES)
@pytest.mark.parametrize(("lr_mult", "decay_mult"), [(1.0, 1.0), (2.0, 0.0)])
def test_update_rule(problem, style: str, lr_mult: float, decay_mult: float) -> None:
    choices = {"weight_decay": 0.05}
    got = updated(style, *problem, bias_lr_mult=lr_mult, bias_decay_mult=decay_mult, **choices)
    expected = by_numpy(style, *problem, lr_mult=lr_mult, decay_mult=decay_mult, **choices)
    for name, value in got.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)


def test_the_two_conventions_part_when_the_rate_changes(problem) -> None:
    grads, params, rates = problem
    constant = [0.1] * 4
    same = [updated(style, grads, params, constant)["kernel"] for style in MOMENTUM_STYLES]
    np.testing.assert_allclose(*same, rtol=1e-5)
    parted = [updated(style, grads, params, rates)["kernel"] for style in MOMENTUM_STYLES]
    assert np.abs(parted[0] - parted[1]).max() > 0.01


def test_polyak_is_tensorflows_moving_average(rng: np.random.Generator) -> None:
    values = rng.normal(size=30).astype(np.float32)
    average = {"w": jnp.asarray(values[0])}
    expected = float(values[0])
    for t, value in enumerate(values):
        average = optim.polyak(average, {"w": jnp.asarray(value)}, jnp.int32(t), decay=0.7)
        decay = min(0.7, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * float(value)
    np.testing.assert_allclose(average["w"], expected, rtol=1e-4)
