"""The two sides of step.py, ours and PyTorch's, and the process that runs one of them."""

import argparse
import ctypes
import functools
import json
import os
import pathlib
import sys
import time
import zlib
from typing import Any

import numpy as np

RATE, MOMENTUM, DECAY = 1e-6, 0.9, 2e-4  # so small a rate keeps repeated steps from diverging


def draw_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """{path: weights}, a function of path and shape: He et al.'s kernels, and small biases.

    The classifiers' are a hundredth of that, so that the loss is near that of chance.
    """
    weights = {}
    for path, shape in shapes.items():
        rng = np.random.RandomState(zlib.crc32(path.encode()))
        std = 0.1 if len(shape) == 1 else (2 / np.prod(shape[:-1])) ** 0.5
        std /= 100 if "classifier" in path else 1
        weights[path] = rng.normal(0, std, shape).astype(np.float32)
    return weights


def draw_batch(batch_size: int, px: int) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [b, px, px, 3], labels int [b])."""
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (batch_size, px, px, 3)).astype(np.uint8)
    return images, rng.randint(0, 1000, batch_size)


class Ours:
    """Our side: the programs of `launch.py train` and `eval`."""

    def __init__(
        self,
        what: str,
        dtype: str,
        batch_size: int,
        px: int,
        *,
        dropout: bool = True,
        mesh: Any = None,
    ):
        import jax
        import optax
        from flax import traverse_util

        from experiments import base
        from inception import optim, step, train
        from inception.evaluation.networks import eval_step
        from inception.model import GoogLeNet
        from inception.runtime import compiling, sharding

        self.jax = jax
        config = base.get_config()
        config.model.dtype = dtype
        config.data.colors = dict.fromkeys(config.data.colors, 0.0)
        config.data.normalization = "mean"  # the paper's, with inputs on which LRN has an effect
        config.optim.polyak_decay = 0.0
        if not dropout:
            config.model.dropout = config.model.head_dropout = 0.0
        self.model = GoogLeNet(**config.model)
        mesh = mesh or sharding.make_mesh()
        dummy = jax.ShapeDtypeStruct((1, px, px, 3), np.float32)
        key = jax.random.key(0)
        keys = {"params": key, "dropout": key}
        init = lambda: self.model.init(keys, np.zeros(dummy.shape, np.float32), True)  # noqa: E731
        shapes = traverse_util.flatten_dict(jax.eval_shape(init)["params"], sep="/")
        self.weights = draw_weights({path: leaf.shape for path, leaf in shapes.items()})
        params = sharding.replicate(traverse_util.unflatten_dict(self.weights, sep="/"), mesh)
        images, labels = draw_batch(batch_size, px)
        batch = {"image": images, "label": labels.astype(np.int32)}
        self.batch = sharding.shard_batch(batch, mesh)
        if what == "train":
            tx = optim.sgd(optax.constant_schedule(RATE), momentum=MOMENTUM, weight_decay=DECAY)
            state = step.first_state({"params": params}, tx)
            self.state = sharding.replicate(state, mesh)
            training = train.build(config, mesh, steps_per_epoch=1.0, total_steps=10**6)
            function = functools.partial(training.step.function, tx=tx)
            self.function = compiling.CompiledStep(function, mesh, training=True)
        else:
            self.state = {"params": params}
            forward = lambda variables, batch: eval_step(  # noqa: E731
                variables, batch, model=self.model, normalization=config.data.normalization
            )
            self.function = compiling.CompiledStep(forward, mesh, training=False)
        self.what = what
        self.device = jax.devices()[0].device_kind
        self.platform = jax.devices()[0].platform

    def compile(self) -> None:
        self.function = self.function.lower(self.state, self.batch).compile()

    def steps(self, count: int) -> None:
        for _ in range(count):
            out = self.function(self.state, self.batch)
            if self.what == "train":
                self.state = out[0]
        self.jax.block_until_ready(out)

    def stepped(self) -> dict[str, np.ndarray]:
        """The loss of one step, and each parameter's velocity, 'gradient + decay * weight'."""
        import optax
        from flax import traverse_util

        self.state, metrics = self.function(self.state, self.batch)
        trace = optax.tree_utils.tree_get(self.state.opt_state, "trace")
        velocity = traverse_util.flatten_dict(trace, sep="/")
        found = {f"velocity/{path}": np.asarray(values) for path, values in velocity.items()}
        return {"loss": np.asarray(metrics["loss"]), **found}

    def computed(self) -> dict[str, np.ndarray]:
        """The values of `stepped`, the logits, and the multiply-adds per image."""
        from inception import pixels
        from inception.tools import audit

        images = pixels.normalize(self.batch["image"], method="mean")
        apply = self.jax.jit(self.model.apply, static_argnames="train")
        variables = {"params": self.state.params}
        key = {"dropout": self.jax.random.key(0)}
        logits = apply(variables, images, train=True, rngs=key)
        found = {f"logits/{head}": np.asarray(values) for head, values in logits.items()}
        found["logits/eval"] = np.asarray(apply(variables, images, train=False)["main"])
        found |= self.stepped()
        macs = audit.layer_macs(*audit.trace(self.model, (1, *images.shape[1:])))
        found["macs"] = np.asarray(sum(macs.values()))
        return found

    def peak_bytes(self) -> int | None:
        stats = self.jax.devices()[0].memory_stats()
        return stats["peak_bytes_in_use"] if stats else None

    def product(self, n: int) -> Any:
        x = self.jax.numpy.ones((n, n))
        multiply = self.jax.jit(lambda x: x @ x)
        return lambda: multiply(x).block_until_ready()


