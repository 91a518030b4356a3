"""Gradients by depth, and their norms along a run."""

from typing import Any

import jax
import numpy as np
import optax
import pytest

from inception.inspection import gradients
from inception.model import TRUNK, GoogLeNet
from inception.step import head_losses
from tests import tiny

pytestmark = pytest.mark.usefixtures("short_network")
PX = 65
MODEL = GoogLeNet(classes=3, width=0.05)


def batch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    images = rng.normal(size=(4, PX, PX, 3)).astype("f")
    return images, np.arange(4, dtype=np.int32) % 3


def norms_of_sum(
    model: GoogLeNet, variables: Any, images: Any, labels: Any, weights: dict[str, float]
) -> dict[str, float]:
    """As training has it: one gradient of the whole loss."""

    @jax.jit
    def gradient(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            logits, _ = model.apply(
                {**variables, "params": params}, images, train=True,
                rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"],
            )  # fmt: skip
            losses = head_losses(logits, jax.nn.one_hot(labels, 3), label_smoothing=0.0)
            return sum(np.float32(w) * losses[head] for head, w in weights.items())

        return jax.grad(loss)(params)

    return {name: float(optax.global_norm(g)) for name, g in gradient(variables["params"]).items()}


def test_norms_of_any_sum_of_losses_follow_from_one_backward_pass_a_head(
    rng: np.random.Generator,
) -> None:
    variables, (images, labels) = tiny.state(MODEL).raw_variables(), batch(rng)
    found = gradients.by_module(MODEL, variables, images, labels)
    assert found.heads == ("main", "4a", "4d")
    assert set(found.modules) == set(variables["params"]) and found.modules[0] == "conv1"
    for weights in ({"main": 1.0, "4a": 0.3, "4d": 0.3}, {"4d": 1.0}):
        expected = norms_of_sum(MODEL, variables, images, labels, weights)
        norms = dict(zip(found.modules, found.norms(**weights), strict=True))
        for module, norm in expected.items():
            np.testing.assert_allclose(norms[module], norm, rtol=1e-3, atol=1e-6)


def test_a_heads_loss_reaches_what_is_below_it_alone(rng: np.random.Generator) -> None:
    variables, (images, labels) = tiny.state(MODEL).raw_variables(), batch(rng)
    found = gradients.by_module(MODEL, variables, images, labels)
    trunk = [name for name in TRUNK if name in found.modules]
    for head in ("4a", "4d"):
        norms = dict(zip(found.modules, found.norms(**{head: 1.0}), strict=True))
        reached = {*trunk[: trunk.index(head) + 1], f"head_{head}"}
        assert {module for module, norm in norms.items() if norm > 0} == reached
    cosines = found.cosines()
    assert np.all(np.abs(cosines) <= 1 + 1e-6)
    below = found.modules.index("4a")
    np.testing.assert_allclose(np.diagonal(cosines[: below + 1], axis1=1, axis2=2), 1, rtol=1e-6)
    assert cosines[found.modules.index("classifier"), 0, 1] == 0


def test_a_network_without_heads_and_weights_without_heads(rng: np.random.Generator) -> None:
    variables, (images, labels) = tiny.state(MODEL).raw_variables(), batch(rng)
    params = {k: v for k, v in variables["params"].items() if not k.startswith("head")}
    without = {**variables, "params": params}
    found = gradients.by_module(MODEL.clone(heads=False), without, images, labels)
    assert found.heads == ("main",) and found.products.shape == (len(params), 1, 1)
    with tiny.refused(r"^--checkpoint lacks the auxiliary heads 4a and 4d: ", "checkpoint"):
        gradients.by_module(MODEL, without, images, labels)
