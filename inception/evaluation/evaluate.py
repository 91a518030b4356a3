"""The paper's Table 3 for one network or several, with 1, 10 or 144 crops; its output files."""

import itertools
import json
import operator
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from inception import UserError
from inception.config import run_config
from inception.data import outputs, paths, pipeline, sources
from inception.evaluation import results
from inception.evaluation.evaluator import Evaluation, Evaluator
from inception.runtime import processes, sharding
from inception.runtime.weights import Trained, load_network


def load_alike(
    workdirs: Sequence[str],
    configs: Sequence[ConfigDict],
    *,
    best: bool = False,
    what: str = "an ensemble",
) -> list[Trained]:
    """Calls `load_network` for each folder; `what` they become, for messages.

    Raises:
        UserError: also if a folder is given twice, or the folders differ in views or classes.
    """
    folders = [os.path.realpath(paths.at(workdir)) for workdir in workdirs]
    trained = [load_network(w, c, best=best) for w, c in zip(workdirs, configs, strict=True)]
    first, config, classes = workdirs[0], configs[0], trained[0].classes
    for i, (workdir, other, t) in enumerate(zip(workdirs, configs, trained, strict=True)):
        if folders[i] in folders[:i]:
            raise UserError(
                f"{workdir} is given twice: {what} needs different networks; leave one out"
            )
        for knob in ("input_px", "data.resize", "data.resize_px", "data.bits"):
            value, own = (operator.attrgetter(knob)(c) for c in (config, other))
            if own != value:
                raise UserError(
                    f"`{knob}` is {value} in {first} and {own} in {workdir}: {what} "
                    f"sees the same images. Leave one out, or give all the same: `{knob}={value}`"
                )
        if len(t.classes) != len(classes):
            raise UserError(
                f"{first} has {len(classes)} classes and {workdir} {len(t.classes)}: {what} "
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
        marked = {name: (path, results.WRITERS[name].mark) for name, path in files.items()}
        outputs.check(make_folders=False, **marked)


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
    predictions: str = "",
    per_class: str = "",
    confusion: str = "",
) -> dict[str, Any]:
    """Evaluates the newest checkpoints of folders, or the best ones, together on one split.

    Args:
        configs: one for each folder; the first one names the data.
        outputs: as of Evaluator.
        predictions, per_class, confusion: files to write for the last row of the table.

    Returns:
        `Evaluation.result` of the last row (all networks, the most crops); 'table': all rows;
        'outputs': how many count; 'unwritten': a line for each of the files that could not be
        written.

    Raises:
        UserError: as `load_alike`; a damaged image; an unwritable file, before the work.
    """
    files = {"predictions": predictions, "per_class": per_class, "confusion": confusion}
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
                results.write(
                    workdirs[0], last, evaluator.source, split=evaluator.split, step=trained[0].step
                )
            except OSError as error:
                print(f"WARNING: eval.json is not written: {error}", file=sys.stderr)
        unwritten = _write_files(last, evaluator.source, files)
    names = itertools.cycle([*workdirs, "together"] if len(workdirs) > 1 else [""])
    named = zip(table, names, strict=False)
    rows = [results.row(evaluation, classes=len(classes), name=name) for evaluation, name in named]
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
                paths.write_whole(paths.at(file), results.WRITERS[name].text(evaluation, source))
        except OSError as error:
            unwritten.append(f"{file} cannot be written: {error.strerror or error}")
    return unwritten
