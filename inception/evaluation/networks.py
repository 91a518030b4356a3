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
from inception.runtime import checkpoint, compiling, prefetch, processes, sharding


def load(
    workdir: str, config: ConfigDict | None = None, *, best: bool = False
) -> checkpoint.Trained:
    """As `checkpoint.load`, and sure to be the weights of the network that config.model describes.

    Args:
        config: in place of the folder's own.

    Raises:
        UserError: also where weights or classes.txt are another network's.
    """
    from inception.runtime.transfer import misfits  # a run that starts from noise needs it not

    trained = checkpoint.load(workdir, best=best)
    knobs, px = ((config or trained.config)[key] for key in ("model", "input_px"))
    try:
        model = GoogLeNet(**knobs)
    except TypeError as error:  # an unknown knob
        raise UserError(f"{workdir}/config.json: {error}") from error
    images = jax.ShapeDtypeStruct((1, px, px, 3), jnp.float32)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    network, weights = map(traverse_util.flatten_dict, (shapes, trained.variables))
    weights = {path: a for path, a in weights.items() if not path[1].startswith("head_")}
    if unfit := misfits(weights, network) + misfits(network, weights):
        first = min(unfit, key=lambda path: path[0] != "params")
        found, wanted = (
            list(tree[first].shape) if first in tree else "none" for tree in (weights, network)
        )
        raise UserError(
            f"{workdir}: {'/'.join(first)} has shape {found} in its weights, and {wanted} in the "
            "network of `model`: undo what was changed in its config.json, or by flags"
        )
    if len(trained.classes) != model.classes:
        raise UserError(
            f"{workdir}/classes.txt names {len(trained.classes)} classes, and the network has "
            f"{model.classes}: restore it"
        )
    return trained


def eval_batch_size(most: int, rows: int, mesh: Any) -> int:
    """The global batch for `rows` rows in all, at most about `most`.

    The power of two at or above `rows`, since each size is a program to compile; capped at `most`,
    then rounded up to a multiple of the devices.
    """
    devices = mesh.devices.size
    return -(-min(most, 1 << max(0, rows - 1).bit_length()) // devices) * devices


def eval_step(
    variables: Any, batch: dict[str, jax.Array], *, model: nn.Module, normalization: str
) -> dict[str, jax.Array]:
    """One batch -> its 'logits', float32 [b, classes], and its other arrays but the images."""
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
        compiled: dict[str, Any] = {}  # equal networks share one program
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
        """For each batch what `eval_step` returns, by network; the next one computes meanwhile.

        Args:
            batches: this process's rows; the outputs are of all processes' rows, in each.
            stop: checked before every batch, and while waiting.

        Raises:
            UserError: outputs that are not finite.
        """
        poll = stop.poll if stop else prefetch.noop
        computing: collections.deque[list[dict[str, jax.Array]]] = collections.deque()
        with prefetch.Prefetcher(
            batches, lambda batch: sharding.shard_batch(batch, self._mesh), poll=poll
        ) as prefetched:
            for rows in prefetched:
                if stop:
                    stop.check()
                computing.append(
                    [s(v, rows, poll=poll) for s, v in zip(self._steps, variables, strict=True)]
                )
                if len(computing) > 1:
                    yield _finite(jax.device_get(computing.popleft()))
        for outputs in computing:
            yield _finite(jax.device_get(outputs))

    def probabilities(
        self,
        variables: Sequence[Any],
        batches: Iterable[pipeline.Batch],
        *,
        crops: Sequence[int],
        stop: processes.Stop | None = None,
    ) -> Iterator[Probabilities]:
        """Averages over the crops of each image, as `pipeline.evaluation_batches` orders them.

        Raises:
            RuntimeError: an image without all of its crops.
            UserError: outputs that are not finite.
        """
        missing = f"lacks some of its {max(crops)} crops"
        begun = None  # the last image of a batch, whose other crops are in the next
        for outputs in self.outputs(variables, batches, stop=stop):
            if not (outputs[0]["index"] >= 0).any():
                continue
            sums = _sum_crops(outputs)
            if begun:
                if begun.images[0] != sums.images[0]:
                    raise RuntimeError(f"image {begun.images[0]} {missing}")
                sums.counts[0] += begun.counts[0]
                sums.values[:, :, 0] += begun.values[:, :, 0]
            whole = (sums.counts == np.asarray(crops)).all(1)
            if not whole[:-1].all():
                raise RuntimeError(f"image {sums.images[~whole][0]} {missing}")
            begun = None if whole[-1] else sums.of(slice(-1, None))
            if whole.any():
                done = sums.of(whole)
                means = done.values / np.asarray(crops)[None, :, None, None]
                yield Probabilities(done.images, done.labels, means)
        if begun:
            raise RuntimeError(f"image {begun.images[0]} {missing}")


class _CropSums(NamedTuple):
    """Of images: counts of their crops so far [n, crop counts], and sums of softmax over them
    [networks, crop counts, n, classes]."""

    images: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    values: np.ndarray

    def of(self, which: Any) -> "_CropSums":
        return _CropSums(
            self.images[which], self.labels[which], self.counts[which], self.values[:, :, which]
        )


def _sum_crops(outputs: list[dict[str, np.ndarray]]) -> _CropSums:
    """Sums the rows of each image in a batch; rows of one image are adjacent."""
    real = outputs[0]["index"] >= 0  # -1 is padding
    index, labels, weights = (outputs[0][k][real] for k in ("index", "label", "crop_weights"))
    starts = np.flatnonzero(np.diff(index, prepend=-1))  # the first row of each image
    softmax = [scipy.special.softmax(o["logits"][real].astype(float), -1) for o in outputs]
    sums = [
        [np.add.reduceat(p * w[:, None], starts) for w in weights.astype(float).T] for p in softmax
    ]
    counts = np.add.reduceat(weights, starts)
    return _CropSums(index[starts], labels[starts], counts, np.stack(sums))


def _finite(outputs: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    if not all(np.isfinite(o["logits"]).all() for o in outputs):
        raise UserError(
            "the network's outputs are not finite. Lower `learning_rate`, or give it a longer "
            "`warmup_epochs`, and start in a new `workdir`; what was saved before is kept"
        )
    return outputs
