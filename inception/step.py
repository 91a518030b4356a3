"""The program of the devices in training: TrainState, the loss, the train step."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from inception import ops, pixels

INIT, DROPOUT, COLOR, MIX, ERASE = range(5)  # streams of random numbers
OF_DATA = {"color_key": COLOR, "mix_key": MIX, "erase_key": ERASE}


@flax.struct.dataclass
class TrainState:
    """What must survive a restart. `average` is empty if the run keeps no average."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any

    def raw_variables(self) -> dict[str, Any]:
        """The parameters and statistics of this step."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def eval_variables(self) -> dict[str, Any]:
        """The variables that evaluation uses: the average, or else this step's."""
        return self.average or self.raw_variables()


def create_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    seed: int,
    input_px: int,
    averaged: bool = False,
) -> TrainState:
    """The state before the first step, a function of the seed."""
    key = jax.random.fold_in(jax.random.key(seed), INIT)
    images = jnp.zeros((1, input_px, input_px, 3))
    variables = model.init({"params": key, "dropout": key}, images, train=True)
    return first_state(variables, tx, averaged=averaged)


def first_state(
    variables: Any, tx: optax.GradientTransformation, *, averaged: bool = False
) -> TrainState:
    """The state before the first step, from {'params', with BatchNorm also 'batch_stats'}."""
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    average = {"params": params, "batch_stats": batch_stats} if averaged else {}
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, tx.init(params), average)


def head_losses(
    logits: dict[str, jax.Array],
    targets: jax.Array,
    *,
    label_smoothing: float,
    smooth_heads: bool = True,
    class_weights: Sequence[float] = (),
) -> dict[str, jax.Array]:
    """Each head's mean cross-entropy in nats, a float32 scalar; targets float32 [b, classes].

    An image's loss is multiplied by the mean of `class_weights` under its targets. Labels are
    smoothed for the auxiliary heads too if `smooth_heads`.
    """
    weights = targets @ jnp.asarray(class_weights, jnp.float32) if class_weights else 1.0
    smooth = optax.smooth_labels(targets, label_smoothing)
    of_head = {head: smooth if smooth_heads or head == "main" else targets for head in logits}
    return {
        head: (weights * optax.softmax_cross_entropy(head_logits, of_head[head])).mean()
        for head, head_logits in logits.items()
    }


def loss_and_metrics(
    params: Any,
    batch_stats: Any,
    batch: dict[str, Any],
    *,
    model: nn.Module,
    augment: Callable[[dict[str, Any]], tuple[jax.Array, jax.Array]],
    normalization: str,
    dropout_key: jax.Array,
    head_weight: jax.Array | float,
    teach: Callable[..., dict[str, jax.Array]] | None = None,
    **targets_of: Any,
) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
    """(main + head_weight * (4a + 4d), (the next batch_stats, metrics)), paper section 5.

    Args:
        batch: as for `pixels.augment`; `augment` is that function with the run's knobs.
        teach: (losses by head, logits, images of 0-255) -> the losses with the teachers' part.
        targets_of: keyword arguments of `head_losses`.
    """
    images, targets = augment(batch)
    logits, updates = model.apply(
        {"params": params, "batch_stats": batch_stats},
        pixels.normalize(images, method=normalization),
        train=True,
        rows=batch["row"],
        rngs={"dropout": dropout_key},
        mutable=["batch_stats"],
    )
    losses = head_losses(logits, targets, **targets_of)
    if teach:
        losses = teach(losses, logits, images)
    heads = [loss for head, loss in losses.items() if head != "main"]
    total = losses["main"] + head_weight * sum(heads, jnp.zeros(()))
    metrics = {"loss": total}
    for head, head_logits in logits.items():
        metrics[f"loss_{head}"] = losses[head]
        credit = jnp.take_along_axis(targets, head_logits.argmax(-1, keepdims=True), -1)
        metrics["top1" if head == "main" else f"top1_{head}"] = credit.mean()
    return total, (updates.get("batch_stats", {}), metrics)


def in_micro_batches(
    batch: dict[str, jax.Array], accumulate: int, *, mixed_with: int
) -> dict[str, Any]:
    """[b, ...] -> [accumulate, b / accumulate, ...]; adds 'row', and 'other': some rows before."""
    examples: dict[str, Any] = {**batch, "row": jnp.arange(len(batch["label"]))}
    if mixed_with:
        # Before the split: the pairs of mixed images then depend on the global batch only.
        examples["other"] = jax.tree.map(lambda x: jnp.roll(x, mixed_with, axis=0), examples)

    def split(x: jax.Array) -> jax.Array:
        # Micro-batch i takes the rows i, i + accumulate, ...: each device contributes equally many,
        # and no row moves to another device.
        return x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, examples)


