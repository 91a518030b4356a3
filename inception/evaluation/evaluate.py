"""The paper's Table 3 for folders of networks: one or several, 1, 10 or 144 crops; its files."""

import csv
import functools
import io
import itertools
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from inception import UserError
from inception.data import paths, sources
from inception.evaluation.evaluator import TOP, Evaluation, Evaluator
from inception.evaluation.networks import load
from inception.runtime import processes, sharding


def check_alike(
    workdirs: Sequence[str], configs: Sequence[ConfigDict], classes: Sequence[Sequence[str]]
) -> None:
    """Raises UserError where a network is named twice, or they differ in views or classes."""
    folders = [paths.at(workdir).resolve() for workdir in workdirs]
    for i, folder in enumerate(folders):
        if folder in folders[:i]:
            raise UserError(
                f"{workdirs[i]} is there twice: an ensemble is of different networks; leave one out"
            )
    for knob in ("input_px", "data.resize", "data.resize_px"):
        first, *others = (functools.reduce(getattr, knob.split("."), c) for c in configs)
        for workdir, other in zip(workdirs[1:], others, strict=True):
            if other != first:
                raise UserError(
                    f"`{knob}` is {first} in {workdirs[0]} and {other} in {workdir}: an ensemble "
                    f"sees the same images. Leave one out, or give all the same: `{knob}={first}`"
                )
    for workdir, other_classes in zip(workdirs, classes, strict=True):
        if len(other_classes) != len(classes[0]):
            raise UserError(
                f"{workdirs[0]} has {len(classes[0])} classes and {workdir} {len(other_classes)}: "
                "an ensemble has the same; leave one out"
            )
        if tuple(other_classes) != tuple(classes[0]):
            raise UserError(
                f"{workdirs[0]} and {workdir} have other classes, or in another order: see their "
                "classes.txt; leave one out"
            )


def _check_files(predictions: str, per_class: str) -> None:
    """Before the work, raises UserError where a file could not be written after it."""
    if predictions and predictions == per_class:
        raise UserError(f"`predictions` and `per_class` are both {predictions}: name two files")

    def check_writable() -> None:
        for file in filter(None, (predictions, per_class)) if processes.is_main() else ():
            paths.check_writable(paths.at(file))

    processes.together(check_writable)


def run(
    configs: Sequence[ConfigDict],
    workdirs: Sequence[str],
    *,
    split: str = "",
    best: bool = False,
    crops: Sequence[int] = (1,),
    predictions: str = "",
    per_class: str = "",
) -> dict[str, Any]:
    """Evaluates the newest checkpoints of folders, or the best, together on one split.

    Args:
        configs: of each folder; the first's names the data.
        predictions, per_class: files to write, of the last row of the table.

    Returns:
        `Evaluation.result` of the last row: all networks, the most crops; 'table', all rows; and
        'unwritten', a line for each of the two files that could not be written.

    Raises:
        UserError: no checkpoint, a damaged one or one of another network, networks that do not go
            together, an image that cannot be read; a file that cannot be written, if that shows
            before the work.
    """
    config = configs[0]
    _check_files(predictions, per_class)
    choices = {"checkpoints": workdirs, "split": split, "best": best, "crops": crops}
    processes.check_same(json.loads(config.to_json()), **choices)
    trained = [load(w, c, best=best) for w, c in zip(workdirs, configs, strict=True)]
    check_alike(workdirs, configs, [t.classes for t in trained])
    mesh = sharding.make_mesh()
    evaluator = Evaluator(
        config,
        mesh,
        split=split or config.data.eval_split,
        crops=crops,
        networks=configs,
        classes=trained[0].classes,
    )
    if evaluator.left_out and processes.is_main():
        print(
            f"evaluating {(n := len(evaluator.source))} of {n + evaluator.left_out} images: "
            f"{config.data.path} has no train and val folders, and of each class a fifth is "
            "'val', the rest 'train'; --split=all takes all",
            file=sys.stderr,
        )
    table = evaluator.table([sharding.replicate(t.variables, mesh) for t in trained])
    last, source = table[-1], evaluator.source
    unwritten: list[str] = []
    if processes.is_main():
        views = {"data": config.data.to_dict(), "input_px": config.input_px}
        own = views == {k: trained[0].config[k] for k in views} and not (split or best)
        if own and len(workdirs) == 1 and last.crops == 1:  # the run's result, for its page
            try:
                evaluator.write(workdirs[0], last, step=trained[0].step)
            except OSError as error:
                print(f"WARNING: eval.json is not written: {error}", file=sys.stderr)
        unwritten = _write_files(last, source, predictions, per_class)
    return {**last.result(), "table": _rows(table, workdirs, source), "unwritten": unwritten}


