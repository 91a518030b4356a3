"""What a training step sends between devices: the gradients once, and next to nothing besides."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import communication
from inception.runtime import compiling, sharding
from tests import tiny


@pytest.mark.parametrize("norm", ["lrn", pytest.param("batch", marks=pytest.mark.slow)])
def test_a_step_sends_the_gradients_once(norm: str) -> None:
    config = tiny.config(f"--config.model.norm={norm}")
    compiled, param_bytes = communication.compile_step(config, jax.devices())
    sent = communication.collectives(compiled.as_text())
    assert {s.kind for s in sent} == {"all-reduce"}  # nothing of the batch goes anywhere

    kept = jax.tree.leaves(tiny.variables(config, seed=0)["batch_stats"])
    statistics = sum(x.nbytes for x in kept)  # two a feature
    assert (statistics > 0) == (norm == "batch")
    # BatchNorm adds two sums a feature forwards and up to two backwards.
    scalars = 40 * 4
    total = sum(s.bytes for s in sent)
    assert param_bytes + statistics <= total <= param_bytes + 2 * statistics + scalars
    assert sum(s.bytes for s in sent if "forward" in s.purpose) == statistics


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_mixing_sends_one_image_to_the_next_device(accumulate: int) -> None:
    config = tiny.config("--config.data.mixup=0.2", f"--config.optim.accumulate={accumulate}",
                         "--config.model.norm=none")  # fmt: skip
    compiled, _ = communication.compile_step(config, jax.devices())
    sent = communication.collectives(compiled.as_text())
    moved = [s for s in sent if s.kind != "all-reduce"]
    image = config.input_px**2 * 3
    assert [s.kind for s in moved if s.bytes >= image] == ["collective-permute"]
    assert sum(s.bytes for s in moved) <= image + 64  # and labels and numbers


def test_a_gathered_batch_would_be_seen() -> None:
    mesh = sharding.make_mesh()
    batch = jax.ShapeDtypeStruct((16, 5), jnp.uint8)
    compiled = compiling.CompiledStep(lambda _, x: x + 1, mesh, training=False).lower(0, batch)
    (sent,) = communication.collectives(compiled.compile().as_text())
    assert (sent.kind, sent.bytes) == ("all-gather", 16 * 5 // len(jax.devices()))


def test_a_collective_in_two_halves_counts_once() -> None:
    """As GPUs and TPUs have them, with tiled layouts and several arrays in one."""
    hlo = """
  %a = bf16[3,64]{1,0:T(8,128)(2,1)} fusion(%p.1), metadata={op_name="transpose(jvp(N))/dot"}
  %b = f32[]{:T(128)} fusion(%p.2), metadata={op_name="jit(step)/jvp()/neg"}
  %start = (bf16[3,64]{1,0:T(8,128)(2,1)}, f32[]{:T(128)}) all-reduce-start(%a, /*index=1*/%b), to_apply=%add
  %done = (bf16[3,64]{1,0:T(8,128)(2,1)}, f32[]{:T(128)}) all-reduce-done(%start)
"""
    sent = communication.collectives(hlo)
    assert [(s.collective, s.purpose, s.bytes) for s in sent] == [
        ("start", "gradients", 3 * 64 * 2), ("start", "metrics", 4)
    ]  # fmt: skip