def mean_gradient(
    loss: Callable[..., Any], params: Any, batch_stats: Any, micro_batches: dict[str, Any]
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """(gradient of the mean loss, the next batch_stats, mean metrics) over the micro-batches.

    Args:
        loss: (params, batch_stats, micro-batch) -> the result of `loss_and_metrics`.
    """
    count = len(micro_batches["label"])

    def share_of_loss(*args: Any) -> tuple[jax.Array, Any]:
        total, others = loss(*args)
        return total / count, others

    def add(carry: Any, micro_batch: Any) -> tuple[Any, dict[str, jax.Array]]:
        total, batch_stats = carry
        gradient = jax.grad(share_of_loss, has_aux=True)
        grads, (batch_stats, metrics) = gradient(params, batch_stats, micro_batch)
        return (jax.tree.map(jnp.add, total, grads), batch_stats), metrics

    zeros = jax.tree.map(jnp.zeros_like, params)  # float32, also for a bfloat16 network
    (grads, batch_stats), metrics = jax.lax.scan(add, (zeros, batch_stats), micro_batches)
    return grads, batch_stats, {name: values.mean() for name, values in metrics.items()}


def norms_by_module(tree: dict[str, Any]) -> jax.Array:
    """The L2 norm of each module's arrays, float32 [modules]; modules sorted by name."""
    return jnp.stack([optax.global_norm(tree[module]) for module in sorted(tree)])


def stream_key(seed: int, stream: int, step: jax.Array) -> jax.Array:
    """The key of a step in a stream of random numbers."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), step)


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
    erasing: float = 0.0,
    repeats: int = 1,
    normalization: str,
    loss: dict[str, Any],
    head_schedule: optax.Schedule = lambda _: 1.0,
    averaging: Callable[..., Any] | None = None,
    accumulate: int = 1,
    gradient_norms: bool = False,
    over_devices: Callable[[Callable], Callable] = lambda function: function,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of the optimizer `tx`, its gradient summed over `accumulate` micro-batches.

    Random numbers are functions of (seed, step, row of the batch), whatever the devices.
    The sum equals the global batch's gradient up to rounding. NOTE: BatchNorm is the exception:
    each micro-batch has its own statistics and updates the running statistics.

    Args:
        batch: {'image': uint8 [b, px, px, 3], 'label': int32 [b]}; accumulate * devices divide b.
        mixing: {'mixup', 'cutmix'}, see `mixing.own_share`; if one is above 0, each image is mixed
            with the one `repeats` before it, and accuracy is the predicted class's target weight.
        loss: arguments of `loss_and_metrics`; `head_schedule` multiplies 'head_weight'.
        averaging: `optim.polyak` with its decay, or `optimizers.schedule_free_average`.
        over_devices: see `sharding.over_devices`; the model's batch_axis must be of the same mesh.

    Returns:
        The next state, and scalars: 'loss', 'grad_norm'; 'loss_HEAD' and 'top1_HEAD' for main,
        4a and 4d, except that main's accuracy is called 'top1'; 'gradient_norms' [modules].
    """
    keys: Any = {name: stream_key(data_seed, s, state.step) for name, s in OF_DATA.items()}
    augment = functools.partial(
        pixels.augment, classes=model.classes, colors=colors, mixing=mixing, erasing=erasing, **keys
    )
    loss = loss | {"head_weight": loss["head_weight"] * head_schedule(state.step)}
    loss_of = functools.partial(
        loss_and_metrics, model=model, augment=augment, normalization=normalization,
        dropout_key=stream_key(seed, DROPOUT, state.step), **loss,
    )  # fmt: skip
    parts = in_micro_batches(batch, accumulate, mixed_with=repeats * any(mixing.values()))
    gradient = over_devices(functools.partial(mean_gradient, loss_of))
    grads, batch_stats, metrics = gradient(state.params, state.batch_stats, parts)
    grads = ops.to_update(grads)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    latest = {"params": params, "batch_stats": batch_stats}
    average = averaging(state.average, latest, state.step, opt_state) if averaging else {}
    by_module = norms_by_module(grads)
    metrics["grad_norm"] = jnp.linalg.norm(by_module)
    if gradient_norms:
        metrics["gradient_norms"] = by_module
    return TrainState(state.step + 1, params, batch_stats, opt_state, average), metrics
