"""Gradients by depth: how strongly the loss of each head reaches each module.

Paper, section 5: the auxiliary heads shall "combat the vanishing gradient problem". The gradient of
a sum of losses is the sum of their gradients, so that one backward pass for each head answers for
every choice of heads and weights.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from inception import UserError
from inception.model import HEADS_ON, TRUNK, GoogLeNet
from inception.step import head_losses

MAIN = "main"


class Gradients(NamedTuple):
    """Scalar products of the gradients of the heads' losses, of each module's parameters."""

    modules: tuple[str, ...]  # from conv1 to the classifier, then the heads
    heads: tuple[str, ...]  # main, then 4a and 4d as far as the network has them
    products: np.ndarray  # float64 [modules, heads, heads]

    def norms(self, **weights: float) -> np.ndarray:
        """The L2 norm of the gradient of the weighted sum of the losses, float64 [modules].

        Args:
            weights: by head, 0 for the others, as in ``norms(**{"main": 1, "4a": 0.3})``.
        """
        w = np.asarray([weights.get(head, 0.0) for head in self.heads])
        return np.sqrt(np.maximum(np.einsum("mij,i,j->m", self.products, w, w), 0))

    def cosines(self) -> np.ndarray:
        """Cosines between the heads' gradients, float64 [modules, heads, heads].

        0 where one is 0: a head's loss does not depend on the modules above it.
        """
        alone = np.sqrt(np.diagonal(self.products, axis1=1, axis2=2))  # [modules, heads]
        both = alone[:, :, None] * alone[:, None]
        return np.divide(self.products, both, out=np.zeros_like(both), where=both > 0)


def of_heads(model: GoogLeNet) -> tuple[str, ...]:
    """The auxiliary heads of a network, from below."""
    return HEADS_ON[model.heads_on] if model.heads else ()


def check_heads(model: GoogLeNet, variables: Any) -> None:
    """Raises UserError unless the network and its weights have auxiliary heads."""
    if not model.heads:
        raise UserError("`heads`=False: the network has no auxiliary heads to look at")
    missing = [head for head in of_heads(model) if f"head_{head}" not in variables["params"]]
    if missing:
        raise UserError(
            f"`checkpoint` lacks the auxiliary heads on {' and '.join(missing)}: published "
            "weights often do; a run with `heads`=True saves them"
        )


def by_module(
    model: GoogLeNet, variables: Any, images: Any, labels: Any, *, seed: int = 0
) -> Gradients:
    """Gradients of each head's mean cross-entropy, as in training: with dropout, batch statistics.

    Args:
        variables: {'params', with BatchNorm also 'batch_stats'}, at initialisation or trained.
        images: normalised, float32 [b, px, px, 3]; one batch.
        labels: int [b].
        seed: of dropout's masks.

    Raises:
        UserError: weights without the heads that the network has; use model.clone(heads=False).
    """
    if model.heads:
        check_heads(model, variables)
    heads, params = (MAIN, *of_heads(model)), variables["params"]
    modules = [name for name in (*TRUNK, "fc", "classifier") if name in params]
    modules += [f"head_{head}" for head in heads[1:]]
    found = _products(variables, images, labels, jax.random.key(seed), model=model, heads=heads)
    products = np.stack([np.asarray(found[module], float) for module in modules])
    return Gradients(tuple(modules), heads, products)


@functools.partial(jax.jit, static_argnames=("model", "heads"))
def _products(
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    model: GoogLeNet,
    heads: tuple[str, ...],
) -> dict[str, jax.Array]:
    targets = jax.nn.one_hot(labels, model.classes)

    def losses(params: Any) -> list[jax.Array]:
        logits, _ = model.apply(
            {**variables, "params": params},
            images,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        of_head = head_losses(logits, targets, label_smoothing=0.0)
        return [of_head[head] for head in heads]

    values, pull_back = jax.vjp(losses, variables["params"])
    one_hot = np.eye(len(values), dtype=np.float32)
    gradients = [pull_back([jnp.asarray(x) for x in row])[0] for row in one_hot]

    def product(a: Any, b: Any) -> jax.Array:
        return jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, a, b))

    return {
        module: jnp.stack(
            [jnp.stack([product(a[module], b[module]) for b in gradients]) for a in gradients]
        )
        for module in variables["params"]
    }
