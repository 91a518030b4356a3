"""What benchmarks/step_sides.py times beside PyTorch's is the network that PyTorch computed."""

import json

import jax
import numpy as np

from benchmarks import accelerators, step_sides
from tests import record_plain_torch as recorded
from tests.tools import test_program


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


def test_the_table_of_two_checkouts() -> None:
    row = accelerators.ROWS["8_h100_train"]
    found = {"temporary": 2e9, "accessed": None}
    own = accelerators.quantities(row, test_program.GPU, found)
    assert (own["instructions"], own["convolutions of cuDNN"], own["all-reduce f32"]) == (9, 3, 1)
    lines = accelerators.compare("x", own, own | {"temporary memory, GB": 4.0})
    assert ["x", "temporary memory, GB", 2.0, 4.0, 0.5] in lines
    assert accelerators.compare("x", own, {})[1] == ["x", "temporary memory, GB", 2.0]
