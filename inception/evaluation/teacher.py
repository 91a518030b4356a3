"""Distillation: a train step whose loss also follows the probabilities of trained networks."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from inception import UserError, pixels
from inception.config import run_config, training_sizes
from inception.model import GoogLeNet
from inception.runtime import compiling, prefetch, sharding
from inception.runtime.weights import Trained, load_network


def mean_probabilities(
    models: Sequence[tuple[GoogLeNet, str]],
    variables: Sequence[Any],
    images: jax.Array,
    *,
    temperature: float,
) -> jax.Array:
    """The mean over networks of softmax(logits / temperature), float32 [b, classes].

    Args:
        models: each with the normalisation of its input.
        images: of 0-255, [b, px, px, 3].
    """

    def of(model: GoogLeNet, method: str, variables: Any) -> jax.Array:
        logits: Any = model.apply(variables, pixels.normalize(images, method=method), train=False)
        return jax.nn.softmax(logits["main"] / temperature)

    each = [of(*pair, v) for pair, v in zip(models, variables, strict=True)]
    return jnp.stack(each).mean(0)


def distilled(
    losses: dict[str, jax.Array],
    logits: dict[str, jax.Array],
    images: jax.Array,
    *,
    probabilities: Callable[[jax.Array], jax.Array],
    temperature: float,
    share: float,
    heads: bool,
) -> dict[str, jax.Array]:
    """(1 - share) * loss + share * temperature^2 * cross-entropy to the teachers, by head.

    Hinton et al. (2015), section 2; the teachers see the student's own images, mixed as they are
    (Beyer et al., 2022). Without `heads` the auxiliary losses stay as they are.
    """
    teachers = jax.lax.stop_gradient(probabilities(images))

    def of(head: str) -> jax.Array:
        if not heads and head != "main":
            return losses[head]
        soft = optax.softmax_cross_entropy(logits[head] / temperature, teachers).mean()
        return (1 - share) * losses[head] + share * temperature**2 * soft

    return {head: of(head) for head in losses}


def load(config: ConfigDict, classes: Sequence[str]) -> tuple[list[Trained], list[ConfigDict]]:
    """The networks of config.distill.teacher, 'DIR,DIR', and their configs.

    Args:
        classes: the training set's; without any, only their number is compared.

    Raises:
        UserError: a folder that cannot be read; other classes, or another input size.
    """
    folders = config.distill.teacher.split(",")
    configs = [run_config(folder, [], rules=()) for folder in folders]
    loaded = [load_network(f, c) for f, c in zip(folders, configs, strict=True)]
    for folder, trained, theirs in zip(folders, loaded, configs, strict=True):
        if len(trained.classes) != config.model.classes:
            raise UserError(
                f"`distill.teacher`: {folder} has {len(trained.classes)} classes and this run "
                f"{config.model.classes}: a teacher needs the same classes"
            )
        if classes and trained.classes != tuple(classes):
            first = next(i for i, name in enumerate(classes) if trained.classes[i] != name)
            raise UserError(
                f"`distill.teacher`: {folder} calls class {first} {trained.classes[first]} and the "
                f"training set {classes[first]}: a teacher needs the same classes in the same order"
            )
        if theirs.input_px != config.input_px:
            raise UserError(
                f"`distill.teacher`: {folder} was trained with `input_px`={theirs.input_px} and "
                f"this run has {config.input_px}: give `input_px={theirs.input_px}`"
            )
    return loaded, configs


class TaughtStep:
    """A CompiledStep of a train step with teachers, whose weights are another argument of it."""

    def __init__(
        self, step: functools.partial, config: ConfigDict, mesh: Any, classes: Sequence[str]
    ):
        loaded, configs = load(config, classes)
        on_cpu = sharding.platform(mesh) == "cpu"
        models = [
            (
                GoogLeNet(**{**c.model, "dtype": c.model.dtype if on_cpu else "bfloat16"}),
                c.data.normalization,
            )
            for c in configs
        ]
        knobs = {k: config.distill[k] for k in ("temperature", "share", "heads")}

        def function(state: tuple[Any, Any], batch: dict[str, jax.Array]) -> Any:
            student, variables = state
            probabilities = functools.partial(
                mean_probabilities, models, variables, temperature=knobs["temperature"]
            )
            teach = functools.partial(distilled, probabilities=probabilities, **knobs)
            student, metrics = step(student, batch, loss=step.keywords["loss"] | {"teach": teach})
            return (student, variables), metrics

        self.function = function
        self._variables: Any = [{**t.variables} for t in loaded]
        self._mesh, self._on_devices = mesh, False
        self._compiled = compiling.CompiledStep(
            function, mesh, training=True, sizes=training_sizes(config)
        )

    def lower(self, state: Any, batch: Any) -> Any:
        """Lowers the program for a state and a batch of these shapes."""
        shapes = sharding.replicated_shapes(lambda: self._variables, self._mesh)
        return self._compiled.lower((state, shapes), batch)

    def __call__(
        self, state: Any, batch: Any, *, poll: Callable[[float], None] = prefetch.noop
    ) -> Any:
        """As CompiledStep: (the next state, metrics)."""
        if not self._on_devices:
            self._variables = sharding.replicate(self._variables, self._mesh)
            self._on_devices = True
        (state, self._variables), metrics = self._compiled(
            (state, self._variables), batch, poll=poll
        )
        return state, metrics
