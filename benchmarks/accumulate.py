"""Memory and time of a training step with micro-batches, remat, and our convolution in a loop.

python benchmarks/accumulate.py [--batch_size=32] [--input_px=224] [--norm=lrn]
"""

import argparse
import functools
import time

import jax
import numpy as np
import optax
from jax import lax

from inception import ops, optim
from inception.model import GoogLeNet
from inception.runtime import compiling, sharding
from inception.step import create_state, train_step

CASES = (  # (accumulate, remat, whose convolution)
    (1, False, "ours"), (4, False, "ours"), (1, True, "ours"), (4, True, "ours"),
    (1, False, "jax's"), (4, False, "jax's"),
)  # fmt: skip
CONVOLUTIONS = {"ours": ops.convolution, "jax's": lax.conv_general_dilated}
COLORS = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.0, "lighting": 0.1}


def measure(
    accumulate: int, remat: bool, args: argparse.Namespace
) -> tuple[float, float, float, float]:
    """Seconds to compile, a step's temporary MB, and its median wall and processor seconds."""
    mesh = sharding.make_mesh()
    model = GoogLeNet(norm=args.norm, remat=remat)
    tx = optim.sgd(optax.constant_schedule(0.001), momentum=0.9)
    init = functools.partial(create_state, model, tx, seed=0, input_px=args.input_px)
    state = compiling.compute_replicated(init, mesh)
    step = functools.partial(
        train_step, model=model, tx=tx, seed=0, data_seed=0, colors=COLORS, mixing={},
        normalization="unit", loss={"head_weight": 0.3, "label_smoothing": 0.0},
        accumulate=accumulate,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    shape = (args.batch_size, args.input_px, args.input_px, 3)
    images = rng.integers(0, 256, shape, np.uint8)
    labels = rng.integers(0, 1000, args.batch_size).astype(np.int32)
    batch = sharding.shard_batch({"image": images, "label": labels}, mesh)
    start = time.perf_counter()
    compiled = compiling.CompiledStep(step, mesh, training=True).lower(state, batch).compile()
    compilation = time.perf_counter() - start
    times = []
    for _ in range(args.rounds + 1):
        wall, processor = time.perf_counter(), time.process_time()
        state, _ = jax.block_until_ready(compiled(state, batch))
        times.append((time.perf_counter() - wall, time.process_time() - processor))
    megabytes = compiled.memory_analysis().temp_size_in_bytes / 1e6
    return compilation, megabytes, *np.median(times[1:], axis=0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--input_px", type=int, default=224)
    parser.add_argument("--norm", default="lrn")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(
        f"{jax.device_count()} {jax.devices()[0].device_kind}, batch {args.batch_size}, "
        f"{args.input_px} px, norm {args.norm}"
    )
    print("accumulate  remat  convolution  compiled, s  memory, MB  step, s  processor, s")
    for accumulate, remat, convolution in CASES:
        ops.convolution = CONVOLUTIONS[convolution]
        compilation, megabytes, wall, processor = measure(accumulate, remat, args)
        print(
            f"{accumulate:>10}{remat!s:>7}{convolution:>13}{compilation:>13.1f}{megabytes:>12.0f}"
            f"{wall:>9.2f}{processor:>14.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
