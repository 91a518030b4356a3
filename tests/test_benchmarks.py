"""What benchmarks/step_sides.py times beside PyTorch's is the network that PyTorch computed."""

import json

import jax
import numpy as np

from benchmarks import step_sides
from tests import record_plain_torch as recorded


def test_plain_v1_computes_what_pytorch_computed() -> None:
    """Logits, loss, gradients and multiply-adds of tests/recorded/plain.json, made by torch."""
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("data",), axis_types=auto)
    got = recorded.shown(step_sides.Ours(*recorded.WORK, dropout=False, mesh=mesh).computed())
    expected = json.loads(recorded.RECORDED.read_text())
    assert got.keys() == expected.keys() and got["macs"] == expected["macs"]
    for name, values in expected.items():
        scale = np.abs(values).max()
        tolerance = 1e-3 if "logits" in name or name == "loss" else 1e-2
        np.testing.assert_allclose(got[name], values, atol=tolerance * scale, rtol=0, err_msg=name)
