"""Effective ranks of known covariances; narrower reductions where nothing, or all, is lost."""

import functools
from typing import Any

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies

from inception import UserError
from inception.evaluation.features import activations
from inception.inspection import redundancy
from inception.model import GoogLeNet
from inception.tools.audit import layer_macs, trace
from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_network")]

PX, CLASSES = 40, 5


@functools.lru_cache
def network(**variant: Any) -> tuple[GoogLeNet, Any, np.ndarray, np.ndarray]:
    """(model, variables, normalised images, labels)"""
    model = GoogLeNet(classes=CLASSES, width=0.1, heads=False, **variant)
    rng = np.random.default_rng(1)
    images = rng.normal(0, 1, (7, PX, PX, 3)).astype("f")
    return model, tiny.state(model).raw_variables(), images, np.arange(7) % CLASSES


@hypothesis.given(strategies.integers(1, 12), strategies.integers(0, 99))
def test_effective_rank(size: int, seed: int) -> None:
    """k of equal directions; rotations and scales change nothing; never over the rank."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    equal = np.diag([3.0] * size + [0.0] * (12 - size))
    assert redundancy.effective_rank(rotation @ equal @ rotation.T) == pytest.approx(size)
    some = np.diag(rng.uniform(0, 1, 12) * (np.arange(12) < size))
    rank = redundancy.effective_rank(some)
    assert 1 - 1e-9 <= rank <= size + 1e-9
    assert redundancy.effective_rank(rotation @ some @ rotation.T * 7) == pytest.approx(rank)


def test_effective_rank_of_nothing() -> None:
    assert redundancy.effective_rank(np.zeros((3, 3))) == 0


@pytest.mark.parametrize("norm", ["lrn", pytest.param("batch", marks=pytest.mark.faults)])
def test_moments_are_those_of_all_positions(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, variables, images, _ = network(norm=norm)
    monkeypatch.setattr("inception.inspection.passes.BATCH", 3)  # of seven: unequal batches merge
    found = redundancy.moments(model, variables, images)
    layers = jax.jit(functools.partial(activations, model))(variables, images)
    for name, source in (("3b", "3a"), ("4d", "4a"), ("5b", "4d")):
        x = np.asarray(layers[source], float)
        x = x.reshape(-1, x.shape[-1])
        np.testing.assert_allclose(found[name].mean, x.mean(0), rtol=1e-4, atol=1e-6)
        wanted = np.cov(x.T, bias=True)
        close = {"rtol": 1e-3, "atol": 1e-5 * wanted.max()}
        np.testing.assert_allclose(found[name].covariance, wanted, **close)
        for reduction in redundancy.REDUCTIONS:
            conv = variables["params"][name][reduction]["Conv_0"]
            y = x @ conv["kernel"][0, 0] + conv.get("bias", 0)
            own = found[f"{name}/{reduction}"]
            scale = 1 / np.sqrt(1 + 1e-3) if norm == "batch" else 1
            np.testing.assert_allclose(own.mean, y.mean(0) * scale, rtol=1e-3, atol=1e-4)
            wanted = np.atleast_2d(np.cov(y.T, bias=True)) * scale**2
            close = {"rtol": 1e-3, "atol": 1e-5 * wanted.max()}
            np.testing.assert_allclose(own.covariance, wanted, **close)
            assert found[name].positions == own.positions == len(x)
    assert len(found) == 3 * len([row for row in found if "/" not in row])


def test_narrower_reductions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of half the rank lose nothing at a half; all lose something at an eighth."""
    monkeypatch.setattr("inception.inspection.passes.BATCH", 4)
    model, variables, images, labels = network()
    rng = np.random.default_rng(2)

    def narrow(path: Any, kernel: np.ndarray) -> np.ndarray:
        if path[1].key not in redundancy.REDUCTIONS or path[-1].key != "kernel":
            return kernel
        *_, c, r = kernel.shape
        wide = rng.normal(size=(c, max(1, r // 2))) @ rng.normal(size=(max(1, r // 2), r))
        return (wide / np.sqrt(c * r / 2))[None, None].astype("f")

    params = jax.tree_util.tree_map_with_path(narrow, variables["params"])
    variables = {**variables, "params": params}
    seen = redundancy.moments(model, variables, images)
    found = redundancy.narrowed(model, variables, images, labels, seen)
    logits = tiny.logits(model, variables, images).astype(float)
    loss = np.log(np.exp(logits).sum(-1)) - logits[np.arange(7), labels]
    losses = found["cross_entropy"]
    np.testing.assert_allclose(losses[:2], loss.mean(), rtol=1e-4)
    assert abs(losses[3] - losses[0]) > 1e-3
    assert found["top1"][0] == found["top1"][1] == (logits.argmax(-1) == labels).mean()
    assert found["fractions"].tolist() == [1, 0.5, 0.25, 0.125]


def test_multiply_adds_are_audits() -> None:
    model, variables, images, labels = network()
    seen = redundancy.moments(model, variables, images[:2])
    few = images[:2], labels[:2]
    macs = redundancy.narrowed(model, variables, *few, seen, (1.0, 0.5))["macs"]
    params, outputs = trace(model, (1, PX, PX, 3))
    whole = layer_macs(params, outputs)
    assert macs[0] == sum(whole.values())
    saved = 0
    for path, n in whole.items():
        if len(path) == 3 and path[1] in redundancy.REDUCTIONS:
            *_, c, r = params[*path, "kernel"].shape
            k = max(1, round(r / 2))
            saved += n - n // (c * r) * min(c * r, k * (c + r))
    assert macs[0] - macs[1] == saved > 0


def test_wrong_arguments_are_one_line() -> None:
    model, variables, images, labels = network()
    with pytest.raises(UserError, match=r"`module=naive` has no 1x1 reductions"):
        redundancy.narrowed(model.clone(module="naive"), variables, images, labels, {})
    with pytest.raises(ValueError, match="7 images and 6 labels"):
        redundancy.narrowed(model, variables, images, labels[:6], {})
