"""Where and why: Grad-CAM, occlusion, the heads as readers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception import pixels
from inception.evaluation import cam, features
from inception.inspection import where
from inception.model import GoogLeNet
from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_network")]
PX = 65
MODEL = GoogLeNet(classes=3, width=0.05)
CLASSES = np.asarray([2, 0, 1], np.int32)


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (3, PX, PX, 3), np.uint8)


def normal(images: np.ndarray) -> jax.Array:
    return pixels.normalize(jnp.asarray(images), method="unit")


def test_at_5b_grad_cam_is_cam_up_to_scale_and_bias(images: np.ndarray) -> None:
    variables = tiny.state(MODEL).raw_variables()
    bias = np.asarray([0.5, -1.0, 2.0], np.float32)
    variables["params"]["classifier"]["bias"] = bias
    found = where.grad_cam(MODEL, variables, normal(images), CLASSES)
    fields = {field: getattr(MODEL, field) for field in ("classes", "width", "top")}
    maps = cam.maps(fields, variables, images, normalization="unit")
    expected = maps[np.arange(3), :, :, CLASSES] - bias[CLASSES, None, None]
    h, w = expected.shape[1:]
    assert found.shape == (3, h, w, 4)
    np.testing.assert_allclose(found.sum(-1) * h * w, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("layer", ["3b", "4a/3x3_reduce"])
def test_a_channel_weighs_as_its_bias_moves_the_logit(images: np.ndarray, layer: str) -> None:
    """Where no ReLU cuts, a bias adds to every position of its channel: its slope is the sum of
    theirs. The biases of a module's last convolutions have its channels' order."""
    variables, x = tiny.state(MODEL).raw_variables(), normal(images[:1])
    module, *convolution = layer.split("/")
    last = convolution or ["1x1", "3x3", "5x5", "pool_proj"]
    params = variables["params"]
    for name in last:
        params[module][name]["Conv_0"]["bias"] += 50

    @jax.jit
    def slopes(params: Any) -> Any:
        score = lambda p: MODEL.apply({"params": p}, x, train=False)["main"][0, 2]  # noqa: E731
        return jax.grad(score)(params)[module]

    layers = jax.jit(lambda v: features.activations(MODEL, v, x))(variables)
    _, h, w, _ = layers[layer].shape
    found = where.grad_cam(MODEL, variables, x, CLASSES[:1], layer=layer)
    assert found.shape == (1, h, w, len(last))
    assert layers[layer].min() > 0
    biases, start = slopes(params), 0
    for branch, name in enumerate(last):
        weights = np.asarray(biases[name]["Conv_0"]["bias"]) / (h * w)
        own = np.asarray(layers[layer])[..., start : (start := start + len(weights))]
        np.testing.assert_allclose(found[..., branch], own @ weights, rtol=2e-3, atol=1e-5)
    assert np.abs(found).max() > 0.01


def test_a_class_that_lies_in_one_place_is_found_there_by_all_maps() -> None:
    """A network whose class 1 is the mean of what passes from red pixels alone."""
    variables = tiny.state(MODEL).raw_variables()
    variables["params"] = jax.tree.map(np.abs, variables["params"])  # more light, larger features
    kernel = variables["params"]["classifier"]["kernel"]
    variables["params"]["classifier"]["kernel"] = np.stack(
        [0 * kernel[:, 0], kernel[:, 1], 0 * kernel[:, 0]], -1
    )
    scale = 1e-9  # of the logits: the softmax must not saturate
    image = np.zeros((1, PX, PX, 3), np.float32)
    image[:, :20, 40:] = scale
    logits = tiny.logits(MODEL, variables, jnp.asarray(image))
    image /= float(logits[0, 1])
    classes = np.asarray([1], np.int32)
    drop = where.occlusion(MODEL, variables, jnp.asarray(image), classes, squares=5)
    maps = where.grad_cam(MODEL, variables, jnp.asarray(image), classes, layer="3a").sum(-1)
    row, column = np.unravel_index(drop[0].argmax(), drop[0].shape)
    assert (row, column) in {(0, 3), (0, 4), (1, 3), (1, 4)} and drop.max() > 0
    assert where.rank_correlation(maps, drop)[0] > 0.5


def test_occlusion_is_the_drop_of_the_probability(images: np.ndarray) -> None:
    variables, x = tiny.state(MODEL).raw_variables(), np.asarray(normal(images))
    found = where.occlusion(MODEL, variables, x, CLASSES, squares=3, side_px=21)

    def p(x: np.ndarray) -> np.ndarray:
        logits = tiny.logits(MODEL, variables, jnp.asarray(x))
        return np.asarray(jax.nn.softmax(logits))[np.arange(3), CLASSES]

    hidden = x.copy()
    hidden[:, 22:43, 44:65] = 0  # the centres of the grid's cells are at 10.8, 32.5, 54.2
    np.testing.assert_allclose(found[:, 1, 2], p(x) - p(hidden), rtol=1e-4, atol=1e-6)
    assert found.shape == (3, 3, 3)


def test_the_rank_correlation_of_maps_of_two_sizes(rng: np.random.Generator) -> None:
    small = rng.normal(size=(2, 4, 4))
    large = np.exp(small).repeat(2, 1).repeat(2, 2)  # ranks survive a monotonic function
    np.testing.assert_allclose(where.rank_correlation(large, small), 1)
    np.testing.assert_allclose(where.rank_correlation(small, -large), -1)


def test_the_heads_read_without_dropout_as_the_network_has_them(images: np.ndarray) -> None:
    variables, x = tiny.state(MODEL).raw_variables(), normal(images)
    found = where.recognised(MODEL, variables, x, CLASSES)
    assert list(found) == ["4a", "4d", "main"]
    plain = MODEL.clone(dropout=0.0, head_dropout=0.0)
    logits = jax.jit(lambda v, x: plain.apply(v, x, train=True))(variables, x)
    for head, (right, p) in found.items():
        expected = np.asarray(jax.nn.softmax(logits[head]))
        np.testing.assert_allclose(p, expected[np.arange(3), CLASSES], rtol=1e-4)
        assert np.array_equal(right, expected.argmax(-1) == CLASSES)


def test_what_cannot_be_looked_at_is_named(images: np.ndarray) -> None:
    variables, x = tiny.state(MODEL).raw_variables(), normal(images)
    for layer, line in (
        ("4f", r"^--layers=4f: there is no such layer; the nearest is 4\w$"),
        ("conv3", "the nearest is conv"),
        ("pool5", "^--layers=pool5 has no positions, which a map needs: take 5b or"),
    ):
        with tiny.refused(line, "layers"):
            where.grad_cam(MODEL, variables, x, CLASSES, layer=layer)
    with tiny.refused("heads=False: the network has no auxiliary heads", "checkpoint"):
        where.recognised(MODEL.clone(heads=False), variables, x, CLASSES)
    params = {k: v for k, v in variables["params"].items() if k != "head_4a"}
    with tiny.refused("^--checkpoint lacks the auxiliary heads on 4a: ", "checkpoint"):
        where.recognised(MODEL, {**variables, "params": params}, x, CLASSES)
