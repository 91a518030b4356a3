"""Distillation: a train step whose loss also follows the probabilities of trained networks."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from inception import UserError, pixels
from inception.config import folders, run_config, training_sizes
from inception.model import GoogLeNet
from inception.runtime import checkpoint, compiling, sharding
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
    teachers = probabilities(images)

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
    loaded, configs, needs = [], [], "a teacher needs the same classes in the same order"
    unknown = checkpoint.numbered(config.model.classes)
    for folder in folders(config.distill.teacher):
        try:
            theirs = run_config(folder, [], rules=())
            trained = load_network(folder, theirs)
        except UserError as error:
            raise UserError(f"`distill.teacher`: {error}") from error
        where, sizes = f"`distill.teacher`: {folder}", {config.input_px, *training_sizes(config)}
        if len(trained.classes) != config.model.classes:
            raise UserError(
                f"{where} has {len(trained.classes)} classes and this run {config.model.classes}: "
                f"{needs}"
            )
        if classes and trained.classes not in (tuple(classes), unknown):
            first = next(i for i, name in enumerate(classes) if trained.classes[i] != name)
            raise UserError(
                f"{where} calls class {first} {trained.classes[first]} and the training set "
                f"{classes[first]}: {needs}"
            )
        if theirs.input_px != config.input_px:
            raise UserError(
                f"{where} was trained with `input_px`={theirs.input_px} and this run has "
                f"{config.input_px}: give `input_px={theirs.input_px}`"
            )
        if theirs.model.top == "fc" and len(sizes) > 1:
            raise UserError(
                f"{where} has `model.top`=fc, which has one size: leave out `train.sizes`"
            )
        loaded.append(trained)
        configs.append(theirs)
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
        self.digest = checkpoint.digest(self._variables)  # a run must find the same teachers again
        self._mesh, self._on_devices = mesh, False
        self._compiled = compiling.CompiledStep(
            function, mesh, training=True, sizes=training_sizes(config)
        )

    def lower(self, state: Any, batch: Any) -> "WithTeachers":
        """Lowers the program for a state and a batch of these shapes."""
        shapes = sharding.replicated_shapes(lambda: self._variables, self._mesh)
        return WithTeachers(self._compiled.lower((state, shapes), batch), self)

    def __call__(self, state: Any, batch: Any, **options: Any) -> Any:
        """As CompiledStep: (the next state, metrics)."""
        return self.call(functools.partial(self._compiled, **options), state, batch)

    def call(self, program: Callable[..., Any], state: Any, batch: Any) -> Any:
        """Calls a program of the student's state and the teachers; returns the student's part."""
        if not self._on_devices:
            self._variables = sharding.replicate(self._variables, self._mesh)
            self._on_devices = True
        # The program reuses the memory of its arguments: the teachers come back with the state.
        (state, self._variables), metrics = program((state, self._variables), batch)
        return state, metrics


class WithTeachers:
    """A lowered or compiled program of a TaughtStep, called with the student's state alone."""

    def __init__(self, program: Any, taught: TaughtStep):
        self._program, self._taught = program, taught

    def compile(self, **options: Any) -> "WithTeachers":
        """Compiles a lowered program; `options` are JAX's."""
        return WithTeachers(self._program.compile(**options), self._taught)

    def __call__(self, state: Any, batch: Any) -> Any:
        return self._taught.call(self._program, state, batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)
