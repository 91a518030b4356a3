"""Optax's optimizers besides SGD with momentum, by name, and clipping of gradients."""

from collections.abc import Collection
from typing import Any

import jax
import optax

from inception.optim import decays, except_frozen, is_matrix, lr_mults

RMSPROP = {"decay": 0.9, "eps": 1.0}  # Inception v2 and v3's: Szegedy et al. (2015), section 8


def optimizer(
    name: str,
    schedule: optax.Schedule,
    *,
    momentum: float,
    weight_decay: float = 0.0,
    bias_lr_mult: float = 1.0,
    bias_decay_mult: float = 1.0,
    trunk: Collection[str] = (),
    trunk_lr_mult: float = 1.0,
    frozen: Collection[str] = (),
) -> optax.GradientTransformation:
    """Optax's optimizer of this name; its other arguments are those of `optim.sgd`.

    With g = gradient + weight_decay * params::

        nesterov: v = momentum * v + g;  params -= rate * (g + momentum * v)
        rmsprop:  s = .9 * s + .1 * g^2, from s = 1 as in TensorFlow
                  v = momentum * v + rate * g / sqrt(s + 1);  params -= v
        lars:     v = momentum * v + rate * trust * g;  params -= v; for kernels trust is
                  .001 * |params| / |g| (You et al., 2017)

    With weight_decay * params in the direction (decoupled, Loshchilov and Hutter, 2019)::

        adamw:    params -= rate * (Adam's direction + weight_decay * params)
        lamb:     the same times |params| / |direction| for kernels (You et al., 2020)
        muon:     the same with orthogonalised momentum for kernels [h * w * c, filters], except
                  classifiers', and NAdam's direction for all others (Jordan, 2024). The first
                  is scaled to a root mean square of .2, about the second's, so that one rate
                  serves both (Liu et al., 2025)

    And, of three sequences of which training computes gradients at y::

        schedule_free: z -= rate * g;  x = the mean of all z, which evaluation uses, weighted by
                  the square of the greatest rate up to the next step's (optax's choice);
                  y = momentum * x + (1 - momentum) * z (Defazio et al., 2024)

    Args:
        momentum: of adamw, lamb and muon, beta1.

    Raises:
        KeyError: an unknown name.
    """
    rate, velocity = optax.scale_by_learning_rate(schedule), optax.trace(momentum)
    rms = optax.scale_by_rms(**RMSPROP, initial_scale=1.0)
    mults = lr_mults(bias_lr_mult, trunk, trunk_lr_mult)
    decay = decays(weight_decay, bias_decay_mult)
    rules = {
        "nesterov": (*decay, *mults, optax.trace(momentum, nesterov=True), rate),
        "rmsprop": (*decay, rms, *mults, rate, velocity),
        "lars": (*decay, trust(0.001), *mults, rate, velocity),
        "adamw": (optax.scale_by_adam(momentum), *decay, *mults, rate),
        "lamb": (optax.scale_by_adam(momentum, eps=1e-6), *decay, trust(1.0), *mults, rate),
        "muon": (muon(momentum), *decay, *mults, rate),
    }
    if name == "schedule_free":
        steps = optax.chain(*decay, *mults, rate)
        rules[name] = (optax.contrib.schedule_free(steps, schedule, b1=momentum),)
    return except_frozen(frozen, *rules[name])


def schedule_free_average(_average: Any, new: Any, _step: jax.Array, opt_state: Any) -> Any:
    """{'params': x of 'schedule_free', 'batch_stats': of the newest step}; `new` contains y."""
    z, momentum = (optax.tree.get(opt_state, name) for name in ("z", "b1"))

    def x(y: jax.Array, z: Any) -> jax.Array:
        return y if isinstance(z, optax.MaskedNode) else (y - (1 - momentum) * z) / momentum

    return new | {"params": jax.tree.map(x, new["params"], z)}


def trust(coefficient: float) -> optax.GradientTransformation:
    """Scales the update of each kernel to `coefficient` times the kernel's norm."""
    ratio = optax.scale_by_trust_ratio(trust_coefficient=coefficient)
    return optax.masked(ratio, is_matrix)


def outside_classifiers(params: Any) -> Any:
    """True for the parameters that are not a classifier's."""

    def outside(path: tuple[Any, ...], _: Any) -> bool:
        return "classifier" not in [key.key for key in path]

    return jax.tree.map_with_path(outside, params)


def muon(momentum: float) -> optax.GradientTransformation:
    """The direction of 'muon': see `optimizer`."""

    def axes(params: Any) -> Any:
        def of_one(param: Any, outside: bool) -> Any:
            if not outside or param.ndim < 2:
                return None
            inputs, outputs = tuple(range(param.ndim - 1)), param.ndim - 1
            return optax.contrib.MuonDimensionNumbers(inputs, outputs)

        return jax.tree.map(of_one, params, outside_classifiers(params))

    return optax.contrib.muon(
        -1.0,  # cancels optax's minus: the rate follows later
        beta=momentum,
        adam_b1=momentum,
        muon_weight_dimension_numbers=axes,
        consistent_rms=0.2,
    )


def clipped(
    tx: optax.GradientTransformation, *, clip_norm: float, adaptive_clip: float
) -> optax.GradientTransformation:
    """`tx` of clipped gradients.

    Args:
        clip_norm: the greatest norm of all gradients together; 0: any.
        adaptive_clip: the greatest norm of each filter's gradient as a share of its weights' norm,
            for parameters outside the classifiers (Brock et al., 2021); 0: any.
    """
    adaptive = optax.masked(optax.adaptive_grad_clip(adaptive_clip), outside_classifiers)
    clips = [adaptive] * (adaptive_clip > 0)
    clips += [optax.clip_by_global_norm(clip_norm)] * (clip_norm > 0)
    return optax.chain(*clips, tx)