def _write_files(
    evaluation: Evaluation, source: sources.Source, predictions: str, per_class: str
) -> list[str]:
    """Writes the files that have a name; returns a line for each that could not be written."""
    unwritten = []
    for write, file in (
        (write_predictions, predictions),
        (write_per_class, per_class),
    ):
        try:
            if file:
                write(file, evaluation, source)
        except OSError as error:
            unwritten.append(f"{file} cannot be written: {error.strerror or error}")
    return unwritten


def _rows(
    table: list[Evaluation], workdirs: Sequence[str], source: sources.Source
) -> list[dict[str, Any]]:
    rows = [evaluation.row(classes=len(source.classes)) for evaluation in table]
    if len(workdirs) > 1:
        for row, name in zip(rows, itertools.cycle([*workdirs, "together"]), strict=False):
            row["name"] = name
    return rows


def table_3(rows: Sequence[dict[str, Any]]) -> str:
    """`Evaluation.row`s as the paper's Table 3, for people; its numbers where a row has them."""

    def number(value: float | None, sign: str = "") -> str:
        return "" if value is None else f"{value:{sign}.2f}"

    def interval(low_high: list[float]) -> str:
        return "{:.2f}-{:.2f}".format(*low_high)

    head = "models|crops|cost|top-5 error %|95%|paper|difference|top-1 error %|95%|log-loss|"
    lines = [tuple(head.split("|"))]
    for row in rows:
        lines.append(
            (
                *(str(row[key]) for key in ("models", "crops", "cost")),
                number(row["top5_error"]),
                interval(row["top5_error_interval"]),
                number(row["top5_error_paper"]),
                number(row["difference"], "+"),
                number(row["top1_error"]),
                interval(row["top1_error_interval"]),
                f"{row['log_loss']:.4f}",
                row["name"],
            )
        )
    if all(row["top5_error_paper"] is None for row in rows):
        lines = [(*line[:5], *line[7:]) for line in lines]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths[:-1], strict=False))
        + f"  {line[-1]}".rstrip()
        for line in lines
    )


def write_predictions(path: str, evaluation: Evaluation, source: sources.Source) -> None:
    """A JSON object a line and image: its name, its class, the top five with probabilities."""
    lines = []
    for i, (label, top, probabilities) in enumerate(
        zip(evaluation.labels, evaluation.top, evaluation.probabilities, strict=True)
    ):
        row = {
            "image": source.name(i),
            "class": source.classes[label],
            "top": [
                [source.classes[c], round(float(p), 6)]
                for c, p in zip(top, probabilities, strict=True)
            ],
        }
        lines.append(json.dumps(row) + "\n")
    paths.write_whole(paths.at(path), "".join(lines))


def write_per_class(path: str, evaluation: Evaluation, source: sources.Source) -> None:
    """CSV: class, count, top-1 and top-5 accuracy in percent, of every class that has images."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "count", "top1_accuracy", "top5_accuracy"])
    for label in np.unique(evaluation.labels):
        of_class = evaluation.labels == label
        accuracies = [100 * evaluation.correct(k)[of_class].mean() for k in (1, TOP)]
        writer.writerow([source.classes[label], of_class.sum(), *(f"{a:.2f}" for a in accuracies)])
    paths.write_whole(paths.at(path), text.getvalue())
