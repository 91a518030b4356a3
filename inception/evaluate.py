"""Exact top-1 and top-5 over a whole split."""

import collections
import dataclasses
import functools
import json
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from ml_collections import ConfigDict

from inception import UserError, checkpoint, parallel, pixels
from inception.data import loader, sampling, sources
from inception.model import GoogLeNet

TOP = 5
MISTAKES = 24  # kept in eval.json, for the page


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome for each image of a split, in its order; averages are taken from it.

    labels: int32 [n]; top: int32 [n, 5], the likeliest classes, best first (fewer if there are
    fewer classes); probabilities: float32 [n, 5], theirs; losses: float32 [n], -log p(label).
    """

    labels: np.ndarray
    top: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray

    @property
    def count(self) -> int:
        return len(self.labels)

    def accuracy(self, k: int) -> float:
        """Share of the images whose label is among the first k, 0-1."""
        return int((self.top[:, :k] == self.labels[:, None]).sum()) / self.count

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
            "crops": 1,
            "models": 1,
        }


def eval_step(
    variables: Any, batch: dict[str, jax.Array], *, model: nn.Module, normalization: str
) -> dict[str, jax.Array]:
    """One batch -> the likeliest classes, their probabilities, the label's loss, by row."""
    images = pixels.normalize(batch["image"], method=normalization)
    logits: Any = model.apply(variables, images, train=False)
    log_p = jax.nn.log_softmax(logits["main"])
    best, top = jax.lax.top_k(log_p, min(TOP, log_p.shape[-1]))
    losses = -jnp.take_along_axis(log_p, batch["label"][:, None], axis=-1)[:, 0]
    return {
        "index": batch["index"],
        "label": batch["label"],
        "top": top,
        "probability": jnp.exp(best),
        "loss": losses,
    }


def open_split(config: ConfigDict, split: str) -> sources.Source:
    """The split of the set that config.data names."""
    return sources.open_source(
        config.data.source,
        split=split,
        path=config.data.path,
        name=config.data.name,
        examples=config.data.examples,
        classes=config.model.classes,
    )


class Evaluator:
    """Variables -> Evaluation, over every example of one split exactly once."""

    def __init__(self, config: ConfigDict, mesh: Any, *, split: str, classes: tuple[str, ...] = ()):
        sampling.check_sizes(config.input_px, config.data.resize_px)
        sampling.check_resize(config.data.resize)
        if config.run.eval_batch_size < 1:
            raise UserError(
                f"config.run.eval_batch_size={config.run.eval_batch_size}: must be at least 1"
            )
        self._mesh = mesh
        self._split = split
        source = open_split(config, split)
        self.source = sources.as_classes(source, classes) if classes else source
        devices = mesh.devices.size
        view = functools.partial(
            sampling.center_view,
            input_px=config.input_px,
            resize_px=config.data.resize_px,
            resize=config.data.resize,
        )
        batch_size = -(-config.run.eval_batch_size // devices) * devices
        rng = np.random.default_rng(0)
        shape = (batch_size, config.input_px, config.input_px, 3)
        self._noise = {
            "image": rng.integers(0, 256, shape, np.uint8),
            "label": np.zeros(batch_size, np.int32),
            "index": np.full(batch_size, -1, np.int32),
        }
        self._batches = functools.partial(
            loader.eval_batches,
            self.source,
            view=view,
            input_px=config.input_px,
            batch_size=batch_size,
            classes=config.model.classes,
            max_megapixels=config.data.max_megapixels,
            workers=config.run.workers,
        )
        step = functools.partial(
            eval_step,
            model=GoogLeNet(**config.model),
            normalization=config.data.normalization,
        )
        self._step = parallel.jit_over_batch(step, mesh, donate=False)

    def check_finite(self, variables: Any) -> None:
        """Raises UserError where the outputs on a batch of noise are not finite."""
        self._run(variables, self._noise)

    def _run(self, variables: Any, batch: loader.Batch) -> dict[str, np.ndarray]:
        rows = jax.device_get(self._step(variables, parallel.to_global(batch, self._mesh)))
        if not np.isfinite(rows["loss"]).all():
            raise UserError(
                "the network's outputs are not finite. Lower config.optim.learning_rate, or give "
                "it a longer config.optim.warmup_epochs, and start in a new --workdir; what was "
                "saved before is kept"
            )
        return rows

    def __call__(self, variables: Any) -> Evaluation:
        """Raises RuntimeError if not every example was there exactly once, UserError where the
        outputs are not finite or an image is damaged."""
        outputs = [
            self._run(variables, batch)
            for batch in tqdm.tqdm(self._batches(), desc="evaluate", leave=False, mininterval=1)
        ]
        rows = {key: np.concatenate([o[key] for o in outputs]) for key in outputs[0]}
        real = np.flatnonzero(rows["index"] >= 0)  # -1 is padding
        order = real[np.argsort(rows["index"][real], kind="stable")]
        if not np.array_equal(rows["index"][order], np.arange(len(self.source))):
            raise RuntimeError(f"evaluated {len(order)} images of {len(self.source)}")
        return Evaluation(*(rows[k][order] for k in ("label", "top", "probability", "loss")))

    def write_json(self, workdir: str, evaluation: Evaluation, *, step: int) -> None:
        """WORKDIR/eval.json: the result, the confusion counts, the worst mistakes."""
        wrong = np.flatnonzero(evaluation.top[:, 0] != evaluation.labels)
        worst = wrong[np.argsort(-evaluation.losses[wrong], kind="stable")][:MISTAKES]
        pairs = collections.Counter(
            zip(evaluation.labels.tolist(), evaluation.top[:, 0].tolist(), strict=True)
        )
        content = {
            **evaluation.result(),
            "split": self._split,
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
        pathlib.Path(workdir, "eval.json").write_text(json.dumps(content) + "\n")


def run(config: ConfigDict, workdir: str, *, split: str = "", best: bool = False) -> dict[str, Any]:
    """Evaluates the newest checkpoint of `workdir`, or the best, on a split of its set.

    Returns:
        `Evaluation.result`: 'top1_error' and 'top5_error' in percent, 'count', 'crops', 'models'.

    Raises:
        UserError: no checkpoint, a damaged one, an image that cannot be read.
    """
    trained = checkpoint.load(workdir, best=best)
    mesh = parallel.make_mesh()
    evaluator = Evaluator(
        config, mesh, split=split or config.data.eval_split, classes=trained.classes
    )
    evaluation = evaluator(parallel.replicate(trained.variables, mesh))
    if not (split or best):  # eval.json is the run's own result
        evaluator.write_json(workdir, evaluation, step=trained.step)
    return evaluation.result()
