"""Norms by module, along a run."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def of_modules(tree: dict[str, Any]) -> jax.Array:
    """The L2 norm of each module's arrays, float32 [modules]; modules sorted by name."""
    return jnp.stack([optax.global_norm(tree[module]) for module in sorted(tree)])
