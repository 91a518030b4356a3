"""The train step: the same on one device and on eight, its metrics, its average."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inception import optim, parallel
from inception.model import GoogLeNet
from inception.step import create_state, head_losses, train_step

COLORS = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.0, "lighting": 0.1}


def steps_on(devices: int, *, count: int = 2, norm: str = "batch", polyak_decay: float = 0.9):
    """State and metrics after a few steps of a tiny network on so many devices."""
    mesh = jax.sharding.Mesh(
        np.asarray(jax.devices()[:devices]), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    model = GoogLeNet(classes=5, width=0.05, norm=norm)
    tx = optim.sgd(optax.constant_schedule(0.005), momentum=0.9, weight_decay=1e-4)
    init = functools.partial(
        create_state, model, tx, seed=0, input_px=65, polyak_decay=polyak_decay
    )
    state = parallel.compute_replicated(init, mesh)
    step = functools.partial(
        train_step, model=model, tx=tx, seed=0, data_seed=1, colors=COLORS, normalization="symmetric",
        head_weight=0.3, label_smoothing=0.1, polyak_decay=polyak_decay,
    )  # fmt: skip
    compiled = parallel.OverBatch(step, mesh, donate=True)
    history = []
    for i in range(count):
        rng = np.random.default_rng(i)
        batch = {
            "image": rng.integers(0, 256, (16, 65, 65, 3)).astype(np.uint8),
            "label": rng.integers(0, 5, 16).astype(np.int32),
        }
        state, metrics = compiled(state, parallel.to_global(batch, mesh))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


@pytest.fixture(scope="module")
def on_eight():
    return steps_on(8)


def assert_close(a, b, *, rtol: float, atol: float = 0.0) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), a, b)


@pytest.mark.slow
def test_one_device_and_eight_give_the_same_run() -> None:
    """The paper's network, with dropout and colours on: losses and parameters."""
    (state, history), (other_state, other_history) = (
        steps_on(n, norm="lrn", polyak_decay=0.0) for n in (8, 1)
    )
    assert_close(history, other_history, rtol=1e-5)
    assert_close(state.params, other_state.params, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_batch_statistics_agree_across_devices() -> None:
    """Two images a device, and yet the statistics after a step are those of the sixteen."""
    (state, history), (other_state, other_history) = (steps_on(n, count=1) for n in (8, 1))
    losses = [{k: v for k, v in h[0].items() if "loss" in k} for h in (history, other_history)]
    assert_close(*losses, rtol=1e-5)
    assert_close(state.batch_stats, other_state.batch_stats, rtol=1e-4, atol=1e-5)


def test_metrics_are_those_of_every_head(on_eight) -> None:
    _, history = on_eight
    assert history[0].keys() == {
        "loss", "grad_norm", "loss_main", "loss_4a", "loss_4d", "top1", "top1_4a", "top1_4d"
    }  # fmt: skip
    for row in history:
        total = row["loss_main"] + 0.3 * (row["loss_4a"] + row["loss_4d"])
        np.testing.assert_allclose(row["loss"], total, rtol=1e-5)


def test_the_average_lags_behind_the_parameters(on_eight) -> None:
    state, _ = on_eight
    assert state.eval_variables() is state.average
    lag = optax.global_norm(jax.tree.map(np.subtract, state.params, state.average["params"]))
    assert 0 < float(lag) < float(optax.global_norm(state.params))


def test_label_smoothing_is_the_textbooks(rng: np.random.Generator) -> None:
    logits = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    labels = jnp.asarray([0, 1, 2, 3, 0, 1])
    got = head_losses({"main": logits}, labels, label_smoothing=0.2)["main"]
    log_p = np.asarray(jax.nn.log_softmax(logits))
    expected = -(0.8 * log_p[np.arange(6), labels] + 0.2 * log_p.mean(-1)).mean()
    np.testing.assert_allclose(got, expected, rtol=1e-6)
