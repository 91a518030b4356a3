"""The outcome of networks on every image of a split, each counted exactly once."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from inception.data import cropping, pipeline, progress, sources
from inception.evaluation import results
from inception.evaluation.networks import Networks, eval_batch_size
from inception.runtime import processes


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
