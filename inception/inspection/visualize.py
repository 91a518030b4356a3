"""Pictures of what a network's channels look for: features, and DeepDream.

Olah, Mordvintsev and Schubert, "Feature Visualization" (Distill, 2017): gradient ascent on a
picture's Fourier coefficients, in decorrelated colours, seen through small random transforms.

NOTE: ReLU's gradient is zero where a channel is silent, as most are on noise. So an objective reads
its layer before ReLU: its gradient is never zero, and a channel's negative has a meaning.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax.scipy import ndimage

from inception import ops, pixels
from inception.colors import LIGHTING_DIRECTIONS, LIGHTING_STD
from inception.data import progress
from inception.inspection import passes
from inception.inspection.scales import BRANCHES
from inception.model import TABLE_1, GoogLeNet, Inception
from inception.runtime import compiling, sharding

STAGES = ((0.6, 0.5), (0.4, 1.0))  # share of the steps, of the picture's side
RATE = 0.05  # of Adam
DEGREES, ZOOM, SHIFT_PX = 10.0, 0.1, 16.0  # the largest random turn, change of scale, shift


def before_relu(model: GoogLeNet, variables: Any, images: jax.Array, layer: str) -> jax.Array:
    """A layer of normalised images in evaluation, before its ReLU: [b, h, w, c] or [b, c].

    Args:
        layer: one of `evaluation.features.activations`.

    Raises:
        UserError: no such layer, with the nearest name.
    """
    _, state = model.apply(
        variables,
        images,
        train=False,
        capture_intermediates=lambda module, _: isinstance(
            module, nn.Conv | nn.BatchNorm | nn.Dense | Inception | ops.Dropout
        ),
        mutable=["intermediates"],
    )
    last = "/BatchNorm_0" if model.norm == "batch" else "/Conv_0"
    found: dict[str, jax.Array] = {}
    for (*path, _), (x,) in flatten_dict(state["intermediates"]).items():
        name = "/".join(path)
        if name == "Dropout_0" and model.top == "average":
            name = "pool5"
        if "_0" not in name or name.endswith(last):
            found[name.removesuffix(last)] = x
    passes.check_name(layer, found)
    if layer not in TABLE_1:
        return found[layer]
    parts = [found[name] for b in BRANCHES if (name := f"{layer}/{b}") in found]
    rest = found[layer][..., sum(part.shape[-1] for part in parts) :]  # figure 2(a)'s bare pool
    return jnp.concatenate([*parts, rest], -1)


def picture(spectrum: jax.Array, px: int) -> jax.Array:
    """Fourier coefficients -> pictures, float32 [n, px, px, 3] of 0-255.

    A coefficient's amplitude is divided by its frequency, as in photos. The three planes become
    colours as correlated as ImageNet's; a sigmoid keeps them in range.

    Args:
        spectrum: float32 [n, side, side // 2 + 1, 3, 2], the last axis real and imaginary.
        px: even; below `side`, the frequencies that it can show.
    """
    half = px // 2
    spectrum = jnp.concatenate([spectrum[:, :half], spectrum[:, -half:]], 1)[:, :, : half + 1]
    frequency = np.hypot(np.fft.fftfreq(px)[:, None], np.fft.rfftfreq(px)[None]) * px
    scale = px**2 / 4 / np.maximum(frequency, 1)  # irfft2 divides by px**2
    scaled = spectrum * jnp.asarray(scale, jnp.float32)[None, :, :, None, None]
    planes = jnp.fft.irfft2(jax.lax.complex(scaled[..., 0], scaled[..., 1]), (px, px), (1, 2))
    # NOTE: Krizhevsky's three numbers are eigenvalues of the covariance: variances.
    deviations = np.sqrt(LIGHTING_STD)
    colors = np.asarray(LIGHTING_DIRECTIONS) * deviations / deviations.max()
    return 255 * jax.nn.sigmoid(jnp.einsum("nhwp,cp->nhwc", planes, jnp.asarray(colors, "float32")))


def resample(
    images: jax.Array, *, angle: jax.Array, zoom: jax.Array, shift: jax.Array
) -> jax.Array:
    """Turns, scales, then shifts all images alike; what leaves on one side enters on the other.

    Args:
        images: float32 [n, px, px, c].
        angle: radians; zoom: above 1 the content becomes smaller; shift: [2], pixels.
    """
    n, px, _, channels = images.shape
    middle = (px - 1) / 2
    y, x = jnp.meshgrid(*[jnp.arange(px, dtype="float32") - middle] * 2, indexing="ij")
    cos, sin = zoom * jnp.cos(angle), zoom * jnp.sin(angle)
    at = [cos * y - sin * x + (middle + shift[0]), sin * y + cos * x + (middle + shift[1])]
    planes = images.transpose(1, 2, 0, 3).reshape(px, px, -1)
    # NOTE: 'grid-wrap' of SciPy, a period of px, is 'wrap' in JAX.
    seen = jax.vmap(lambda plane: ndimage.map_coordinates(plane, at, 1, "wrap"), -1, -1)(planes)
    return seen.reshape(px, px, n, channels).transpose(2, 0, 1, 3)


def ascent(
    model: GoogLeNet, layer: str, *, normalization: str, px: int, centre: bool = False
) -> compiling.CompiledStep:
    """The step of `visualize`, compiled at its first call, computing no layer after `layer`.

    The step is a function of (variables, spectrum, opt_state, key) and directions; it returns a new
    spectrum and opt_state. All pictures are transformed alike: a picture is the same whatever is
    computed beside it, and one gather resamples them all.
    """

    def loss(spectrum: jax.Array, variables: Any, directions: jax.Array, key: Any) -> jax.Array:
        turn, scale, *shift = jax.random.uniform(key, (4,), minval=-1.0)
        images = resample(
            picture(spectrum, px),
            angle=turn * np.radians(DEGREES).item(),
            zoom=1 + ZOOM * scale,
            shift=SHIFT_PX * jnp.stack(shift),
        )
        images = pixels.normalize(images, method=normalization)
        x = before_relu(model, variables, images, layer)
        if x.ndim == 4:
            x = x[:, x.shape[1] // 2, x.shape[2] // 2] if centre else x.mean((1, 2))
        return -(x.astype("float32") * directions).sum()

    def step(state: Any, directions: jax.Array) -> tuple[jax.Array, Any]:
        variables, spectrum, opt_state, key = state
        gradient = jax.grad(loss)(spectrum, variables, directions, key)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an int power
            updates, opt_state = optax.adam(RATE).update(gradient, opt_state)
        return optax.apply_updates(spectrum, updates), opt_state

    return compiling.CompiledStep(step, _one_device(), training=False)


def _one_device() -> Any:
    return sharding.make_mesh(jax.local_devices()[:1])


def visualize(
    model: GoogLeNet,
    variables: Any,
    layer: str,
    directions: np.ndarray,
    *,
    normalization: str,
    centre: bool = False,
    px: int = 224,
    steps: int = 256,
    seed: int = 0,
) -> np.ndarray:
    """Pictures that excite directions of a layer most, uint8 [n, px, px, 3], in one batch.

    The first steps see the picture at half its size, at a quarter of the time. The same seed gives
    the same pictures.

    Args:
        layer: as in `before_relu`; 'classifier' for classes.
        directions: float [n, channels], the weights of the channels in the objective. A row of the
            identity matrix is a channel or a class; its negative, what silences the channel; the
            difference of two rows, a direction between two channels.
        centre: the objective is the value at the centre, a neuron, not the mean over positions.
        px: a multiple of 4.

    Raises:
        UserError: as `before_relu`.
    """
    variables = sharding.replicate(jax.device_get(variables), _one_device())
    weights = jnp.asarray(directions, "float32")
    key = jax.random.key(seed)
    one = 0.01 * jax.random.normal(key, (1, px, px // 2 + 1, 3, 2))
    spectrum = jnp.repeat(one, len(weights), 0)
    opt_state = optax.adam(RATE).init(spectrum)
    done = 0
    with progress.bar(total=steps, desc=f"features of {layer}", unit="step") as bar:
        for share, side in STAGES:
            size, until = round(px * side), steps if side == 1 else done + round(steps * share)
            step = ascent(model, layer, normalization=normalization, px=size, centre=centre)
            for i in range(done, until):
                state = (variables, spectrum, opt_state, jax.random.fold_in(key, i))
                spectrum, opt_state = step(state, weights)
                jax.block_until_ready(spectrum)  # the bar shows what is done
                bar.update()
            done = until
    return np.asarray(picture(spectrum, px).round().astype("uint8"))


def deep_dream(
    model: GoogLeNet,
    variables: Any,
    photo: np.ndarray,
    layer: str,
    *,
    normalization: str,
    octaves: Sequence[float] = (0.36, 0.51, 0.71, 1.0),
    steps: int = 10,
    rate: float = 1.5,
    seed: int = 0,
) -> np.ndarray:
    """Strengthens in a photo what a layer sees in it (Mordvintsev, Olah and Tyka, 2015).

    Args:
        photo: uint8 [h, w, 3]; the dream has its shape.
        octaves: sizes at which to dream, as shares of the photo's, ascending to 1.
        steps: in each octave.
        rate: the mean change of a pixel in a step, of 0-255.
    """
    base, (h, w) = jnp.asarray(photo, "float32")[None], photo.shape[:2]
    changes, key = jnp.zeros_like(base), jax.random.key(seed)
    for i in progress.bar(range(len(octaves) * steps), desc=f"a dream of {layer}", unit="step"):
        octave, first = octaves[i // steps], i % steps == 0
        size = (1, round(h * octave), round(w * octave), 3)
        if first:
            small = jax.image.resize(base, size, "linear")
            changes = jax.image.resize(changes, size, "linear")
        shift = jax.random.randint(jax.random.fold_in(key, i), (2,), -32, 33)
        changes = _dream(
            variables, small, changes, shift, rate,
            model=model, layer=layer, normalization=normalization,
        )  # fmt: skip
    return np.asarray((base + changes)[0].round().astype("uint8"))


@functools.partial(jax.jit, static_argnames=("model", "layer", "normalization"))
def _dream(
    variables: Any,
    photo: jax.Array,
    changes: jax.Array,
    shift: jax.Array,
    rate: float,
    *,
    model: GoogLeNet,
    layer: str,
    normalization: str,
) -> jax.Array:
    def energy(images: jax.Array) -> jax.Array:
        images = jnp.roll(images, shift, (1, 2))
        images = pixels.normalize(images, method=normalization)
        return jnp.square(ops.relu(before_relu(model, variables, images, layer))).mean()

    gradient = jax.grad(energy)(photo + changes)
    moved = photo + changes + rate * gradient / (jnp.abs(gradient).mean() + 1e-12)
    return jnp.clip(moved, 0.0, 255.0) - photo
