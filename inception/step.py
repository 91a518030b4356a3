"""What the devices run in training: TrainState, the loss, the train step."""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from inception import optim, pixels

INIT, DROPOUT, COLOR = range(3)  # streams of random numbers


@flax.struct.dataclass
class TrainState:
    """What must survive a restart. `average` is empty without Polyak averaging."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any

    def raw_variables(self) -> dict[str, Any]:
        """The parameters and statistics of this step."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def eval_variables(self) -> dict[str, Any]:
        """What evaluation uses: the Polyak average if there is one."""
        return self.average or self.raw_variables()


def create_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    seed: int,
    input_px: int,
    polyak_decay: float,
) -> TrainState:
    """The state before the first step, a function of the seed."""
    key = jax.random.fold_in(jax.random.key(seed), INIT)
    images = jnp.zeros((1, input_px, input_px, 3))
    variables = model.init({"params": key, "dropout": key}, images, train=True)
    return first_state(variables, tx, polyak_decay=polyak_decay)


def first_state(
    variables: Any, tx: optax.GradientTransformation, *, polyak_decay: float
) -> TrainState:
    """The state before the first step from {'params', and with BatchNorm 'batch_stats'}."""
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    average = {"params": params, "batch_stats": batch_stats} if polyak_decay > 0 else {}
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, tx.init(params), average)


def head_losses(
    logits: dict[str, jax.Array], labels: jax.Array, *, label_smoothing: float
) -> dict[str, jax.Array]:
    """Mean cross-entropy in nats of each head, float32 scalars."""
    losses = {}
    for head, head_logits in logits.items():
        targets = jax.nn.one_hot(labels, head_logits.shape[-1])
        targets = optax.smooth_labels(targets, label_smoothing)
        losses[head] = optax.softmax_cross_entropy(head_logits, targets).mean()
    return losses


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    seed: int,
    data_seed: int,
    colors: dict[str, float],
    normalization: str,
    head_weight: float,
    label_smoothing: float,
    polyak_decay: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One SGD step on the loss main + head_weight * (4a + 4d), paper section 5.

    Random numbers are functions of (seed, step): nothing about them is stored.

    Args:
        batch: {'image': uint8 [b, px, px, 3], 'label': int32 [b]}.

    Returns:
        The next state, and scalars: 'loss', 'grad_norm'; 'loss_HEAD' and 'top1_HEAD' for main,
        4a and 4d, where main's accuracy is called 'top1'.
    """
    color_key, dropout_key = (
        jax.random.fold_in(jax.random.fold_in(jax.random.key(s), stream), state.step)
        for s, stream in ((data_seed, COLOR), (seed, DROPOUT))
    )
    images = pixels.distort_colors(batch["image"], color_key, **colors)
    images = pixels.normalize(images, method=normalization)

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        logits, updates = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            rngs={"dropout": dropout_key},
            mutable=["batch_stats"],
        )
        losses = head_losses(logits, batch["label"], label_smoothing=label_smoothing)
        heads = [loss for head, loss in losses.items() if head != "main"]
        total = losses["main"] + head_weight * sum(heads, jnp.zeros(()))
        return total, (losses, logits, updates.get("batch_stats", {}))

    (loss, (losses, logits, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
        state.params
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if average:
        latest = {"params": params, "batch_stats": batch_stats}
        average = optim.polyak(average, latest, state.step, decay=polyak_decay)

    metrics = {"loss": loss, "grad_norm": optax.global_norm(grads)}
    for head, head_logits in logits.items():
        metrics[f"loss_{head}"] = losses[head]
        correct = head_logits.argmax(-1) == batch["label"]
        metrics["top1" if head == "main" else f"top1_{head}"] = correct.astype(jnp.float32).mean()
    return TrainState(state.step + 1, params, batch_stats, opt_state, average), metrics
