"""Features, dreams and exciting photos: what they optimise, against derivations of their own."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from inception import UserError, pixels
from inception.colors import LIGHTING_DIRECTIONS, LIGHTING_STD
from inception.evaluation import features
from inception.inspection import photos, visualize
from inception.model import GoogLeNet
from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_network")]

PX, METHOD = 32, "symmetric"
activations = jax.jit(features.activations, static_argnums=0)


def network(**knobs) -> tuple[GoogLeNet, dict]:
    fields = {"width": 0.05, "classes": 3, "heads": False, **knobs}
    model = GoogLeNet(**fields)
    shapes = tiny.state(model, input_px=PX).raw_variables()
    return model, tiny.draw(shapes, 0)


def noise(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(0, 256, (n, PX, PX, 3)).astype(np.uint8)


def normal(images: np.ndarray) -> jax.Array:
    return pixels.normalize(jnp.asarray(images), method=METHOD)


@pytest.mark.parametrize(
    "knobs",
    [{}, pytest.param({"norm": "batch", "module": "naive", "top": "fc"}, marks=pytest.mark.faults)],
)
def test_relu_of_a_layer_is_its_activations(rng: np.random.Generator, knobs: dict) -> None:
    model, variables = network(**knobs)
    x = normal(noise(rng, 2))
    found = activations(model, variables, x)
    of_some = {"4a/3x3_reduce", "4a/pool_proj", "fc", "pool5"} & found.keys()
    names = ["conv1", "3a", "3b", "4d/1x1", "4d/5x5", "5b", "classifier", *sorted(of_some)]

    @jax.jit
    def everything(variables, x):
        return {name: visualize.before_relu(model, variables, x, name) for name in names}

    for name, got in everything(variables, x).items():
        if name not in ("classifier", "pool5"):
            assert (got < 0).any() or (found[name] == got).all()
            got = jnp.maximum(got, 0.0)
        np.testing.assert_allclose(got, found[name], rtol=1e-5, atol=1e-6, err_msg=name)
    with pytest.raises(UserError, match=r"`layers`=4a/3X3: there is no such layer; .* is 4a/3x3"):
        visualize.before_relu(model, variables, x, "4a/3X3")


def test_a_coefficient_is_a_wave_of_its_share() -> None:
    """Of amplitude 1 over its frequency, the same at half the size on every other pixel."""
    spectrum = np.zeros((1, PX, PX // 2 + 1, 3, 2), np.float32)
    spectrum[0, 3, 4, 0] = 2.0, 1.0  # plane 0: the colours' first direction
    y, x = np.mgrid[:PX, :PX] / PX
    phase = 2 * np.pi * (3 * y + 4 * x)
    wave = 2 / 4 / 5 * (2 * np.cos(phase) - np.sin(phase))  # |(3, 4)| is 5
    first = np.asarray(LIGHTING_DIRECTIONS)[:, 0]
    wanted = 255 / (1 + np.exp(-wave[..., None] * first))
    got = visualize.picture(jnp.asarray(spectrum), PX)[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-4)
    half = visualize.picture(jnp.asarray(spectrum), PX // 2)[0]
    np.testing.assert_allclose(half, got[::2, ::2], rtol=1e-4)


def test_noise_has_the_colours_of_photos() -> None:
    """Its covariance has ImageNet's principal directions, and their shares of the variance."""
    spectrum = 0.01 * jax.random.normal(jax.random.key(0), (64, PX, PX // 2 + 1, 3, 2))
    grey = np.asarray(visualize.picture(spectrum, PX)).reshape(-1, 3) - 127.5
    values, vectors = np.linalg.eigh(np.cov(grey.T))
    shares = np.asarray(LIGHTING_STD)
    np.testing.assert_allclose(values[::-1] / values.sum(), shares / shares.sum(), rtol=0.2)
    overlap = np.abs(vectors[:, ::-1].T @ np.asarray(LIGHTING_DIRECTIONS))
    np.testing.assert_allclose(overlap, np.eye(3), atol=0.05)


def test_resample_turns_scales_and_shifts(rng: np.random.Generator) -> None:
    images = jnp.asarray(rng.uniform(0, 255, (2, PX, PX, 3)), jnp.float32)
    still = {"angle": 0.0, "zoom": 1.0, "shift": jnp.zeros(2)}
    for change, wanted in (
        ({}, images),
        ({"angle": np.pi / 2}, np.rot90(images, -1, (1, 2))),
        ({"shift": jnp.asarray([3.0, -5.0])}, np.roll(images, (-3, 5), (1, 2))),
        ({"zoom": -1.0}, images[:, ::-1, ::-1]),
    ):
        got = visualize.resample(images, **{**still, **change})
        np.testing.assert_allclose(got, wanted, atol=0.05)


visualized = functools.partial(visualize.visualize, normalization=METHOD, px=PX, steps=12)


def test_a_feature_excites_its_channel_and_repeats() -> None:
    """A negative silences its channel; a picture does not depend on those beside it."""
    model, variables = network()
    one = np.eye(len(variables["params"]["conv2"]["Conv_0"]["bias"]), dtype=np.float32)
    directions = np.stack([one[1], -one[0], one[1] - one[0]])
    got = visualized(model, variables, "conv2", directions)
    assert got.shape == (3, PX, PX, 3) and got.dtype == np.uint8
    start = visualized(model, variables, "conv2", directions[:1], steps=0)
    x = visualize.before_relu(model, variables, normal(np.concatenate([got, start])), "conv2")
    high, low, apart, before = x.mean((1, 2))
    assert high[1] > before[1] and low[0] < before[0]
    assert apart[1] - apart[0] > before[1] - before[0]
    np.testing.assert_array_equal(visualized(model, variables, "conv2", directions), got)
    alone = visualized(model, variables, "conv2", directions[:1])
    assert np.abs(alone[0].astype(int) - got[0]).max() <= 1
    other = visualized(model, variables, "conv2", directions[:1], seed=1)
    assert np.abs(other[0].astype(int) - got[0]).mean() > 1


@pytest.mark.slow
def test_a_neuron_and_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    for change in ("DEGREES", "ZOOM", "SHIFT_PX"):  # a shift moves a neuron over all of 32 px
        monkeypatch.setattr(visualize, change, 0.0)
    model, variables = network()
    width = len(variables["params"]["conv2"]["Conv_0"]["bias"])
    one = np.eye(width, dtype=np.float32)[1:2]
    neuron = visualized(model, variables, "conv2", one, centre=True)
    channel = visualized(model, variables, "conv2", one)
    pair = normal(np.stack([neuron[0], channel[0]]))
    x = visualize.before_relu(model, variables, pair, "conv2")[..., 1]
    middle = x.shape[1] // 2
    assert x[0, middle, middle] > x[1, middle, middle] and x[1].mean() > x[0].mean()
    towards = np.asarray([[1, -1, 0], [-1, 1, 0]])  # one class and not another
    classes = visualized(model, variables, "classifier", towards)
    first, second = tiny.logits(model, variables, normal(classes))
    assert first[0] - first[1] > second[0] - second[1]


def test_layers_above_are_not_computed() -> None:
    """XLA removes them: the step's operations grow with the layer."""
    model, variables = network()

    def flops(layer: str) -> float:
        step = visualize.ascent(model, layer, normalization=METHOD, px=PX)
        spectrum = jnp.zeros((1, PX, PX // 2 + 1, 3, 2))
        shape = jax.eval_shape(
            lambda v, x: visualize.before_relu(model, v, x, layer),
            variables,
            normal(np.zeros((1, PX, PX, 3))),
        )
        moments = visualize.optax.adam(1.0).init(spectrum)
        state = (variables, spectrum, moments, jax.random.key(0))
        lowered = step.lower(state, jnp.zeros((1, shape.shape[-1])))
        return lowered.compile().cost_analysis()["flops"]

    def to_layer(layer: str) -> float:
        """Of the network, forward, to the layer: what a program of the layer alone needs."""
        x = normal(np.zeros((1, PX, PX, 3)))
        program = jax.jit(lambda v, x: visualize.before_relu(model, v, x, layer))
        return program.lower(variables, x).compile().cost_analysis()["flops"]

    low, high = flops("conv1"), flops("5b")
    assert high - low > 0.8 * 2 * (to_layer("5b") - to_layer("conv1")) > 0


def test_responses_are_the_largest_activations(rng: np.random.Generator) -> None:
    model, variables = network()
    images = noise(rng, photos.BATCH + 3)
    found = activations(model, variables, normal(images))
    channels = found["4a"].shape[-1]
    directions = {
        "4a": np.eye(channels),
        "classifier": np.eye(3),
        "conv2": -np.eye(found["conv2"].shape[-1]),
    }
    got = photos.responses(model, variables, images, directions, normalization=METHOD)
    x = np.asarray(found["4a"])
    peak, position, mean = got["4a"]
    np.testing.assert_allclose(np.maximum(peak, 0), x.max((1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean, x.mean((1, 2)), rtol=1e-4, atol=1e-5)
    n, c = np.nonzero(peak > 1e-3)
    rows, columns = position[n, c].T
    np.testing.assert_allclose(x[n, rows, columns, c], peak[n, c], rtol=1e-4, atol=1e-5)
    assert got["conv2"].peak.max() > 0  # the negative of silent positions
    np.testing.assert_allclose(got["classifier"].peak, found["classifier"], rtol=1e-4, atol=1e-5)
    best = got["4a"].best(3)
    assert best.shape == (channels, 3)
    for channel, chosen in enumerate(best):
        assert (peak[chosen, channel] == np.sort(peak[:, channel])[::-1][:3]).all()


@hypothesis.given(
    st.integers(1, 40), st.integers(1, 8), st.integers(0, 20), st.integers(0, 3), st.integers(0, 3)
)
def test_a_patch_is_the_field_within_the_picture(size, stride, padding, row, column) -> None:
    hypothesis.assume(all(i * stride - padding + size - 1 >= 0 for i in (row, column)))
    px = 32
    y, x = np.mgrid[:px, :px]
    image = np.stack([y, x, y * 0], -1).astype(np.uint8)
    got = photos.patch(image, (size, stride, padding), (row, column))
    seen = lambda i, at: at in range(i * stride - padding, i * stride - padding + size)  # noqa: E731
    rows, columns = ([at for at in range(px) if seen(i, at)] for i in (row, column))
    np.testing.assert_array_equal(got, image[np.ix_(rows, columns)])


@pytest.mark.slow
def test_a_dream_strengthens_what_the_layer_sees(rng: np.random.Generator) -> None:
    model, variables = network()
    photo = noise(rng, 1)[0, :, :28]
    dream = functools.partial(
        visualize.deep_dream, model, variables, photo, "conv2", normalization=METHOD, octaves=(0.5, 1.0), steps=3
    )  # fmt: skip
    got = dream()
    assert got.shape == photo.shape and got.dtype == np.uint8

    def energy(image: np.ndarray) -> float:
        x = visualize.before_relu(model, variables, normal(image[None]), "conv2")
        return float(jnp.square(jnp.maximum(x, 0.0)).mean())

    assert energy(got) > 1.1 * energy(photo)
    np.testing.assert_array_equal(dream(), got)
