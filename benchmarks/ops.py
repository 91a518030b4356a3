"""Our max pool against Flax's, forward and gradient, at GoogLeNet's shapes, alternating.

python benchmarks/max_pool.py [--batch_size=32] [--input_px=224]
"""

import argparse
import functools
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from inception import ops

POOLS = (  # (times halved, channels, stride): every max pool of the network
    (1, 64, 2), (2, 192, 2), (3, 192, 1), (3, 256, 1), (3, 480, 2), (4, 480, 1), (4, 512, 1),
    (4, 512, 1), (4, 512, 1), (4, 528, 1), (4, 832, 2), (5, 832, 1), (5, 832, 1),
)  # fmt: skip


def flax_pool(x: jax.Array, *, stride: int) -> jax.Array:
    return nn.max_pool(x, (3, 3), (stride, stride), "SAME")


def gradient(pool, x: jax.Array, g: jax.Array) -> jax.Array:
    return jax.vjp(pool, x)[1](g)[0]


def seconds(functions: list, rounds: int) -> list[float]:
    """Median time of each, run in turn."""
    times = [[] for _ in functions]
    for _ in range(rounds + 1):
        for function, t in zip(functions, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(function())
            t.append(time.perf_counter() - start)
    return [float(np.median(t[1:])) for t in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--input_px", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, batch {args.batch_size}, {args.input_px} px; ms")
    print(f"{'shape':<16}{'stride':>7}{'ours':>9}{'flax':>9}{'ratio':>7}   gradient: ours, flax")
    totals = np.zeros(4)
    for halved, channels, stride in POOLS:
        px = -(-args.input_px // 2**halved)
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(args.batch_size, px, px, channels)).clip(0), jnp.float32)
        pools = [functools.partial(p, stride=stride) for p in (ops.max_pool, flax_pool)]
        g = jnp.asarray(rng.normal(size=pools[1](x).shape), jnp.float32)
        forward = [functools.partial(jax.jit(p), x) for p in pools]
        backward = [functools.partial(jax.jit(functools.partial(gradient, p)), x, g) for p in pools]
        times = np.asarray(seconds(forward + backward, args.rounds)) * 1e3
        totals += times
        print_row(f"{px}x{px}x{channels}", stride, times)
    print_row("all", "", totals)


def print_row(name: str, stride: int | str, times: np.ndarray) -> None:
    ours, flax, ours_grad, flax_grad = times
    print(
        f"{name:<16}{stride:>7}{ours:>9.1f}{flax:>9.1f}{flax / ours:>6.1f}x"
        f"{ours_grad:>12.1f}{flax_grad:>9.1f}{flax_grad / ours_grad:>6.1f}x"
    )


if __name__ == "__main__":
    main()
