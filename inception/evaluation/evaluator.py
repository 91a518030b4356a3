"""The results of networks on a split, in which every image counts exactly once."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from inception.data import pipeline, progress
from inception.evaluation.networks import Networks
from inception.runtime import processes

TOP = 5


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The results for each image of a split, in the split's order; averages are computed from them.

    labels: int32 [n]; top: int32 [n, 5], the likeliest classes, best first (fewer if the network
    has fewer); probabilities: float32 [n, 5], those of `top`; losses: float32 [n], -log p(label);
    crops, models: how many were averaged; alternatives: further right labels, by index.
    """

    labels: np.ndarray
    top: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray
    crops: int = 1
    models: int = 1
    alternatives: Mapping[int, Sequence[int]] = dataclasses.field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.labels)

    def correct(self, k: int) -> np.ndarray:
        """Whether a right label is among the first k, bool [n]."""
        right = (self.top[:, :k] == self.labels[:, None]).any(1)
        for i, others in self.alternatives.items():
            right[i] |= np.isin(self.top[i, :k], others).any()
        return right

    def accuracy(self, k: int) -> float:
        """Share of the images whose label is among the first k, 0-1."""
        return float(self.correct(k).mean())

    def class_accuracy(self) -> float:
        """The mean over the classes with images of each class's top-1 accuracy, 0-1."""
        counts = np.bincount(self.labels)
        right = np.bincount(self.labels, weights=self.correct(1))
        return float((right[counts > 0] / counts[counts > 0]).mean())

    def metrics(self) -> dict[str, float | int]:
        """{'loss', 'top1', 'top5': 0-1, 'count': images}."""
        return {
            "loss": float(self.losses.sum(dtype=np.float64)) / self.count,
            "top1": self.accuracy(1),
            "top5": self.accuracy(TOP),
            "count": self.count,
        }

    def result(self) -> dict[str, float | int]:
        """What the command line reports; errors in percent."""
        return {
            "top1_error": 100 * (1 - self.accuracy(1)),
            "top5_error": 100 * (1 - self.accuracy(TOP)),
            "class_accuracy": 100 * self.class_accuracy(),
            "count": self.count,
            "crops": self.crops,
            "models": self.models,
        }


class Evaluator:
    """Variables -> Evaluation, over every example of one split exactly once.

    Args:
        config: describes the data and the network.
        crops: some of 1, 10, 144; one pass serves all.
        networks: the configs of several networks that see the same images, `config` first.
        classes: the classes of the networks' outputs, if the set has fewer.
        outputs: 'all', or 'present': as if the networks had those of the set's classes alone.
    """

    def __init__(
        self,
        config: ConfigDict,
        mesh: Any,
        *,
        split: str,
        crops: Sequence[int] = (1,),
        networks: Sequence[ConfigDict] = (),
        classes: tuple[str, ...] = (),
        outputs: str = "all",
    ):
        self.split = split
        self.source = pipeline.open_split(config, split)
        if classes and classes != self.source.classes:
            from inception.data.classes import as_classes

            self.source = as_classes(self.source, classes, split)
        self.outputs = list(range(len(self.source.classes)))  # those that count
        if outputs == "present":
            from inception.data.classes import present

            self.outputs = present(self.source)
        self._networks = Networks(networks or [config], mesh)
        self._views = self._networks.views(sorted(set(crops)))
        self._batches = functools.partial(self._networks.batches, self.source, self._views)
        rows = self._networks.batch_size(self.source, self._views) // jax.process_count()
        shape = (rows, config.input_px, config.input_px, 3)
        self._noise = {
            "image": np.random.default_rng(0).integers(0, 256, shape, np.uint8),
            "label": np.zeros(rows, np.int32),
            "index": np.full(rows, -1, np.int32),
            "crop_weights": np.zeros((rows, len(self._views.crops)), np.float32),
        }

    def check_finite(self, variables: Any) -> None:
        """Raises UserError if the outputs on a batch of noise are not finite."""
        for _ in self._networks.outputs([variables], [self._noise]):
            pass

    def __call__(self, variables: Any, *, stop: processes.Stop | None = None) -> Evaluation:
        """As `table`, for a single network and the largest of the evaluator's `crops`."""
        return self.table([variables], stop=stop)[-1]

    def table(
        self, variables: Sequence[Any], *, stop: processes.Stop | None = None
    ) -> list[Evaluation]:
        """For each number of crops, an Evaluation of each network, and of several together.

        Every process evaluates its share of the images; all return the same result.

        Raises:
            RuntimeError: an example that was not evaluated exactly once.
            processes.Stopped: by `stop`, before a batch or while waiting.
            UserError: outputs that are not finite, a damaged image.
        """
        n, parts = len(self.source), []
        hidden = not processes.is_main()
        with progress.bar(total=n, desc="evaluate", unit="img", leave=False, disable=hidden) as bar:
            for images, labels, values in self._networks.averages(
                variables, self._batches(), crops=self._views.crops, stop=stop, only=self.outputs
            ):
                if len(variables) > 1:
                    values = np.concatenate([values, values.mean(1, keepdims=True)], 1)
                parts.append((images, labels, *_outcomes(values, labels, len(self.outputs))))
                bar.update(len(images))
        images, labels, top, best, losses = map(np.concatenate, zip(*parts, strict=True))
        if not np.array_equal(images, np.arange(n)):
            once = len(np.unique(images))
            raise RuntimeError(
                f"evaluated {once} images of {n}, {len(images) - once} of them twice"
            )
        models = [1] * len(variables) + [len(variables)] * (len(variables) > 1)
        others = getattr(self.source, "alternatives", None) or {}
        return [
            Evaluation(labels, top[:, m, c], best[:, m, c], losses[:, m, c], crops, count, others)
            for c, crops in enumerate(self._views.crops)
            for m, count in enumerate(models)
        ]


def _outcomes(
    p: np.ndarray, labels: np.ndarray, most: int = TOP
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities [n, ..., classes], labels [n] -> top, probabilities, losses of Evaluation."""
    top = np.argsort(-p, axis=-1, kind="stable")[..., : min(TOP, most)].astype(np.int32)
    best = np.take_along_axis(p, top, -1).astype(np.float32)
    right = p[np.arange(len(p)), ..., labels]
    losses = -np.log(np.maximum(right, np.finfo(np.float64).tiny))
    return top, best, losses.astype(np.float32)
