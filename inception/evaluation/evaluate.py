"""The paper's Table 3 for one network or several, with 1, 10 or 144 crops; its output files."""

import csv
import io
import itertools
import json
import operator
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from inception import UserError
from inception.config import run_config
from inception.data import paths, pipeline, sources
from inception.evaluation.evaluator import TOP, Evaluation, Evaluator
from inception.runtime import processes, sharding
from inception.runtime.weights import Trained, load_network


def load_alike(
    workdirs: Sequence[str], configs: Sequence[ConfigDict], *, best: bool = False
) -> list[Trained]:
    """Calls `load_network` for each folder.

    Raises:
        UserError: also if a folder is given twice, or the folders differ in views or classes.
    """
    folders = [os.path.realpath(paths.at(workdir)) for workdir in workdirs]
    trained = [load_network(w, c, best=best) for w, c in zip(workdirs, configs, strict=True)]
    first, config, classes = workdirs[0], configs[0], trained[0].classes
    for i, (workdir, other, t) in enumerate(zip(workdirs, configs, trained, strict=True)):
        if folders[i] in folders[:i]:
            raise UserError(
                f"{workdir} is given twice: an ensemble needs different networks; leave one out"
            )
        for knob in ("input_px", "data.resize", "data.resize_px", "data.bits"):
            value, own = (operator.attrgetter(knob)(c) for c in (config, other))
            if own != value:
                raise UserError(
                    f"`{knob}` is {value} in {first} and {own} in {workdir}: an ensemble "
                    f"sees the same images. Leave one out, or give all the same: `{knob}={value}`"
                )
        if len(t.classes) != len(classes):
            raise UserError(
                f"{first} has {len(classes)} classes and {workdir} {len(t.classes)}: an ensemble "
                "needs the same classes; leave one out"
            )
        if t.classes != classes:
            raise UserError(
                f"{first} and {workdir} have different classes, or a different order: see their "
                "classes.txt; leave one out"
            )
    return trained


def _check_files(files: Mapping[str, str]) -> None:
    """Raises UserError before the work if a file could not be written after it."""
    if processes.is_main():
        marked = {name: (path, WRITERS[name].mark) for name, path in files.items()}
        paths.check_outputs(make_folders=False, **marked)


def _remarks(config: ConfigDict, evaluator: Evaluator) -> list[str]:
    """The lines to print about the split before the work."""
    source, lines = evaluator.source, []
    count, all_outputs = len(evaluator.outputs), len(evaluator.source.classes)
    labels = getattr(source, "labels", None)
    there = all_outputs if labels is None else len(np.unique(labels))
    if min(count, there) < all_outputs:
        of_set = " (--outputs=present: those of the set's classes alone)" * (count == all_outputs)
        lines.append(f"{count:,} of {all_outputs:,} outputs count{of_set}")
    lines += pipeline.remarks(source, bits=config.data.bits, where=config.data.path)
    if left_out := getattr(source, "left_out", 0):
        lines.append(
            f"evaluating {(n := len(source))} of {n + left_out} images: {config.data.path} has no "
            "train and val folders, so a fifth of each class is 'val' and the rest is 'train'; "
            "--split=all evaluates all"
        )
    return lines


def run(
    configs: Sequence[ConfigDict],
    workdirs: Sequence[str],
    *,
    split: str = "",
    best: bool = False,
    crops: Sequence[int] = (1,),
    outputs: str = "all",
    **files: str,
) -> dict[str, Any]:
    """Evaluates the newest checkpoints of folders, or the best ones, together on one split.

    Args:
        configs: one for each folder; the first one names the data.
        outputs: as of Evaluator.
        files: names, keys of WRITERS, and paths of files to write for the last row of the table.

    Returns:
        `Evaluation.result` of the last row (all networks, the most crops); 'table': all rows;
        'outputs': how many count; 'unwritten': a line for each of the files that could not be
        written.

    Raises:
        UserError: as `load_alike`; a damaged image; an unwritable file, before the work.
    """
    config = configs[0]
    processes.together(lambda: _check_files(files))
    seen: dict[str, Any] = {"crops": crops, "outputs": outputs}
    seen["split"] = split or config.data.eval_split
    processes.check_same(json.loads(config.to_json()), checkpoints=workdirs, best=best, **seen)
    trained = load_alike(workdirs, configs, best=best)
    mesh, classes = sharding.make_mesh(), trained[0].classes
    evaluator = Evaluator(config, mesh, networks=configs, classes=classes, **seen)
    for line in _remarks(config, evaluator) if processes.is_main() else ():
        print(line, file=sys.stderr)
    table = evaluator.table([sharding.replicate(t.variables, mesh) for t in trained])
    last = table[-1]
    unwritten: list[str] = []
    if processes.is_main():
        trained_with = run_config(workdirs[0], [], rules=())  # adds knobs that an older run lacks
        views = [(c.input_px, c.data.to_dict()) for c in (config, trained_with)]
        own = views[0] == views[1] and not (split or best or outputs != "all")
        if own and len(workdirs) == 1 and last.crops == 1:  # the run's own result, for its page
            try:
                evaluator.write(workdirs[0], last, step=trained[0].step)
            except OSError as error:
                print(f"WARNING: eval.json is not written: {error}", file=sys.stderr)
        unwritten = _write_files(last, evaluator.source, files)
    names = itertools.cycle([*workdirs, "together"] if len(workdirs) > 1 else [""])
    named = zip(table, names, strict=False)
    rows = [evaluation.row(classes=len(classes), name=name) for evaluation, name in named]
    also = {"outputs": len(evaluator.outputs), "table": rows, "unwritten": unwritten}
    return {**last.result(), **also}


def _write_files(
    evaluation: Evaluation, source: sources.Source, files: Mapping[str, str]
) -> list[str]:
    """Writes the files whose path is given; returns a line for each that could not be written."""
    unwritten = []
    for name, file in files.items():
        try:
            if file:
                paths.write_whole(paths.at(file), WRITERS[name].text(evaluation, source))
        except OSError as error:
            unwritten.append(f"{file} cannot be written: {error.strerror or error}")
    return unwritten


COLUMNS = (  # heading, key in `Evaluation.row`, format of the values
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
    """Formats each `Evaluation.row` as in the paper's Table 3, beside the paper's numbers."""
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
        top = [[source.classes[c], p] for c, p in evaluation.guesses(i, digits=6)]
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
    rows = []
    for label in np.unique(evaluation.labels):
        of_class = evaluation.labels == label
        accuracies = [100 * evaluation.correct(k)[of_class].mean() for k in (1, TOP)]
        rows.append([source.classes[label], of_class.sum(), *(f"{a:.2f}" for a in accuracies)])
    return as_csv(PER_CLASS, rows)


CONFUSION = "class,predicted,count,share"


def confusion(evaluation: Evaluation, source: sources.Source) -> str:
    """CSV: class, predicted class, count, percent of the class's images; pairs that occur."""
    counts, rows = np.bincount(evaluation.labels), []
    for label, guess, n in evaluation.confusion():
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
