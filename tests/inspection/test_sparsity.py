"""Zeros and dead units, against activations and a unit silenced by its bias."""

import functools

import jax
import numpy as np
import pytest

from inception.evaluation.features import activations
from inception.inspection import sparsity
from inception.model import TABLE_1, GoogLeNet
from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_network")]


def test_zeros_and_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inception.inspection.passes.BATCH", 4)
    model = GoogLeNet(classes=3, width=0.05, heads=False)
    variables = tiny.state(model).raw_variables()
    variables["params"]["4a"]["3x3"]["Conv_0"]["bias"][2] = -1e9
    images = np.random.default_rng(1).normal(0, 1, (7, 40, 40, 3)).astype("f")
    found = sparsity.zeros(model, variables, images)
    layers = jax.jit(functools.partial(activations, model))(variables, images)
    assert set(found) == set(layers) - {"classifier"} and set(TABLE_1) < set(found)
    for name, (zeros, awake) in found.items():
        x = np.asarray(layers[name])
        assert zeros == pytest.approx((x == 0).mean(), abs=1e-6)
        wanted = (x > 0).any(tuple(range(1, x.ndim - 1))).mean(0)
        np.testing.assert_allclose(awake, wanted, atol=1e-6)
    assert found["4a/3x3"][1][2] == 0
    assert found["4a"][1][layers["4a/1x1"].shape[-1] + 2] == 0  # the module's channel
    assert 0.1 < found["conv1"][0] < 0.9
