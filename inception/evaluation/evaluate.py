"""Exact top-1 and top-5 over a whole split: one network or several, 1, 10 or 144 crops."""

import functools
import itertools
import json
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from inception import UserError
from inception.data import cropping, paths, pipeline, progress, sources
from inception.data.pipeline import open_split
from inception.evaluation import results
from inception.evaluation.networks import Networks, eval_batch_size, load
from inception.runtime import processes, sharding


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
        self.source = open_split(config, split)
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

    def __call__(self, variables: Any, *, stop: processes.Stop | None = None) -> results.Evaluation:
        """Of a single network, with the most of the evaluator's `crops`; as `table`."""
        return self.table([variables], stop=stop)[-1]

    def table(
        self, variables: Sequence[Any], *, stop: processes.Stop | None = None
    ) -> list[results.Evaluation]:
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
        top_n = min(results.TOP, self._classes)
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
            results.Evaluation(labels, top[row], best[row], losses[row], crops, count)
            for row, (crops, count) in enumerate(itertools.product(self._views.crops, models))
        ]


def _outcomes(p: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities [n, classes], labels [n] -> top, probabilities, losses, as in Evaluation."""
    top = np.argsort(-p, axis=-1, kind="stable")[:, : results.TOP]
    right = np.take_along_axis(p, labels[:, None], -1)[:, 0]
    losses = -np.log(np.maximum(right, np.finfo(np.float64).tiny))
    return top, np.take_along_axis(p, top, -1), losses


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
    rows = _rows(table, workdirs, source)
    result: dict[str, Any] = {**last.result(), "table": rows, "unwritten": []}
    if processes.is_main():
        views = {"data": config.data.to_dict(), "input_px": config.input_px}
        own = views == {k: trained[0].config[k] for k in views} and not (split or best)
        if own and len(workdirs) == 1 and last.crops == 1:  # the run's result, for its page
            _write_result(workdirs[0], last, evaluator, step=trained[0].step)
        result["unwritten"] = _write_files(last, source, predictions, per_class)
    return result


def _write_files(
    evaluation: results.Evaluation, source: sources.Source, predictions: str, per_class: str
) -> list[str]:
    """Writes the files that have a name; returns a line for each that could not be written."""
    unwritten = []
    for write, file in (
        (results.write_predictions, predictions),
        (results.write_per_class, per_class),
    ):
        try:
            if file:
                write(file, evaluation, source)
        except OSError as error:
            unwritten.append(f"{file} cannot be written: {error.strerror or error}")
    return unwritten


def _rows(
    table: list[results.Evaluation], workdirs: Sequence[str], source: sources.Source
) -> list[dict[str, Any]]:
    rows = [evaluation.row(classes=len(source.classes)) for evaluation in table]
    if len(workdirs) > 1:
        for row, name in zip(rows, itertools.cycle([*workdirs, "together"]), strict=False):
            row["name"] = name
    return rows


def _write_result(
    workdir: str, evaluation: results.Evaluation, evaluator: Evaluator, *, step: int
) -> None:
    try:
        results.write_json(
            workdir, evaluation, source=evaluator.source, split=evaluator.split, step=step
        )
    except OSError as error:
        print(f"WARNING: eval.json is not written: {error}", file=sys.stderr)
