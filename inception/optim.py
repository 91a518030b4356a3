"""Learning-rate schedules, SGD with momentum in two conventions, the Polyak average."""

import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax


def learning_rate_schedule(
    name: str,
    *,
    learning_rate: float,
    total_steps: int,
    warmup_steps: int = 0,
    power: float = 0.5,
    decay_rate: float = 0.96,
    decay_steps: int = 1,
) -> optax.Schedule:
    """The learning rate as a function of the step.

    It rises linearly from 0 over `warmup_steps` (< total_steps). At step t of the T others::

        polynomial:  learning_rate * (1 - t / T) ** power         (Caffe's solvers: power .5)
        exponential: learning_rate * decay_rate ** floor(t / decay_steps)
                     (paper, section 6: x0.96 every 8 epochs)
        cosine:      learning_rate * (1 + cos(pi * t / T)) / 2
        linear:      learning_rate * (1 - t / T)
        constant:    learning_rate
        one_cycle:   cosine, after a rise from learning_rate / 25 along half a cosine, over
                     `warmup_steps` or else .3 of the run (Smith and Topin, 2018; PyTorch's values);
                     the momentum stays

    Raises:
        KeyError: an unknown name.
    """
    rate, decay_over = learning_rate, total_steps - warmup_steps
    rise = max(1, round(0.3 * total_steps))
    schedules: dict[str, Callable[[], optax.Schedule]] = {
        "polynomial": lambda: optax.polynomial_schedule(rate, 0.0, power, decay_over),
        "exponential": lambda: optax.exponential_decay(
            rate, decay_steps, decay_rate, staircase=True
        ),
        "cosine": lambda: optax.cosine_decay_schedule(rate, decay_over),
        "linear": lambda: optax.linear_schedule(rate, 0.0, decay_over),
        "constant": lambda: optax.constant_schedule(rate),
        "one_cycle": lambda: optax.cosine_onecycle_schedule(
            # Half a step more: optax rounds the rise down.
            total_steps,
            rate,
            pct_start=((warmup_steps or rise) + 0.5) / total_steps,
        ),
    }
    decay = schedules[name]()
    if warmup_steps == 0 or name == "one_cycle":
        return decay
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def is_vector(params: Any) -> Any:
    """True for parameters with one axis: biases and BatchNorm's scales and offsets."""
    return jax.tree.map(lambda p: p.ndim <= 1, params)


def optimizer(
    name: str, *, momentum_style: str, clip_norm: float, adaptive_clip: float, **knobs: Any
) -> optax.GradientTransformation:
    """The optimizer of this name, `sgd` or one of `optimizers.optimizer`, after clipping.

    Raises:
        KeyError: an unknown name or momentum style.
    """
    if name == "sgd":
        tx = sgd(momentum_style=momentum_style, **knobs)
    if name != "sgd" or clip_norm or adaptive_clip:
        from inception import optimizers

        tx = tx if name == "sgd" else optimizers.optimizer(name, **knobs)
        tx = optimizers.clipped(tx, clip_norm=clip_norm, adaptive_clip=adaptive_clip)
    return tx


def is_matrix(params: Any) -> Any:
    """True for parameters with several axes: the layers' kernels."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def sgd(
    schedule: optax.Schedule,
    *,
    momentum: float,
    momentum_style: str = "optax",
    weight_decay: float = 0.0,
    bias_lr_mult: float = 1.0,
    bias_decay_mult: float = 1.0,
    trunk: Collection[str] = (),
    trunk_lr_mult: float = 1.0,
    frozen: Collection[str] = (),
) -> optax.GradientTransformation:
    """SGD with momentum and L2 weight decay, g = gradient + weight_decay * params:

        optax: v = momentum * v + g;       params -= rate * v
        caffe: v = momentum * v + rate * g;  params -= v

    The two differ once the rate changes: Caffe's velocity contains each past step at its own rate.
    `bias_lr_mult` and `bias_decay_mult` are Caffe's lr_mult and decay_mult for every parameter
    with one axis (biases; BatchNorm's scales and offsets): bvlc_googlenet uses 2 and 0.
    `trunk_lr_mult` is the lr_mult of the modules in `trunk`; their biases use the product of both.
    Modules in `frozen` are neither updated nor decayed, and have no momentum.

    Raises:
        KeyError: an unknown momentum style.
    """
    rate = optax.scale_by_learning_rate(schedule)
    velocity = optax.trace(momentum)
    order = {"optax": (velocity, rate), "caffe": (rate, velocity)}[momentum_style]
    return except_frozen(
        frozen,
        *decays(weight_decay, bias_decay_mult),
        *lr_mults(bias_lr_mult, trunk, trunk_lr_mult),
        *order,
    )


Transforms = tuple[optax.GradientTransformation, ...]


def decays(weight_decay: float, bias_decay_mult: float) -> Transforms:
    """Add weight_decay * params, to parameters with one axis times `bias_decay_mult`."""
    return (
        optax.add_decayed_weights(weight_decay, is_matrix),
        optax.add_decayed_weights(weight_decay * bias_decay_mult, is_vector),
    )


def lr_mults(bias_lr_mult: float, trunk: Collection[str], trunk_lr_mult: float) -> Transforms:
    """Multiply the updates of parameters with one axis, and of the modules in `trunk`."""
    return (
        optax.masked(optax.scale(bias_lr_mult), is_vector),
        optax.masked(optax.scale(trunk_lr_mult), lambda params: {m: m in trunk for m in params}),
    )


def except_frozen(
    frozen: Collection[str], *rule: optax.GradientTransformation
) -> optax.GradientTransformation:
    """The chain of `rule` for all modules but `frozen`, which have neither updates nor state."""

    def kinds(params: Any) -> Any:  # a label per array: checkpoints store its momentum or a mask
        names = {name: "frozen" if name in frozen else "trained" for name in params}
        return {n: jax.tree.map(lambda _, n=n: names[n], params[n]) for n in params}

    transforms = {"trained": optax.chain(*rule), "frozen": optax.set_to_zero()}
    return optax.partition(transforms, kinds)


def averaging(name: str, polyak_decay: float) -> Callable[..., Any] | None:
    """The average of an optimizer's parameters that evaluation uses, or None: the newest ones."""
    if name == "schedule_free":
        from inception import optimizers

        return optimizers.schedule_free_average
    return functools.partial(polyak, decay=polyak_decay) if polyak_decay > 0 else None


def polyak(average: Any, new: Any, step: jax.Array, _opt_state: Any = None, *, decay: float) -> Any:
    """Moves the running average of parameters and BatchNorm statistics towards `new`.

    The paper evaluates with such an average (section 6). The decay is
    min(decay, (1 + step) / (10 + step)), TensorFlow's rule: close to a plain average at first, so
    that the initial weights soon lose their influence. Statistics are averaged too, because they
    belong to the parameters that produced them.
    """
    t = step.astype(jnp.float32)
    decay_now = jnp.minimum(decay, (1 + t) / (10 + t))
    return jax.tree.map(lambda a, n: a + (1 - decay_now).astype(a.dtype) * (n - a), average, new)
