"""What the devices run in training: TrainState, the loss, the train step."""

import functools
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from inception import optim, pixels

INIT, DROPOUT, COLOR, MIX = range(4)  # streams of random numbers


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
    logits: dict[str, jax.Array], targets: jax.Array, *, label_smoothing: float
) -> dict[str, jax.Array]:
    """Mean cross-entropy in nats of each head, float32 scalars; targets float32 [b, classes]."""
    targets = optax.smooth_labels(targets, label_smoothing)
    return {
        head: optax.softmax_cross_entropy(head_logits, targets).mean()
        for head, head_logits in logits.items()
    }


def _loss(
    params: Any,
    batch_stats: Any,
    batch: dict[str, Any],
    *,
    model: nn.Module,
    color_key: jax.Array,
    dropout_key: jax.Array,
    mix_key: jax.Array,
    colors: dict[str, float],
    mixing: dict[str, float],
    normalization: str,
    head_weight: float,
    label_smoothing: float,
) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
    """(loss, (the next batch_stats, metrics)) of a micro-batch, which says its 'row's.

    Where it is mixed, 'other' is the batch of the rows that each is mixed with.
    """

    def of_rows(key: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, batch["row"])

    def seen(batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        images = pixels.distort_colors(batch["image"], of_rows(color_key, batch), **colors)
        return images, jax.nn.one_hot(batch["label"], model.classes)

    images, targets = seen(batch)
    if "other" in batch:
        own = pixels.own_share(of_rows(mix_key, batch), px=images.shape[1], **mixing)
        others, other_targets = seen(batch["other"])
        images = own * images + (1 - own) * others
        share = own.mean((1, 2))
        targets = share * targets + (1 - share) * other_targets
    logits, updates = model.apply(
        {"params": params, "batch_stats": batch_stats},
        pixels.normalize(images, method=normalization),
        train=True,
        rows=batch["row"],
        rngs={"dropout": dropout_key},
        mutable=["batch_stats"],
    )
    losses = head_losses(logits, targets, label_smoothing=label_smoothing)
    heads = [loss for head, loss in losses.items() if head != "main"]
    total = losses["main"] + head_weight * sum(heads, jnp.zeros(()))
    metrics = {"loss": total}
    for head, head_logits in logits.items():
        metrics[f"loss_{head}"] = losses[head]
        guessed = jnp.take_along_axis(targets, head_logits.argmax(-1, keepdims=True), -1)
        metrics["top1" if head == "main" else f"top1_{head}"] = guessed.mean()
    return total, (updates.get("batch_stats", {}), metrics)


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    seed: int,
    data_seed: int,
    colors: dict[str, float],
    mixing: dict[str, float],
    normalization: str,
    head_weight: float,
    label_smoothing: float,
    polyak_decay: float,
    accumulate: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One SGD step on the loss main + head_weight * (4a + 4d), paper section 5.

    The batch is computed in `accumulate` micro-batches, one after the other, and the mean of
    their gradients makes the step: the same as of the whole batch within float32's rounding.
    NOTE: but not with BatchNorm, whose statistics are those of each micro-batch; the running ones
    move once a micro-batch.

    Random numbers are functions of (seed, step, row of the batch): nothing about them is stored,
    and they do not depend on micro-batches, devices or processes.

    Args:
        batch: {'image': uint8 [b, px, px, 3], 'label': int32 [b]}; accumulate times the number of
            devices divides b.
        mixing: {'mixup', 'cutmix'}, see `pixels.own_share`; above 0 each image is mixed with the
            one before it in the batch. The accuracies are then the shares of the guessed labels.

    Returns:
        The next state, and scalars: 'loss', 'grad_norm'; 'loss_HEAD' and 'top1_HEAD' for main,
        4a and 4d, where main's accuracy is called 'top1'.
    """
    color_key, dropout_key, mix_key = (
        jax.random.fold_in(jax.random.fold_in(jax.random.key(s), stream), state.step)
        for s, stream in ((data_seed, COLOR), (seed, DROPOUT), (data_seed, MIX))
    )
    loss_fn = functools.partial(
        _loss,
        model=model,
        color_key=color_key,
        dropout_key=dropout_key,
        mix_key=mix_key,
        colors=colors,
        mixing=mixing,
        normalization=normalization,
        head_weight=head_weight,
        label_smoothing=label_smoothing,
    )

    def share_of_loss(*args: Any) -> tuple[jax.Array, Any]:
        """What a micro-batch adds to the loss of the whole batch."""
        loss, others = loss_fn(*args)
        return loss / accumulate, others

    def add_gradient(carry: Any, micro_batch: Any) -> tuple[Any, dict[str, jax.Array]]:
        total, batch_stats = carry
        gradient = jax.grad(share_of_loss, has_aux=True)
        grads, (batch_stats, metrics) = gradient(state.params, batch_stats, micro_batch)
        return (jax.tree.map(jax.lax.add, total, grads), batch_stats), metrics

    def split(x: jax.Array) -> jax.Array:
        # Micro-batch i has the rows i, i + accumulate, ...: of each device as many, where they are.
        return x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)

    rows: dict[str, Any] = {**batch, "row": jnp.arange(len(batch["label"]))}
    if any(mixing.values()):
        # Before it is split: which image is mixed with which depends on the whole batch alone.
        rows["other"] = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), rows)
    micro_batches = jax.tree.map(split, rows)
    zeros = jax.tree.map(jnp.zeros_like, state.params)  # float32, whatever the network computes in
    (grads, batch_stats), metrics = jax.lax.scan(
        add_gradient, (zeros, state.batch_stats), micro_batches
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if average:
        latest = {"params": params, "batch_stats": batch_stats}
        average = optim.polyak(average, latest, state.step, decay=polyak_decay)
    metrics = {name: values.mean() for name, values in metrics.items()}
    metrics["grad_norm"] = optim.global_norm(grads)
    return TrainState(state.step + 1, params, batch_stats, opt_state, average), metrics
