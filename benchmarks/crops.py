"""The cost of evaluation besides the network: 1, 10 and 144 crops, with one network and two.

    python benchmarks/crops.py

Evaluates JPEGs of 500x375 px with the whole network, whose random weights do not change the speed.
In the same process, in turns, runs as many batches through the network alone. Then prints the peak
memory of processes that evaluate few and many images.
"""

import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import optax
from PIL import Image

from inception.config import ROOT, load_config
from inception.evaluation.evaluator import Evaluator
from inception.model import GoogLeNet
from inception.runtime import sharding
from inception.step import create_state

ROUNDS = 2
BATCH = 32
# (networks, crops, images), so that all rows take about equally long
CASES = ((1, 1, 144), (1, 10, 16), (1, 144, 2), (2, 144, 2))


def write_photos(folder: pathlib.Path, count: int) -> None:
    """Smooth noise, as JPEGs of about 60 kB."""
    rng = np.random.default_rng(0)
    (folder / "val" / "class 0").mkdir(parents=True)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (60, 80, 3)).astype(np.uint8))
        photo = coarse.resize((500, 375), Image.Resampling.BICUBIC)
        photo.save(folder / "val" / "class 0" / f"{i:05d}.jpg", quality=92)


def config_of(folder: pathlib.Path):
    overrides = {"data.source": "folder", "data.path": folder, "data.eval_split": "val"}
    overrides |= {"run.eval_batch_size": BATCH, "model.heads": False}
    return load_config(
        str(ROOT / "experiments" / "base.py"),
        [f"--config.{knob}={value}" for knob, value in overrides.items()],
    )


def weights(config):
    model = GoogLeNet(**config.model)
    make = lambda: create_state(  # noqa: E731
        model, optax.identity(), seed=0, input_px=224
    ).raw_variables()
    return jax.jit(make)()


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(root: pathlib.Path) -> None:
    mesh = sharding.make_mesh()
    print("models  crops  images  s an image  crops/s  network alone, crops/s  outside the network")
    for models, crops, count in CASES:
        folder = root / f"{models}-{crops}"
        write_photos(folder, count)
        config = config_of(folder)
        variables = [sharding.replicate(weights(config), mesh)] * models
        evaluator = Evaluator(config, mesh, split="val", crops=(crops,), networks=[config] * models)
        batches = -(-count * crops // BATCH)

        def alone(evaluator=evaluator, variables=variables, batches=batches) -> None:
            for _ in evaluator._networks.outputs(variables, [evaluator._noise] * batches):
                pass

        def whole(evaluator=evaluator, variables=variables) -> None:
            evaluator.table(variables)

        whole()  # compiles
        pairs = [(seconds(whole), seconds(alone)) for _ in range(ROUNDS)]
        total = statistics.median(a for a, _ in pairs)
        network = statistics.median(b for _, b in pairs)
        share = statistics.median(1 - b / a for a, b in pairs)
        n = models * crops * count
        print(
            f"{models:6}{crops:7}{count:8}{total / count:12.3f}{n / total:9.1f}{n / network:24.1f}"
            f"{share:21.1%}",
            flush=True,
        )


def memory(root: pathlib.Path) -> None:
    print("\nimages  crops  peak memory, MB")
    for count, crops in ((8, 10), (64, 10), (2, 144)):
        folder = root / f"memory-{count}-{crops}"
        write_photos(folder, count)
        done = subprocess.run(
            [sys.executable, __file__, str(folder), str(crops)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        print(f"{count:6}{crops:7}{int(done.stdout):17}", flush=True)


def main() -> None:
    if len(sys.argv) == 3:  # a process of `memory`
        config = config_of(pathlib.Path(sys.argv[1]))
        mesh = sharding.make_mesh()
        evaluator = Evaluator(config, mesh, split="val", crops=(int(sys.argv[2]),))
        evaluator(sharding.replicate(weights(config), mesh))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    with tempfile.TemporaryDirectory() as root:
        compare(pathlib.Path(root))
        memory(pathlib.Path(root))


if __name__ == "__main__":
    main()
