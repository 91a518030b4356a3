"""The train step: the same on one device and on eight, its metrics, its average."""

import functools
import re
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inception import optim, step
from inception.mixing import own_share
from inception.model import GoogLeNet
from inception.runtime import compiling, sharding
from inception.step import create_state, head_losses, train_step
from tests import tiny

pytestmark = pytest.mark.usefixtures("short_network")

MIXING = {"mixup": 0.4, "cutmix": 1.0}
COLORS = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.0, "lighting": 0.1}

POLYAK = functools.partial(optim.polyak, decay=0.9)


def steps_on(
    devices: int,
    *,
    count: int = 2,
    batch_size: int = 16,
    norm: str = "batch",
    heads: bool = True,
    remat: bool = False,
    averaging: Callable | None = POLYAK,
    accumulate: int = 1,
    mixing: Mapping[str, float] = types.MappingProxyType({}),
    gradient_dtype: str = "float32",
    **others: Any,
):
    """State and metrics after a few steps of a tiny network on so many devices; the program."""
    mesh = jax.sharding.Mesh(
        np.asarray(jax.devices()[:devices]), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    model = GoogLeNet(
        classes=5,
        width=0.05,
        norm=norm,
        heads=heads,
        remat=remat,
        batch_axis=sharding.batch_axis(mesh),
    )
    tx = optim.sgd(optax.constant_schedule(0.005), momentum=0.9, weight_decay=1e-4)
    state = sharding.replicate(tiny.state(model, tx, averaged=averaging is not None), mesh)
    train = functools.partial(
        train_step, model=model, tx=tx, seed=0, data_seed=1, colors=COLORS, mixing=mixing, normalization="symmetric",
        loss={"head_weight": 0.3, "label_smoothing": 0.1}, averaging=averaging, accumulate=accumulate, **others,
        over_devices=sharding.over_devices(mesh, gradient_dtype=gradient_dtype),
    )  # fmt: skip
    batches = []
    for i in range(count):
        rng = np.random.default_rng(i)
        batch = {
            "image": rng.integers(0, 256, (batch_size, 65, 65, 3)).astype(np.uint8),
            "label": rng.integers(0, 5, batch_size).astype(np.int32),
        }
        batches.append(sharding.shard_batch(batch, mesh))
    compiled = compiling.CompiledStep(train, mesh, training=True).lower(state, batches[0]).compile()
    history = []
    for batch in batches:
        state, metrics = compiled(state, batch)
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history, compiled


@pytest.fixture(scope="module")
def on_eight():
    return steps_on(8, count=1)


def assert_close(a, b, *, rtol: float, atol: float = 0.0) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), a, b)


