"""Networks at inference: views of images -> probabilities, averaged over crops and networks."""

import collections
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from flax import traverse_util
from ml_collections import ConfigDict

from inception import UserError, pixels
from inception.data import pipeline
from inception.model import GoogLeNet
from inception.runtime import checkpoint, compiling, prefetch, processes, sharding, transfer


def load(
    workdir: str, config: ConfigDict | None = None, *, best: bool = False
) -> checkpoint.Trained:
    """As `checkpoint.load`, and sure to be the weights of the network that config.model names.

    Args:
        config: in place of the folder's own.

    Raises:
        UserError: also where weights or classes.txt are another network's.
    """
    trained = checkpoint.load(workdir, best=best)
    knobs, px = ((config or trained.config)[key] for key in ("model", "input_px"))
    try:
        model = GoogLeNet(**knobs)
    except TypeError as error:  # a knob that is none
        raise UserError(f"{workdir}/config.json: {error}") from error
    images = jax.ShapeDtypeStruct((1, px, px, 3), jnp.float32)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    network, weights = map(traverse_util.flatten_dict, (shapes, trained.variables))
    weights = {path: a for path, a in weights.items() if not path[1].startswith("head_")}
    odd = transfer.misfits(weights, network) + transfer.misfits(network, weights)
    if odd:
        first = min(odd, key=lambda path: path[0] != "params")
        shapes = [
            list(tree[first].shape) if first in tree else "none" for tree in (weights, network)
        ]
        raise UserError(
            f"{workdir}: {'/'.join(first)} has shape {shapes[0]} in its weights, and {shapes[1]} "
            "in the network of config.model: undo what was changed in its config.json, or by flags"
        )
    if len(trained.classes) != model.classes:
        raise UserError(
            f"{workdir}/classes.txt names {len(trained.classes)} classes, and the network has "
            f"{model.classes}: restore it"
        )
    return trained


def eval_batch_size(most: int, rows: int, mesh: Any) -> int:
    """config.run.eval_batch_size, or fewer where so many rows are all; the devices divide it.

    Fewer are a power of two: each size is a program to compile.
    """
    if most < 1:
        raise UserError(f"config.run.eval_batch_size={most}: must be at least 1")
    devices = mesh.devices.size
    return -(-min(most, 1 << max(0, rows - 1).bit_length()) // devices) * devices


def eval_step(
    variables: Any, batch: dict[str, jax.Array], *, model: nn.Module, normalization: str
) -> dict[str, jax.Array]:
    """One batch -> its 'logits', float32 [b, classes], and what else is in it by row."""
    images = pixels.normalize(batch["image"], method=normalization)
    logits: Any = model.apply(variables, images, train=False)
    return {"logits": logits["main"], **{k: v for k, v in batch.items() if k != "image"}}


class Probabilities(NamedTuple):
    """Of some images: their positions and labels, int32 [n]; values: float64 [networks, crop
    counts, n, classes], the mean of softmax over each number of crops."""

    images: np.ndarray
    labels: np.ndarray
    values: np.ndarray


class Networks:
    """One network or several, compiled for a mesh; each sees the same views, normalised its way."""

    def __init__(self, configs: Sequence[ConfigDict], mesh: Any):
        self._mesh = mesh
        compiled: dict[str, Any] = {}  # those that are alike share one program
        for config in configs:
            key = f"{config.model}{config.data.normalization}"
            step = functools.partial(
                eval_step,
                model=GoogLeNet(**config.model),
                normalization=config.data.normalization,
            )
            compiled.setdefault(key, compiling.CompiledStep(step, mesh, training=False))
        self._steps = [compiled[f"{c.model}{c.data.normalization}"] for c in configs]

    def outputs(
        self,
        variables: Sequence[Any],
        batches: Iterable[pipeline.Batch],
        *,
        stop: processes.Stop | None = None,
    ) -> Iterator[list[dict[str, np.ndarray]]]:
        """For each batch what `eval_step` gives, by network; the next one computes meanwhile.

        Args:
            batches: this process's rows; what comes out is of all processes' rows, in each.
            stop: is asked before every batch, and while waiting.

        Raises:
            UserError: outputs that are not finite.
        """
        poll = stop.waiting if stop else prefetch.noop
        waiting: collections.deque[list[dict[str, jax.Array]]] = collections.deque()
        with prefetch.Prefetcher(
            batches, lambda batch: sharding.shard_batch(batch, self._mesh), poll=poll
        ) as ahead:
            for rows in ahead:
                if stop:
                    stop.check()
                waiting.append(
                    [s(v, rows, poll=poll) for s, v in zip(self._steps, variables, strict=True)]
                )
                if len(waiting) > 1:
                    yield _finite(jax.device_get(waiting.popleft()))
        for outputs in waiting:
            yield _finite(jax.device_get(outputs))

    def probabilities(
        self,
        variables: Sequence[Any],
        batches: Iterable[pipeline.Batch],
        *,
        crops: Sequence[int],
        stop: processes.Stop | None = None,
    ) -> Iterator[Probabilities]:
        """Averages over the crops of each image, as `pipeline.evaluation_batches` lays them out.

        Only the sums of the image at hand are kept from one batch to the next.

        Raises:
            RuntimeError: an image without all of its crops.
            UserError: outputs that are not finite.
        """
        open_image: tuple[int, np.ndarray, np.ndarray] | None = None  # index, counts, sums
        for outputs in self.outputs(variables, batches, stop=stop):
            rows = outputs[0]
            real = rows["index"] >= 0  # -1 is padding
            if not real.any():
                continue
            index, label, weights = (rows[k][real] for k in ("index", "label", "crop_weights"))
            starts = np.flatnonzero(np.diff(index, prepend=-1))
            softmax = [scipy.special.softmax(o["logits"][real].astype(float), -1) for o in outputs]
            sums = np.stack(
                [
                    [np.add.reduceat(p * m[:, None], starts) for m in weights.astype(float).T]
                    for p in softmax
                ]
            )  # [networks, crop counts, images, classes]
            counts = np.add.reduceat(weights, starts)  # [images, crop counts]
            images, labels = index[starts], label[starts]
            if open_image:
                if open_image[0] != images[0]:
                    raise RuntimeError(
                        f"image {open_image[0]} lacks some of its {max(crops)} crops"
                    )
                counts[0] += open_image[1]
                sums[:, :, 0] += open_image[2]
            whole = (counts == np.asarray(crops)).all(1)
            if not whole[:-1].all():
                raise RuntimeError(f"image {images[~whole][0]} has not its {max(crops)} crops")
            open_image = None if whole[-1] else (images[-1], counts[-1], sums[:, :, -1])
            if whole.any():
                means = sums[:, :, whole] / np.asarray(crops)[None, :, None, None]
                yield Probabilities(images[whole], labels[whole], means)
        if open_image:
            raise RuntimeError(f"image {open_image[0]} lacks some of its {max(crops)} crops")


def _finite(outputs: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    if not all(np.isfinite(o["logits"]).all() for o in outputs):
        raise UserError(
            "the network's outputs are not finite. Lower config.optim.learning_rate, or give it a "
            "longer config.optim.warmup_epochs, and start in a new --workdir; what was saved "
            "before is kept"
        )
    return outputs
