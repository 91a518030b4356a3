"""The outcome of networks on every image of a split, each counted exactly once."""

import collections
import dataclasses
import functools
import itertools
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from inception.data import cropping, paths, pipeline, progress, sources
from inception.evaluation.networks import Networks, eval_batch_size
from inception.runtime import processes

TOP = 5
MISTAKES = 24  # kept in eval.json, for the page
# The paper's Table 3: (models, crops) -> top-5 error on ILSVRC's 50,000 validation images, percent.
TABLE_3 = {
    (1, 1): 10.07,
    (1, 10): 9.15,
    (1, 144): 7.89,
    (7, 1): 8.09,
    (7, 10): 7.62,
    (7, 144): 6.67,
}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome for each image of a split, in its order; averages are taken from it.

    labels: int32 [n]; top: int32 [n, 5], the likeliest classes, best first (fewer if there are
    fewer classes); probabilities: float32 [n, 5], theirs; losses: float32 [n], -log p(label);
    crops, models: how many were averaged.
    """

    labels: np.ndarray
    top: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray
    crops: int = 1
    models: int = 1

    @property
    def count(self) -> int:
        return len(self.labels)

    def correct(self, k: int) -> np.ndarray:
        """Whether the label is among the first k, bool [n]."""
        return (self.top[:, :k] == self.labels[:, None]).any(1)

    def accuracy(self, k: int) -> float:
        """Share of the images whose label is among the first k, 0-1."""
        return int(self.correct(k).sum()) / self.count

    def error_interval(self, k: int) -> list[float]:
        """95% interval of the error in percent, after Wilson (1927), from the count alone."""
        wrong = self.count - int(self.correct(k).sum())
        import scipy.stats  # takes half a second, which `predict` can do without

        interval = scipy.stats.binomtest(wrong, self.count).proportion_ci(method="wilson")
        return [100 * interval.low, 100 * interval.high]

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
            "count": self.count,
            "crops": self.crops,
            "models": self.models,
        }

    def row(self, *, classes: int) -> dict[str, Any]:
        """A row of Table 3: ours, the paper's where it has one, and the difference; no name yet.

        Args:
            classes: of the set; with 50,000 images of 1,000 classes it is taken for ILSVRC's.
        """
        result = self.result()
        ilsvrc = (classes, self.count) == (1000, 50_000)
        paper = TABLE_3.get((self.models, self.crops)) if ilsvrc else None
        return {
            "name": "",
            "models": self.models,
            "crops": self.crops,
            "cost": self.models * self.crops,
            "top5_error": result["top5_error"],
            "top5_error_interval": self.error_interval(TOP),
            "top5_error_paper": paper,
            "difference": None if paper is None else result["top5_error"] - paper,
            "top1_error": result["top1_error"],
            "top1_error_interval": self.error_interval(1),
            "log_loss": self.metrics()["loss"],
        }


class Evaluator:
    """Variables -> Evaluation, over every example of one split exactly once.

    Args:
        config: of the data, and of the network unless `networks` says otherwise.
        crops: some of 1, 10, 144; one pass serves all.
        networks: the configs of several networks that see the same images.
        classes: what the networks' outputs stand for, if more than the set has.
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
    ):
        self.split = split
        self._classes = config.model.classes
        self._views = cropping.Views(
            tuple(sorted(set(crops))), config.input_px, config.data.resize_px, config.data.resize
        )
        self.source = pipeline.open_split(config, split)
        self.left_out = getattr(self.source, "left_out", 0)
        if classes:
            self.source = sources.as_classes(self.source, classes)
        batch_size = eval_batch_size(
            config.run.eval_batch_size, len(self.source) * self._views.rows, mesh
        )
        rows = batch_size // jax.process_count()
        shape = (rows, config.input_px, config.input_px, 3)
        self._noise = {
            "image": np.random.default_rng(0).integers(0, 256, shape, np.uint8),
            "label": np.zeros(rows, np.int32),
            "index": np.full(rows, -1, np.int32),
            "crop_weights": np.zeros((rows, len(self._views.crops)), np.float32),
        }
        self._batches = functools.partial(
            pipeline.evaluation_batches,
            self.source,
            views=self._views,
            batch_size=batch_size,
            classes=config.model.classes,
            max_megapixels=config.data.max_megapixels,
            workers=config.run.workers,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
        self._networks = Networks(networks or [config], mesh)

    def check_finite(self, variables: Any) -> None:
        """Raises UserError where the outputs on a batch of noise are not finite."""
        for _ in self._networks.outputs([variables], [self._noise]):
            pass

    def __call__(self, variables: Any, *, stop: processes.Stop | None = None) -> Evaluation:
        """Of a single network, with the most of the evaluator's `crops`; as `table`."""
        return self.table([variables], stop=stop)[-1]

    def table(
        self, variables: Sequence[Any], *, stop: processes.Stop | None = None
    ) -> list[Evaluation]:
        """An Evaluation for each number of crops: of each network, and of all together.

        Every process evaluates its share of the images; all return the same result.

        Args:
            stop: checked before every batch, and while waiting.

        Raises:
            RuntimeError: an example that was not evaluated exactly once.
            processes.Stopped: `stop` says so.
            UserError: outputs that are not finite, a damaged image.
        """
        n, rows = len(self.source), len(self._views.crops) * (len(variables) + (len(variables) > 1))
        top_n = min(TOP, self._classes)
        labels = np.full(n, -1, np.int32)  # -1: not evaluated
        top = np.zeros((rows, n, top_n), np.int32)
        best = np.zeros((rows, n, top_n), np.float32)
        losses = np.zeros((rows, n), np.float32)
        hidden = not processes.is_main()
        with progress.bar(total=n, desc="evaluate", unit="img", leave=False, disable=hidden) as bar:
            for block in self._networks.probabilities(
                variables, self._batches(), crops=self._views.crops, stop=stop
            ):
                i, values = block.images, block.values
                if (labels[i] >= 0).any() or len(np.unique(i)) < len(i):
                    raise RuntimeError("an image was evaluated twice")
                labels[i] = block.labels
                if len(variables) > 1:
                    values = np.concatenate([values, values.mean(0, keepdims=True)])
                by_crops = values.swapaxes(0, 1).reshape(rows, len(i), -1)
                for row, p in enumerate(by_crops):
                    top[row, i], best[row, i], losses[row, i] = _outcomes(p, block.labels)
                bar.update(len(i))
        if (labels < 0).any():
            raise RuntimeError(f"evaluated {(labels >= 0).sum()} images of {n}")
        models = [1] * len(variables) + [len(variables)] * (len(variables) > 1)
        return [
            Evaluation(labels, top[row], best[row], losses[row], crops, count)
            for row, (crops, count) in enumerate(itertools.product(self._views.crops, models))
        ]

    def write(self, workdir: str, evaluation: Evaluation, *, step: int) -> None:
        """WORKDIR/eval.json: the result, the confusion counts, the worst mistakes."""
        wrong = np.flatnonzero(~evaluation.correct(1))
        worst = wrong[np.argsort(-evaluation.losses[wrong], kind="stable")][:MISTAKES]
        pairs = collections.Counter(
            zip(evaluation.labels.tolist(), evaluation.top[:, 0].tolist(), strict=True)
        )
        content = {
            **evaluation.result(),
            "split": self.split,
            "step": step,
            "classes": self.source.classes,
            "confusion": [[*pair, count] for pair, count in sorted(pairs.items())],
            "mistakes": [
                {
                    "index": int(i),
                    "name": self.source.name(int(i)),
                    "label": int(evaluation.labels[i]),
                    "guesses": [
                        [int(c), round(float(p), 4)]
                        for c, p in zip(evaluation.top[i], evaluation.probabilities[i], strict=True)
                    ],
                }
                for i in worst
            ],
        }
        paths.write_whole(paths.at(workdir) / "eval.json", json.dumps(content) + "\n")


def _outcomes(p: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities [n, classes], labels [n] -> top, probabilities, losses, as in Evaluation."""
    top = np.argsort(-p, axis=-1, kind="stable")[:, :TOP]
    right = np.take_along_axis(p, labels[:, None], -1)[:, 0]
    losses = -np.log(np.maximum(right, np.finfo(np.float64).tiny))
    return top, np.take_along_axis(p, top, -1), losses