@pytest.mark.slow
def test_one_device_and_eight_give_the_same_run() -> None:
    """The paper's network, with dropout, colours and mixing on: losses and parameters.

    The one computes its batch in two parts.
    """
    (state, history, _), (other_state, other_history, _) = (
        steps_on(n, norm="lrn", averaging=None, accumulate=parts, mixing=MIXING)
        for n, parts in ((8, 1), (1, 2))
    )
    assert_close(history, other_history, rtol=1e-5)
    assert_close(state.params, other_state.params, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_batch_statistics_agree_across_devices(on_eight) -> None:
    """Two images a device, and yet the statistics after a step are those of the sixteen."""
    (state, history, _), (other_state, other_history, _) = on_eight, steps_on(1, count=1)
    losses = [{k: v for k, v in h[0].items() if "loss" in k} for h in (history, other_history)]
    assert_close(*losses, rtol=1e-5)
    assert_close(state.batch_stats, other_state.batch_stats, rtol=1e-4, atol=1e-5)


def temporary_bytes(compiled: Any) -> int:
    return compiled.memory_analysis().temp_size_in_bytes


@functools.cache
def in_micro_batches(accumulate: int):
    """Three steps with momentum, dropout and colours on eight devices."""
    return steps_on(
        8, count=3, batch_size=32, norm="none", heads=False, averaging=None, accumulate=accumulate
    )


@pytest.mark.parametrize("accumulate", [pytest.param(2, marks=pytest.mark.faults), 4])
@pytest.mark.slow
def test_micro_batches_give_the_run_of_the_whole_batch(accumulate: int) -> None:
    (state, history, _), (other_state, other_history, _) = map(in_micro_batches, (1, accumulate))
    assert_close(history, other_history, rtol=1e-5)
    assert_close(state.params, other_state.params, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_micro_batches_take_less_memory_and_move_no_image() -> None:
    whole, quarter = (in_micro_batches(accumulate)[2] for accumulate in (1, 4))
    assert temporary_bytes(quarter) < 0.5 * temporary_bytes(whole)
    text = quarter.as_text()
    moves = re.findall(r"all-gather|all-to-all|collective-permute|all-reduce", text)
    assert set(moves) == {"all-reduce"}


@pytest.mark.parametrize("mixing", [{"mixup": 0.3}, {"cutmix": 1.0}], ids=str)
@pytest.mark.slow
def test_a_mixed_image_has_the_labels_of_both(mixing: dict[str, float]) -> None:
    """Each with the one before it, by the share of pixels; the loss written out in numpy."""
    knobs = {"mixup": 0.0, "cutmix": 0.0, **mixing}
    model = GoogLeNet(classes=5, width=0.05, norm="none", heads=False, dropout=0.0)
    tx = optax.identity()
    state = tiny.state(model, tx)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 65, 65, 3)).astype(np.uint8)
    labels = np.array([3, 1, 1, 0], np.int32)
    take = jax.jit(functools.partial(
        train_step, model=model, tx=tx, seed=0, data_seed=1, colors={}, mixing=knobs,
        normalization="symmetric", loss={"head_weight": 0.3, "label_smoothing": 0.0},
    ))  # fmt: skip
    _, metrics = take(state, {"image": images, "label": labels})
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), step.MIX), 0)
    keys = jnp.stack([jax.random.fold_in(key, row) for row in range(4)])
    own = np.asarray(own_share(keys, px=65, **knobs))
    loss = 0.0
    for row in range(4):
        mixed = own[row] * images[row] + (1 - own[row]) * images[row - 1]
        x = jnp.asarray(mixed[None] / 127.5 - 1, jnp.float32)
        log_p = jax.nn.log_softmax(tiny.logits(model, {"params": state.params}, x))[0]
        share = own[row].mean()
        loss -= share * log_p[labels[row]] + (1 - share) * log_p[labels[row - 1]]
    np.testing.assert_allclose(metrics["loss"], loss / 4, rtol=1e-5)
    assert 0.01 < own.mean() < 0.99


@pytest.mark.slow
def test_gradients_are_summed_in_float32() -> None:
    """Where the network computes in bfloat16, too."""
    model = GoogLeNet(classes=5, width=0.05, dtype="bfloat16")
    tx = optim.sgd(optax.constant_schedule(0.005), momentum=0.9)
    state = jax.eval_shape(functools.partial(create_state, model, tx, seed=0, input_px=65))
    batch = {
        "image": jax.ShapeDtypeStruct((4, 65, 65, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((4,), jnp.int32),
    }
    train = functools.partial(
        train_step, model=model, tx=tx, seed=0, data_seed=1, colors=COLORS, mixing={}, normalization="symmetric",
        loss={"head_weight": 0.3, "label_smoothing": 0.0}, accumulate=2,
    )  # fmt: skip
    jaxpr = jax.make_jaxpr(train)(state, batch)
    assert "bf16" in str(jaxpr)
    (loop,) = [e for e in jaxpr.eqns if e.primitive.name == "scan" and e.params["length"] == 2]
    count = len(jax.tree.leaves(state.params))
    carried, stacked = loop.outvars[:count], loop.outvars[count:]  # gradients; metrics of each part
    assert {v.aval.dtype for v in carried} == {jnp.dtype("float32")}
    assert {v.aval.shape for v in stacked} == {(2,)}


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "message"),
    [
        (40, 4, "batch_size=40 is not divisible by the 8 devices times config.optim.accumulate=4: "
                "take 32 or 64"),
        (8, 2, "batch_size=8 is not divisible by the 8 devices times config.optim.accumulate=2: "
               "take 16"),
    ],
)  # fmt: skip
def test_a_batch_that_cannot_be_split(batch_size: int, accumulate: int, message: str) -> None:
    with tiny.refused(f"^{re.escape(f'config.optim.{message}')}$"):
        sharding.check_batch_size(batch_size, accumulate, sharding.make_mesh())


