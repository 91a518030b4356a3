"""What a training step sends between devices: the gradients once, and next to nothing besides."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from inception.runtime import compiling, sharding
from inception.tools import bench, program
from tests import tiny

pytestmark = pytest.mark.usefixtures("short_network")


def sent_by(config: ConfigDict) -> tuple[list[dict[str, Any]], Any]:
    """What the tests' eight devices send in a step; the shapes of its state."""
    step, init = bench.compile_step(config, sharding.make_mesh(), training=True)
    return program.collectives(program.parse(step.as_text())), jax.eval_shape(init)


def nbytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["lrn", pytest.param("batch", marks=pytest.mark.faults)])
def test_a_step_sends_the_gradients_once(norm: str) -> None:
    sent, state = sent_by(tiny.config(f"--config.model.norm={norm}"))
    assert {row["kind"] for row in sent} == {"all-reduce"}  # nothing of the batch goes anywhere
    assert {row["dtype"] for row in sent} == {"f32"}
    statistics = nbytes(state.batch_stats)  # two a feature
    assert (statistics > 0) == (norm == "batch")
    # BatchNorm adds two sums a feature forwards and up to two backwards.
    scalars, total = 40 * 4, sum(row["bytes"] for row in sent)
    gradients = nbytes(state.params)
    assert gradients + statistics <= total <= gradients + 2 * statistics + scalars
    if norm == "lrn":
        assert [row["count"] for row in sent] == [1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_are_summed_in_the_dtype_asked_for(dtype: str) -> None:
    """CPUs' own compiler makes every sum float32: this is the program before it."""
    mesh = sharding.make_mesh()

    def gradient(params: jax.Array, stats: dict, rows: jax.Array) -> tuple:
        return params + rows.mean(), stats, {"loss": rows.mean()}

    spread = jax.jit(sharding.over_devices(mesh, gradient_dtype=dtype)(gradient))
    rows = jnp.arange(16, dtype=jnp.float32).reshape(2, 8) + 0.001
    text = spread.lower(jnp.ones(7), {}, rows).as_text()
    kind = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    assert f"-> tensor<7x{kind}>" in text and "-> tensor<f32>" in text
    grads, _, metrics = spread(jnp.ones(7), {}, rows)
    assert grads.dtype == jnp.float32
    assert metrics["loss"] == pytest.approx(7.501)
    assert grads[0] == pytest.approx(8.501, abs=1e-6 if dtype == "float32" else 0.05)
    assert (grads[0] == pytest.approx(8.501, abs=1e-4)) == (dtype == "float32")


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.faults), 2])
def test_mixing_sends_one_image_to_the_next_device(accumulate: int) -> None:
    config = tiny.config("--config.data.mixup=0.2", f"--config.optim.accumulate={accumulate}",
                         "--config.model.norm=none", "--config.model.heads=false")  # fmt: skip
    sent, _ = sent_by(config)
    images = [row for row in sent if row["dtype"] == "u8"]
    assert [(row["kind"], row["count"]) for row in images] == [("collective-permute", 1)]
    assert images[0]["bytes"] == config.input_px**2 * 3
    others = [row for row in sent if row["kind"] != "all-reduce" and row["dtype"] != "u8"]
    assert sum(row["bytes"] for row in others) <= 64  # labels and numbers


def test_all_sizes_compile_at_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = sharding.make_mesh()
    step = compiling.CompiledStep(
        lambda state, batch: state + batch["image"].shape[1], mesh, training=False, sizes=(4, 6, 4)
    )

    def batch(px: int) -> dict:
        arrays = {"image": np.zeros((8, px, px, 3), np.uint8), "label": np.zeros(8, np.int32)}
        return sharding.shard_batch(arrays, mesh)

    state = sharding.replicate(np.zeros((), np.int32), mesh)
    assert step(state, batch(6)) == 6 and len(step._compiled) == 2
    monkeypatch.setattr(step, "lower", None)
    assert step(state, batch(4)) == 4


def test_a_gathered_batch_would_be_seen() -> None:
    mesh = sharding.make_mesh()
    batch = jax.ShapeDtypeStruct((16, 5), jnp.uint8)
    compiled = compiling.CompiledStep(lambda _, x: x + 1, mesh, training=False).lower(0, batch)
    (sent,) = program.collectives(program.parse(compiled.compile().as_text()))
    assert (sent["kind"], sent["bytes"]) == ("all-gather", 16 * 5 // len(jax.devices()))