class Torch:
    """PyTorch's sides: the same network, or torchvision's own."""

    def __init__(
        self,
        what: str,
        dtype: str,
        batch_size: int,
        px: int,
        *,
        side: str,
        weights: dict[str, np.ndarray],
        dropout: bool = True,
    ):
        import googlenet_torch as plain
        import torch

        self.torch, self.plain = torch, plain
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.platform = "gpu" if torch.cuda.is_available() else "cpu"
        place = torch.device("cuda" if self.platform == "gpu" else "cpu")
        self.device = torch.cuda.get_device_name() if self.platform == "gpu" else "cpu"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as JAX
        torch.backends.cudnn.benchmark = True
        if side == "torchvision":
            self.module: Any = plain.Torchvision()
        else:
            rates = {} if dropout else {"dropout": 0.0, "head_dropout": 0.0}
            self.module = plain.GoogLeNet(px, **rates)
            self.module.load_state_dict(plain.to_torch(weights))
        self.module = self.module.to(place, memory_format=torch.channels_last)
        images, labels = draw_batch(batch_size, px)
        self.images, self.labels = (torch.from_numpy(v).to(place) for v in (images, labels))
        self.what, self.place, self.dtype = what, place, dtype
        self.paths = list(weights)
        self.module.train(what == "train")
        self.optimizer = torch.optim.SGD(
            self.module.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, fused=True
        )
        forward = self.loss if what == "train" else self.module
        self.forward = forward if side == "eager" else torch.compile(forward)

    def compile(self) -> None:
        """Does nothing: torch.compile compiles in the first step."""

    def loss(self, images: Any, labels: Any) -> Any:
        return self.plain.loss(self.module(images), labels)

    def autocast(self) -> Any:
        half = self.dtype == "bfloat16"
        return self.torch.autocast(self.place.type, dtype=self.torch.bfloat16, enabled=half)

    def steps(self, count: int) -> None:
        for _ in range(count):
            if self.what == "train":
                self.optimizer.zero_grad(set_to_none=True)
                with self.autocast():
                    loss = self.forward(self.images, self.labels)
                loss.backward()
                self.optimizer.step()
            else:
                with self.torch.inference_mode(), self.autocast():
                    self.forward(self.images)
        if self.platform == "gpu":
            self.torch.cuda.synchronize()

    def computed(self) -> dict[str, np.ndarray]:
        """The same values as Ours.computed."""
        from torch.utils.flop_counter import FlopCounterMode

        with self.torch.no_grad():
            with FlopCounterMode(display=False) as counter:
                logits = self.module(self.images)
            found = {f"logits/{head}": values.cpu().numpy() for head, values in logits.items()}
            found["loss"] = self.plain.loss(logits, self.labels).cpu().numpy()
            self.module.eval()
            found["logits/eval"] = self.module(self.images)["main"].cpu().numpy()
            self.module.train()
        self.steps(1)
        velocity = {
            name: self.optimizer.state[p]["momentum_buffer"]
            for name, p in self.module.named_parameters()
        }
        ours = self.plain.to_ours(velocity, self.paths)
        found |= {f"velocity/{path}": values for path, values in ours.items()}
        flops = counter.get_total_flops()
        found["macs"] = np.asarray(flops // 2 // len(self.labels))
        return found

    def peak_bytes(self) -> int | None:
        return self.torch.cuda.max_memory_allocated() if self.platform == "gpu" else None

    def product(self, n: int) -> Any:
        x = self.torch.ones((n, n), device=self.place)

        def multiply() -> None:
            x @ x
            if self.platform == "gpu":
                self.torch.cuda.synchronize()

        return multiply


def resident(field: str) -> int:
    """Bytes of this process: VmRSS, now, or VmHWM, the peak since its last reset."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def child(args: argparse.Namespace) -> None:
    """Builds a side, then follows orders on stdin, one JSON object a line, and answers likewise."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # sends the output of libraries to stderr

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    if args.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    if args.child == "ours":
        import jax  # noqa: F401  so that the import's memory is not counted
    else:
        import torch  # noqa: F401
    imported = resident("VmRSS")
    work = args.what, args.dtypes, int(args.batch_sizes), args.input_px
    dropout = {"dropout": not args.computed}
    if args.child == "ours":
        side: Any = Ours(*work, **dropout)
        if not pathlib.Path(args.weights).exists():
            np.savez(args.weights, **side.weights)
    else:
        weights = dict(np.load(args.weights))
        side = Torch(*work, side=args.child, weights=weights, **dropout)
    if args.computed:
        np.savez(args.computed, **side.computed())
        return
    start = time.perf_counter()
    side.compile()
    compiled = time.perf_counter() - start
    side.steps(1)
    first = time.perf_counter() - start
    start = time.perf_counter()
    side.steps(1)
    answer(
        device=side.device,
        platform=side.platform,
        compile_seconds=compiled,
        first_step_seconds=first,
        seconds=time.perf_counter() - start,
    )
    for line in sys.stdin:
        order = json.loads(line)
        if "steps" in order:
            wall, processor = time.perf_counter(), time.process_time()
            side.steps(order["steps"])
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            answer(seconds=[wall / order["steps"], processor / order["steps"]])
        elif "product" in order:
            multiply = side.product(order["product"])
            times = []
            for _ in range(8):
                start = time.perf_counter()
                multiply()
                times.append(time.perf_counter() - start)
            answer(flops_per_second=2 * order["product"] ** 3 / min(times))
        elif side.peak_bytes() is None:  # on CPUs: memory of the host
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # frees what compilation left
            pathlib.Path("/proc/self/clear_refs").write_text("5")
            side.steps(1)
            answer(peak=resident("VmHWM"), imported=imported)
        else:
            answer(peak=side.peak_bytes(), imported=0)
