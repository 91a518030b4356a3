"""How an Evaluation is written: rows of Table 3, a run's eval.json, files by image and class."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from inception.data import paths, sources
from inception.evaluation.evaluator import TOP, Evaluation

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


def error_interval(evaluation: Evaluation, k: int) -> list[float]:
    """95% interval of the top-k error in percent, after Wilson (1927), from the counts alone."""
    import scipy.stats  # takes half a second, and `predict` does not need it

    wrong = evaluation.count - int(evaluation.correct(k).sum())
    interval = scipy.stats.binomtest(wrong, evaluation.count).proportion_ci(method="wilson")
    return [100 * interval.low, 100 * interval.high]


def counts_of_pairs(evaluation: Evaluation) -> list[list[int]]:
    """[label, likeliest class, images] of each pair that occurs, sorted."""
    pairs = np.stack([evaluation.labels, evaluation.top[:, 0]], 1)
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    return np.column_stack([pairs, counts]).tolist()


def guesses(evaluation: Evaluation, i: int, *, digits: int) -> list[tuple[int, float]]:
    """The likeliest classes of an image, best first, with their rounded probabilities."""
    pairs = zip(evaluation.top[i].tolist(), evaluation.probabilities[i].tolist(), strict=True)
    return [(label, round(p, digits)) for label, p in pairs]


def row(evaluation: Evaluation, *, classes: int, name: str = "") -> dict[str, Any]:
    """A row of Table 3: our errors, the paper's if it has one, and the difference.

    Args:
        classes: the set's; 1,000 classes and 50,000 images are taken for ILSVRC's set.
    """
    result = evaluation.result()
    ilsvrc = (classes, evaluation.count) == (1000, 50_000)
    paper = TABLE_3.get((evaluation.models, evaluation.crops)) if ilsvrc else None
    uneven = len(np.unique(np.unique(evaluation.labels, return_counts=True)[1])) > 1
    return {
        "name": name,
        "models": evaluation.models,
        "crops": evaluation.crops,
        "cost": evaluation.models * evaluation.crops,
        "top5_error": result["top5_error"],
        "top5_error_interval": error_interval(evaluation, TOP),
        "top5_error_paper": paper,
        "difference": None if paper is None else result["top5_error"] - paper,
        "top1_error": result["top1_error"],
        "top1_error_interval": error_interval(evaluation, 1),
        "class_accuracy": result["class_accuracy"] if uneven else None,
        "log_loss": evaluation.metrics()["loss"],
    }


COLUMNS = (  # heading, key in `row`, format of the values
    ("models", "models", "{}"),
    ("crops", "crops", "{}"),
    ("cost", "cost", "{}"),
    ("top-5 error %", "top5_error", "{:.2f}"),
    ("95%", "top5_error_interval", "{0[0]:.2f}-{0[1]:.2f}"),
    ("paper", "top5_error_paper", "{:.2f}"),
    ("difference", "difference", "{:+.2f}"),
    ("top-1 error %", "top1_error", "{:.2f}"),
    ("95%", "top1_error_interval", "{0[0]:.2f}-{0[1]:.2f}"),
    ("by class %", "class_accuracy", "{:.2f}"),
    ("log-loss", "log_loss", "{:.4f}"),
    ("", "name", "{}"),
)


def table_3(rows: Sequence[dict[str, Any]]) -> str:
    """Formats each `row` as in the paper's Table 3, beside the paper's numbers."""
    columns = []
    for head, key, shown in COLUMNS:
        values = [row[key] for row in rows]
        if any(value not in (None, "") for value in values):
            cells = [head, *("" if v is None else shown.format(v) for v in values)]
            width = max(map(len, cells))
            columns.append([cell.rjust(width) for cell in cells])
    return "\n".join(map("  ".join, zip(*columns, strict=True)))


def predictions(evaluation: Evaluation, source: sources.Source) -> str:
    """A JSON line for each image: its name, its class, the top five with probabilities."""
    lines = []
    for i, label in enumerate(evaluation.labels):
        top = [[source.classes[c], p] for c, p in guesses(evaluation, i, digits=6)]
        row = {"image": source.name(i), "class": source.classes[label], "top": top}
        lines.append(json.dumps(row) + "\n")
    return "".join(lines)


def as_csv(heading: str, rows: Iterable[Iterable[Any]]) -> str:
    """The rows as CSV, under a heading of column names with commas between."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([heading.split(","), *rows])
    return text.getvalue()


PER_CLASS = "class,count,top1_accuracy,top5_accuracy"


def per_class(evaluation: Evaluation, source: sources.Source) -> str:
    """CSV: class, count, top-1 and top-5 accuracy in percent, for each class with images."""
    rows, right = [], [evaluation.correct(k) for k in (1, TOP)]
    for label in np.unique(evaluation.labels):
        of_class = evaluation.labels == label
        accuracies = [100 * correct[of_class].mean() for correct in right]
        rows.append([source.classes[label], of_class.sum(), *(f"{a:.2f}" for a in accuracies)])
    return as_csv(PER_CLASS, rows)


CONFUSION = "class,predicted,count,share"


def confusion(evaluation: Evaluation, source: sources.Source) -> str:
    """CSV: class, predicted class, count, percent of the class's images; pairs that occur."""
    counts, rows = np.bincount(evaluation.labels), []
    for label, guess, n in counts_of_pairs(evaluation):
        share = f"{100 * n / counts[label]:.2f}"
        rows.append([source.classes[label], source.classes[guess], n, share])
    return as_csv(CONFUSION, rows)


class Writer(NamedTuple):
    """How a file of results is written, and the bytes by which it is known as such a file."""

    text: Callable[[Evaluation, sources.Source], str]
    mark: bytes


WRITERS = {
    "predictions": Writer(predictions, b'"top": [['),
    "per_class": Writer(per_class, PER_CLASS.encode()),
    "confusion": Writer(confusion, CONFUSION.encode()),
}


def _described(evaluation: Evaluation, source: sources.Source, i: int) -> dict[str, Any]:
    """An image of eval.json: its index and name, its label, the likeliest classes."""
    return {
        "index": i,
        "name": source.name(i),
        "label": int(evaluation.labels[i]),
        "guesses": guesses(evaluation, i, digits=4),
    }


def write(
    workdir: str, evaluation: Evaluation, source: sources.Source, *, split: str, step: int
) -> None:
    """Writes WORKDIR/eval.json: the result, the confusion counts, the worst mistakes.

    Beside them the best image of each class among the mistakes, the right one of lowest loss.
    """
    right, by_loss = evaluation.correct(1), np.argsort(evaluation.losses, kind="stable")
    worst = by_loss[::-1][~right[by_loss[::-1]]][:MISTAKES]
    best = {int(evaluation.labels[i]): int(i) for i in by_loss[::-1][right[by_loss[::-1]]]}
    labels = dict.fromkeys(evaluation.labels[worst].tolist())
    content = {
        **evaluation.result(),
        "split": split,
        "step": step,
        "classes": source.classes,
        "confusion": counts_of_pairs(evaluation),
        "mistakes": [_described(evaluation, source, i) for i in worst.tolist()],
        "best": [_described(evaluation, source, best[label]) for label in labels if label in best],
    }
    paths.write_whole(paths.at(workdir) / "eval.json", json.dumps(content) + "\n")
