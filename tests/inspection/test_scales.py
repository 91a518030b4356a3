"""Receptive fields against gradients, shares and ablations against edited parameters."""

import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from inception import kernels, ops
from inception.evaluation.features import activations
from inception.inspection import scales
from inception.model import TABLE_1, GoogLeNet
from tests import tiny

pytestmark = pytest.mark.usefixtures("short_network")


@pytest.fixture(scope="module")
def short_network() -> Iterator[None]:
    with tiny.short_network(*tiny.WITH_POOLS):
        yield


SLIM = {"norm": "batch", "conv5x5_px": 3, "pool4_px": 2, "padding": "same"}
VARIANTS = [
    {},
    pytest.param(SLIM, marks=pytest.mark.faults),
    pytest.param({"module": "naive", "top": "fc"}, marks=pytest.mark.faults),
]
HEIGHT, WIDTH = 32, 1024  # the widest field, 5b's, fits along the width
SMALL = {"classes": 5, "width": 0.05, "heads": False}


def sum_pool(x: jax.Array, *, stride: int, window: int = 3) -> jax.Array:
    return nn.pooling.pool(x, 0.0, lax.add, (window, window), (stride, stride), "SAME")


@pytest.mark.parametrize(("window", "stride", "px"), [(3, 1, 6), (3, 2, 7), (3, 2, 8), (2, 2, 8)])
def test_a_sum_reaches_what_a_maximum_reaches(window: int, stride: int, px: int) -> None:
    """What allows the next test to replace max pools, whose gradients depend on the values."""
    each = jnp.eye(px * px).reshape(-1, px, px, 1)
    with kernels.on("any"):
        of_max = ops.max_pool(each, stride=stride, window=window)
    np.testing.assert_array_equal(of_max > 0, sum_pool(each, stride=stride, window=window) > 0)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_fields_are_where_gradients_are(variant: dict, monkeypatch) -> None:
    """With positive kernels, and sums for maxima, no two ways from a pixel to a layer cancel."""
    model = GoogLeNet(**SMALL, **{**variant, "top": "average"})
    fields = scales.receptive_fields(GoogLeNet(**SMALL, **variant), input_px=WIDTH)
    branches = ["1x1", "3x3", "5x5"] + ["pool_proj"] * (model.module == "reduced")
    assert {"conv1", *TABLE_1, *(f"{row}/{b}" for row in TABLE_1 for b in branches)} <= set(fields)
    monkeypatch.setattr(ops, "max_pool", sum_pool)
    rng = np.random.default_rng(0)

    def leaf(path: Any, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key == "kernel":
            return rng.uniform(0.5, 1, shape.shape).astype("f") / shape.shape[-2]
        return np.full(shape.shape, path[-1].key in ("scale", "var"), "f")

    images = jnp.full((1, HEIGHT, WIDTH, 3), 0.01)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    variables = jax.tree_util.tree_map_with_path(leaf, shapes)

    def middles(images: jax.Array) -> jax.Array:
        layers = activations(model, variables, images)
        grids = (layers[name] for name in fields)
        return jnp.stack([x[0, x.shape[1] // 2, x.shape[2] // 2].sum() for x in grids])

    with kernels.on("any"):
        gradients = np.asarray(jax.jit(jax.jacrev(middles))(images))[:, 0]  # [layers, h, w, 3]
    assert gradients.shape[0] == len(fields) >= 3 + 4 * len(TABLE_1)
    for (name, field), gradient in zip(fields.items(), gradients, strict=True):
        seen = np.argwhere((gradient != 0).any(-1))
        for axis, size in enumerate((HEIGHT, WIDTH)):
            first = -(-size // field.stride) // 2 * field.stride - field.padding
            last = first + field.size - 1
            found = seen[:, axis].min(), seen[:, axis].max()
            assert found == (max(first, 0), min(last, size - 1)), (name, field)
        assert 0 < first < last < WIDTH - 1  # along the width whole


def test_the_first_fields() -> None:
    """By hand: 7 px; pool1 11, stride 4; conv2 19; pool2 27, stride 8."""
    fields = scales.receptive_fields(GoogLeNet(**SMALL))
    assert fields["conv1"] == (7, 2, 3)
    assert fields["conv2"] == (19, 4, 7)
    assert fields["3a/1x1"] == (27, 8, 7)
    assert fields["3a/3x3"] == fields["3a/pool_proj"] == (43, 8, 15)
    assert fields["3a/5x5"] == fields["3a"] == (59, 8, 23)
    with pytest.raises(ValueError, match="strides 2 and 4"):
        fields["conv1"].union(fields["conv2"])


@functools.lru_cache
def network(**variant: Any) -> tuple[GoogLeNet, Any, np.ndarray, np.ndarray]:
    """(model, variables, normalised images, labels)"""
    model = GoogLeNet(**SMALL, **variant)
    rng = np.random.default_rng(1)
    images = rng.normal(0, 1, (7, 40, 40, 3)).astype("f")
    return model, tiny.state(model).raw_variables(), images, np.arange(7) % 5


@pytest.mark.slow
@pytest.mark.parametrize("module", ["reduced", pytest.param("naive", marks=pytest.mark.faults)])
def test_shares_of_energy(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inception.inspection.passes.BATCH", 4)
    model, variables, images, _ = network(module=module)
    found = scales.energy(model, variables, images)
    layers = jax.jit(functools.partial(activations, model))(variables, images)
    for row, shares, filters in zip(TABLE_1, found["energy"], found["filters"], strict=True):
        whole = np.asarray(layers[row], float)
        parts = [np.asarray(layers[f"{row}/{b}"], float) for b in ("1x1", "3x3", "5x5")]
        wanted = np.array([(part**2).sum() for part in parts]) / (whole**2).sum()
        np.testing.assert_allclose(shares[:3], wanted, rtol=1e-4)
        np.testing.assert_allclose(filters[:3] * whole.shape[-1], [p.shape[-1] for p in parts])
        assert shares.sum() == pytest.approx(1) and filters.sum() == pytest.approx(1)


def without(variables: Any, row: str, branch: str) -> Any:
    """The variables with zeros in place of a branch's last convolution and BatchNorm."""
    params = dict(variables["params"])
    module = dict(params[row])
    module[branch] = jax.tree.map(np.zeros_like, module[branch])
    return {**variables, "params": {**params, row: module}}


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["lrn", pytest.param("batch", marks=pytest.mark.faults)])
def test_ablations_are_those_of_edited_parameters(norm: str, monkeypatch) -> None:
    model, variables, images, labels = network(norm=norm)
    monkeypatch.setattr("inception.inspection.passes.BATCH", 4)
    found = scales.ablations(model, variables, images, labels)

    def grade(variables: Any) -> tuple[float, float]:
        logits = tiny.logits(model, variables, images).astype(float)
        likelihood = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        right = likelihood[np.arange(7), labels]
        return (logits.argmax(-1) == labels).mean(), -np.log(right).mean()

    top1, loss = grade(variables)
    np.testing.assert_allclose(found["whole_top1"], top1)
    np.testing.assert_allclose(found["whole_cross_entropy"], loss, rtol=1e-4)
    for i, row in enumerate(TABLE_1):
        for j, branch in enumerate(scales.BRANCHES):
            changed_top1, changed_loss = grade(without(variables, row, branch))
            cost = found["cross_entropy"][i, j]
            np.testing.assert_allclose(cost, changed_loss - loss, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(found["top1"][i, j], top1 - changed_top1, atol=1e-9)
    assert (found["cross_entropy"] != 0).mean() > 0.8  # some of the few units are dead
    again = scales.ablations(model, variables, images, labels)
    for key, values in found.items():
        np.testing.assert_array_equal(values, again[key], err_msg=key)


@pytest.mark.slow
def test_standard_errors_shrink_with_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the same images: the same means, half the standard errors."""
    model, variables, images, labels = network()
    monkeypatch.setattr("inception.inspection.passes.BATCH", 4)
    once = scales.ablations(model, variables, images[:4], labels[:4])
    often = scales.ablations(
        model, variables, np.concatenate([images[:4]] * 4), np.concatenate([labels[:4]] * 4)
    )
    for key in ("top1", "cross_entropy"):
        np.testing.assert_allclose(often[key], once[key], atol=1e-6)
        np.testing.assert_allclose(often[f"{key}_error"], once[f"{key}_error"] / 2, atol=1e-6)


def test_labels_must_fit() -> None:
    model, variables, images, labels = network()
    for wrong, what in (
        (labels[:3], "7 images and 3 labels"),
        (labels + 1, "labels must be from 0 to 4"),
        (labels - 1, "labels must be from 0 to 4"),
    ):
        with pytest.raises(ValueError, match=what):
            scales.ablations(model, variables, images, wrong)
    with pytest.raises(ValueError, match="there are no images"):
        scales.energy(model, variables, images[:0])
