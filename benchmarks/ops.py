"""Times this platform's forms of operations against the plain forms, forward and with gradient.

python benchmarks/ops.py [max_pool] [lrn] [convolution] [--batch_size=32] [--input_px=224]

Uses GoogLeNet's shapes; the two forms take turns; prints medians.
"""

import argparse
import functools
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from inception import kernels, ops
from inception.model import CONV1, CONV2, CONV2_REDUCE, TABLE_1

POOLS = (  # (times halved, channels, stride): every max pool of the network
    (1, 64, 2), (2, 192, 2), (3, 192, 1), (3, 256, 1), (3, 480, 2), (4, 480, 1), (4, 512, 1),
    (4, 512, 1), (4, 512, 1), (4, 528, 1), (4, 832, 2), (5, 832, 1), (5, 832, 1),
)  # fmt: skip
HALVED = {"3": 3, "4": 4, "5": 5}  # by the first letter of a module's name

Case = tuple[str, Callable, list[tuple[int, ...]]]  # name, operation, shapes of its inputs


def max_pools(px: Callable[[int], int], batch_size: int) -> Iterator[Case]:
    for halved, channels, stride in POOLS:
        side = px(halved)
        yield (
            f"{side}x{side}x{channels}/{stride}",
            functools.partial(ops.max_pool, stride=stride),
            [(batch_size, side, side, channels)],
        )


def lrns(px: Callable[[int], int], batch_size: int) -> Iterator[Case]:
    side = px(2)
    for channels in (CONV1, CONV2):
        shapes = [(batch_size, side, side, channels)]
        yield f"{side}x{side}x{channels}", ops.local_response_normalization, shapes


def convolutions(px: Callable[[int], int], batch_size: int) -> Iterator[Case]:
    """Every convolution of the trunk."""
    rows = [(0, 3, CONV1, 7, 2), (2, CONV1, CONV2_REDUCE, 1, 1), (2, CONV2_REDUCE, CONV2, 3, 1)]
    channels = CONV2
    for name, f in TABLE_1.items():
        halved = HALVED[name[0]]
        reduced = (f.conv1x1, f.reduce3x3, f.reduce5x5, f.pool_proj)
        rows += [(halved, channels, filters, 1, 1) for filters in reduced]
        rows += [(halved, f.reduce3x3, f.conv3x3, 3, 1), (halved, f.reduce5x5, f.conv5x5, 5, 1)]
        channels = f.conv1x1 + f.conv3x3 + f.conv5x5 + f.pool_proj
    for halved, c, filters, kernel_px, stride in rows:
        side, pad = px(halved), kernel_px // 2
        yield (
            f"{side}x{side}x{c} {kernel_px}x{kernel_px}/{stride} {filters}",
            functools.partial(
                ops.convolution,
                window_strides=(stride, stride),
                padding=((pad, pad), (pad, pad)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            ),
            [(batch_size, side, side, c), (kernel_px, kernel_px, c, filters)],
        )


OPERATIONS = {"max_pool": max_pools, "lrn": lrns, "convolution": convolutions}


def with_gradient(function: Callable, g: jax.Array, *inputs: jax.Array) -> tuple[jax.Array, ...]:
    return jax.vjp(function, *inputs)[1](g)


def seconds(functions: list[Callable], rounds: int) -> list[float]:
    """The median seconds of each function; the functions take turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds + 1):
        for function, t in zip(functions, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(function())
            t.append(time.perf_counter() - start)
    return [float(np.median(t[1:])) for t in times]


def print_row(name: str, times: np.ndarray) -> None:
    own, plain, own_grad, plain_grad = times
    print(
        f"{name:<26}{own:>9.1f}{plain:>9.1f}{plain / own:>6.1f}x"
        f"{own_grad:>12.1f}{plain_grad:>9.1f}{plain_grad / own_grad:>6.1f}x",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("operations", nargs="*", metavar="OPERATION", help=", ".join(OPERATIONS))
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--input_px", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, batch {args.batch_size}, {args.input_px} px; ms")
    print(f"{'':<26}{'own':>9}{'plain':>9}{'ratio':>7}   gradient: own, plain")
    for name in args.operations or OPERATIONS:
        totals = np.zeros(4)
        cases = OPERATIONS[name](lambda halved: -(-args.input_px // 2**halved), args.batch_size)
        for case, operation, shapes in cases:
            rng = np.random.default_rng(0)
            # Half of the values are 0, as after a ReLU.
            inputs = [jnp.asarray(rng.normal(size=s).clip(0), jnp.float32) for s in shapes]
            g = jnp.asarray(rng.normal(size=jax.eval_shape(operation, *inputs).shape), jnp.float32)
            pair = [kernels.on(platform)(operation) for platform in (jax.default_backend(), "any")]
            forward = [functools.partial(jax.jit(f), *inputs) for f in pair]
            both = [
                functools.partial(jax.jit(functools.partial(with_gradient, f)), g, *inputs)
                for f in pair
            ]
            times = np.asarray(seconds(forward + both, args.rounds)) * 1e3
            totals += times
            print_row(case, times)
        print_row(f"{name}, all", totals)


if __name__ == "__main__":
    main()
