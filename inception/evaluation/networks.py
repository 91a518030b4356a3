"""Networks at inference: views of images -> probabilities, averaged over crops and networks."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import scipy.special
from ml_collections import ConfigDict

from inception import UserError, pixels
from inception.data import cropping, pipeline, sources
from inception.model import GoogLeNet
from inception.runtime import compiling, prefetch, processes, sharding


def eval_batch_size(most: int, rows: int, mesh: Any) -> int:
    """The global batch for `rows` rows in all, at most about `most`.

    The power of two at or above `rows`, since each size compiles its own program; capped at `most`,
    then rounded up to a multiple of the devices.
    """
    devices = mesh.devices.size
    return -(-min(most, 1 << max(0, rows - 1).bit_length()) // devices) * devices


def eval_step(
    variables: Any, batch: dict[str, jax.Array], *, model: nn.Module, normalization: str
) -> dict[str, jax.Array]:
    """One batch -> its 'logits', float32 [b, classes], and its arrays except the images."""
    images = pixels.normalize(batch["image"], method=normalization)
    logits: Any = model.apply(variables, images, train=False)
    return {"logits": logits["main"], **{k: v for k, v in batch.items() if k != "image"}}


class Networks:
    """One network or several, compiled for a mesh; all see the same views, each normalised its way.

    Args:
        configs: one for each; the first one determines how images are read and cropped.
    """

    step: Callable[..., Any] = staticmethod(eval_step)

    def __init__(self, configs: Sequence[ConfigDict], mesh: Any):
        @functools.cache  # equal networks share one program
        def compiled(model: GoogLeNet, normalization: str) -> compiling.CompiledStep:
            step = functools.partial(self.step, model=model, normalization=normalization)
            return compiling.CompiledStep(step, mesh, training=False)

        self._config, self._mesh = configs[0], mesh
        self._steps = [compiled(GoogLeNet(**c.model), c.data.normalization) for c in configs]

    def views(self, crops: Iterable[int]) -> cropping.Views:
        """The views of an image for each number of crops."""
        data = self._config.data
        return cropping.Views(tuple(crops), self._config.input_px, data.resize_px, data.resize)

    def batch_size(self, source: sources.Source, views: cropping.Views) -> int:
        """The size of a batch of `batches`, over all processes."""
        rows = len(source) * views.rows
        return eval_batch_size(self._config.run.eval_batch_size, rows, self._mesh)

    def batches(self, source: sources.Source, views: cropping.Views) -> Iterator[pipeline.Batch]:
        """This process's share of all views of the source, by `pipeline.evaluation_batches`."""
        return pipeline.evaluation_batches(
            source,
            views=views,
            batch_size=self.batch_size(source, views),
            classes=self._config.model.classes,
            **{knob: self._config.data[knob] for knob in pipeline.READING},
            workers=self._config.run.workers,
            process=jax.process_index(),
            processes=jax.process_count(),
        )

    def outputs(
        self,
        variables: Sequence[Any],
        batches: Iterable[pipeline.Batch],
        *,
        stop: processes.Stop | None = None,
    ) -> Iterator[list[dict[str, np.ndarray]]]:
        """The results of `eval_step` for each batch, by network, while the next batch computes.

        Args:
            batches: this process's rows; every process receives the outputs of all rows.
            stop: checked before every batch, and while waiting.

        Raises:
            UserError: outputs that are not finite.
        """
        poll = stop.poll if stop else prefetch.noop
        computing: list[dict[str, jax.Array]] = []
        with prefetch.Prefetcher(
            batches, lambda batch: sharding.shard_batch(batch, self._mesh), poll=poll
        ) as prefetched:
            for rows in prefetched:
                if stop:
                    stop.check()
                pairs, done = zip(self._steps, variables, strict=True), computing
                computing = [step(v, rows, poll=poll) for step, v in pairs]
                if done:
                    yield _finite(jax.device_get(done))
        if computing:
            yield _finite(jax.device_get(computing))

    def value(self, outputs: dict[str, np.ndarray], only: Sequence[int]) -> np.ndarray:
        """What `averages` takes of the outputs: the softmax, float64 [b, classes]."""
        logits = outputs["logits"].astype(float)
        if 0 < len(only) < logits.shape[-1]:
            logits[:, np.setdiff1d(np.arange(logits.shape[-1]), only)] = -np.inf
        return scipy.special.softmax(logits, -1)

    def averages(
        self,
        variables: Sequence[Any],
        batches: Iterable[pipeline.Batch],
        *,
        crops: Sequence[int],
        stop: processes.Stop | None = None,
        only: Sequence[int] = (),
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Averages over the crops of each image, in the order of `pipeline.evaluation_batches`.

        Args:
            only: as if the networks had these outputs alone: the others' probability is 0.

        Yields:
            For some images, positions and labels, int32 [n]; [n, networks, crop counts, ...], the
            mean `value` over each number of crops.

        Raises:
            RuntimeError: an image without all of its crops; also as `outputs`.
        """
        each, counts = max(crops), np.asarray(crops)
        missing = f"lacks some of its {each} crops"
        left: list[np.ndarray] = []  # rows of the last image; its other crops are in the next batch
        for outputs in self.outputs(variables, batches, stop=stop):
            real = outputs[0]["index"] >= 0  # -1 is padding
            rows = [outputs[0][key][real] for key in ("index", "label", "crop_weights")]
            values = [self.value(o, only)[real] for o in outputs]
            rows.append(np.stack(values, 1))  # [rows, networks, ...]
            if left:
                rows = [np.concatenate(both) for both in zip(left, rows, strict=True)]
            n = len(rows[0]) // each
            left = [array[n * each :] for array in rows]
            images, labels, weights, p = (
                array[: n * each].reshape(n, each, *array.shape[1:]) for array in rows
            )
            whole = (images == images[:, :1]).all(1) & (weights.sum(1) == counts).all(1)
            if not whole.all():
                raise RuntimeError(f"image {images[~whole][0, 0]} {missing}")
            if n:
                weights = (weights / counts).astype(p.dtype)
                means = np.einsum("nvm...,nvc->nmc...", p, weights)
                yield images[:, 0], labels[:, 0], means
        if left and len(left[0]):
            raise RuntimeError(f"image {left[0][0]} {missing}")


def _finite(outputs: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    if not all(np.isfinite(o["logits"]).all() for o in outputs):
        raise UserError(
            "the network's outputs are not finite. Lower `learning_rate`, or give it a longer "
            "`warmup_epochs`, and start in a new `workdir`; what was saved before is kept"
        )
    return outputs
