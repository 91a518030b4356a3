"""Times a feature's picture, ours in turns with a plain loop of jax.grad and with torch-lucent.

python benchmarks/visualize.py [--layer=4c] [--channels=4] [--px=224] [--lucent] [--rounds=5]

Random weights: they cost what others do. The plain loop optimises one channel at a time, with the
same parametrisation and transforms, at full size, by jax.jit's defaults. torch-lucent (pip install
torch torchvision torch-lucent) optimises torchvision's googlenet with its own defaults, a channel
of the same module. A turn is some steps of each side; a side's seconds are those of all 256 steps
for one channel, compilation apart. Ratios are medians over rounds, of wall and of processor time.
"""

import argparse
import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from inception import pixels
from inception.inspection import visualize
from inception.model import GoogLeNet
from inception.step import create_state

MODEL, METHOD, STEPS = GoogLeNet(heads=False), "mean", 256
Turn = Callable[[], tuple[float, float]]  # wall and processor seconds of a channel's 256 steps


def clock() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def timed(step: Callable[[], object], repeats: int = 2) -> np.ndarray:
    start = clock()
    for _ in range(repeats):
        jax.block_until_ready(step())
    return (clock() - start) / repeats


def spectra(n: int, px: int) -> jax.Array:
    return 0.01 * jax.random.normal(jax.random.key(0), (n, px, px // 2 + 1, 3, 2))


def ours(variables: object, layer: str, directions: jax.Array, px: int) -> Callable:
    n = len(directions)
    spectrum = spectra(n, px)
    state = (variables, spectrum, optax.adam(1.0).init(spectrum), jax.random.key(0))
    stages = [
        (share, visualize.ascent(MODEL, layer, normalization=METHOD, px=round(px * side)))
        for share, side in visualize.STAGES
    ]
    return lambda: sum(
        STEPS * share * timed(lambda step=step: step(state, directions)) / n
        for share, step in stages
    )


def plain(variables: object, layer: str, direction: jax.Array, px: int) -> Callable:
    spectrum, optimizer = spectra(1, px), optax.adam(visualize.RATE)

    def loss(spectrum: jax.Array, key: jax.Array, variables: object) -> jax.Array:
        angle, zoom, *shift = jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)
        images = visualize.resample(
            visualize.picture(spectrum, px),
            angle=angle,
            zoom=1 + zoom,
            shift=160 * jnp.stack(shift),
        )
        images = pixels.normalize(images, method=METHOD)
        x = visualize.before_relu(MODEL, variables, images, layer)
        return -(x.mean((1, 2)) @ direction).sum()

    @jax.jit
    def step(spectrum: jax.Array, moments: object, key: jax.Array, variables: object) -> object:
        gradient = jax.grad(loss)(spectrum, key, variables)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(spectrum, updates), moments

    args = (spectrum, optimizer.init(spectrum), jax.random.key(0), variables)
    return lambda: STEPS * timed(lambda: step(*args))


def lucent(layer: str, px: int) -> Callable:
    import torch
    import torchvision
    from lucent.optvis import param, render

    network = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=False)
    network = network.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def steps(n: int) -> np.ndarray:
        start = clock()
        render.render_vis(
            network, f"inception{layer}:0", lambda: param.image(px), thresholds=(n,),
            show_image=False, progress=False,
        )  # fmt: skip
        return clock() - start

    return lambda: STEPS * steps(3) / 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layer", default="4c")
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--px", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lucent", action="store_true")
    args = parser.parse_args()
    create = functools.partial(create_state, MODEL, optax.identity(), seed=0, input_px=args.px)
    variables = jax.jit(create)().raw_variables()
    images = jnp.zeros((1, args.px, args.px, 3))
    layer = jax.eval_shape(lambda v: visualize.before_relu(MODEL, v, images, args.layer), variables)
    directions = jnp.eye(layer.shape[-1])[: args.channels]
    sides = {
        "ours": ours(variables, args.layer, directions, args.px),
        "plain": plain(variables, args.layer, directions[0], args.px),
    }
    if args.lucent:
        sides["lucent"] = lucent(args.layer, args.px)
    times = np.array([[side() for side in sides.values()] for _ in range(args.rounds + 1)])[1:]
    print(f"{jax.devices()[0].device_kind}: {args.layer}, {args.channels} channels, {args.px} px")
    for i, name in enumerate(sides):
        wall, processor = np.median(times[:, i], 0)
        print(f"{name:<8}{wall:8.1f} s a channel, {processor:8.1f} s of processors", end="")
        if i:
            ratios = np.median(times[:, 0] / times[:, i], 0)
            print(
                f"; ours takes {ratios[0]:.2f} of its time, {ratios[1]:.2f} of processors'", end=""
            )
        print(flush=True)


if __name__ == "__main__":
    main()
