"""An evaluation's results: errors with their intervals, the paper's Table 3, files."""

import collections
import dataclasses
import json
from typing import Any

import numpy as np

from inception.data import paths
from inception.data.sources import Source

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


def write_json(
    workdir: str, evaluation: Evaluation, *, source: Source, split: str, step: int
) -> None:
    """WORKDIR/eval.json: the result, the confusion counts, the worst mistakes."""
    wrong = np.flatnonzero(~evaluation.correct(1))
    worst = wrong[np.argsort(-evaluation.losses[wrong], kind="stable")][:MISTAKES]
    pairs = collections.Counter(
        zip(evaluation.labels.tolist(), evaluation.top[:, 0].tolist(), strict=True)
    )
    content = {
        **evaluation.result(),
        "split": split,
        "step": step,
        "classes": source.classes,
        "confusion": [[*pair, count] for pair, count in sorted(pairs.items())],
        "mistakes": [
            {
                "index": int(i),
                "name": source.name(int(i)),
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