@pytest.mark.slow
def test_metrics_are_those_of_every_head(on_eight) -> None:
    _, history, _ = on_eight
    assert history[0].keys() == {
        "loss", "grad_norm", "loss_main", "loss_4a", "loss_4d", "top1", "top1_4a", "top1_4d"
    }  # fmt: skip
    for row in history:
        total = row["loss_main"] + 0.3 * (row["loss_4a"] + row["loss_4d"])
        np.testing.assert_allclose(row["loss"], total, rtol=1e-5)


@pytest.mark.slow
def test_the_average_lags_behind_the_parameters(on_eight) -> None:
    state, _, _ = on_eight
    assert state.eval_variables() is state.average
    lag = optax.global_norm(jax.tree.map(np.subtract, state.params, state.average["params"]))
    assert 0 < float(lag) < float(optax.global_norm(state.params))


def test_heads_may_see_plain_labels(rng: np.random.Generator) -> None:
    logits = {head: jnp.asarray(rng.normal(size=(3, 4)), jnp.float32) for head in ("main", "4a")}
    targets = jax.nn.one_hot(jnp.array([0, 2, 3]), 4)
    smooth = head_losses(logits, targets, label_smoothing=0.2)
    plain = head_losses(logits, targets, label_smoothing=0.0)
    got = head_losses(logits, targets, label_smoothing=0.2, smooth_heads=False)
    assert got == {"main": smooth["main"], "4a": plain["4a"]} and smooth["4a"] != plain["4a"]


@pytest.mark.slow
def test_the_heads_weight_may_fall() -> None:
    falling = optax.linear_schedule(1.0, 0.0, 4)
    _, history, _ = steps_on(1, count=3, norm="none", head_schedule=falling)
    for t, metrics in enumerate(history):
        heads = (metrics["loss"] - metrics["loss_main"]) / (metrics["loss_4a"] + metrics["loss_4d"])
        assert heads == pytest.approx(0.3 * (1 - t / 4), rel=1e-3)


def test_a_repeated_image_is_mixed_with_another() -> None:
    labels = jnp.repeat(jnp.arange(4), 3)
    parts = step.in_micro_batches({"label": labels}, 2, mixed_with=3)
    assert (parts["other"]["label"] == (parts["label"] - 1) % 4).all()


def test_label_smoothing_is_the_textbooks(rng: np.random.Generator) -> None:
    logits = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    labels = jnp.asarray([0, 1, 2, 3, 0, 1])
    got = head_losses({"main": logits}, jax.nn.one_hot(labels, 4), label_smoothing=0.2)["main"]
    log_p = np.asarray(jax.nn.log_softmax(logits))
    expected = -(0.8 * log_p[np.arange(6), labels] + 0.2 * log_p.mean(-1)).mean()
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_class_weights_multiply_an_images_loss(rng: np.random.Generator) -> None:
    logits = jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)
    labels, weights = np.asarray([0, 1, 2, 2, 0, 1]), (0.5, 1.0, 3.0)
    targets = jax.nn.one_hot(labels, 3)
    got = head_losses({"main": logits}, targets, label_smoothing=0.1, class_weights=weights)["main"]
    log_p = np.asarray(jax.nn.log_softmax(logits))
    losses = -(0.9 * log_p[np.arange(6), labels] + 0.1 * log_p.mean(-1))
    np.testing.assert_allclose(got, (losses * np.take(weights, labels)).mean(), rtol=1e-6)


def test_what_xla_flags_set_goes_before_our_options(monkeypatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3")
    options = compiling._on_cpu(sharding.make_mesh(), compiling.FAST_TO_COMPILE)
    known = {k for k, v in compiling.FAST_TO_COMPILE.items() if compiling._knows(k, v)}
    assert options.keys() == known - {"xla_backend_optimization_level"}
