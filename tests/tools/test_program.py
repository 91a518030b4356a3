"""What is read from a program's text: of programs compiled here, and of lines that a GPU's or a TPU's has."""

import math

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from inception.tools import estimate, program
from inception.tools.topology import GPUS, TPUS, Topology

GPU = """HloModule jit_step, is_scheduled=true

FileNames
1 "/x/inception/optim.py"
2 "/x/inception/pixels.py"

FunctionNames
1 "polyak"
2 "normalize"

FileLocations
1 {file_name_id=1 function_name_id=1 line=1}
2 {file_name_id=2 function_name_id=2 line=1}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}

%dots (p.0: bf16[4,8], p.1: bf16[8,16]) -> f32[4,16] {
  %p.0 = bf16[4,8]{1,0} parameter(0)
  %p.1 = bf16[8,16]{1,0} parameter(1)
  ROOT %dot.1 = f32[4,16]{1,0} dot(%p.0, %p.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(step)/jvp(GoogLeNet)/classifier/dot_general"}
}

%body (arg: (s32[], f32[4,16])) -> (s32[], f32[4,16]) {
  %arg = (s32[], f32[4,16]{1,0}) parameter(0)
  %got = f32[4,16]{1,0} get-tuple-element(%arg), index=1
  %loop_add = f32[4,16]{1,0} fusion(%got), kind=kLoop, calls=%nothing, metadata={op_name="jit(step)/while/body/add" stack_frame_id=2}
  ROOT %made = (s32[], f32[4,16]{1,0}) tuple(%got, %loop_add)
}

ENTRY %main (x: bf16[2,6,6,4], k: bf16[8,3,3,4], b: f32[8], q: bf16[4,8], w: bf16[8,16]) -> f32[4,16] {
  %x = bf16[2,6,6,4]{3,2,1,0} parameter(0)
  %k = bf16[8,3,3,4]{3,2,1,0} parameter(1)
  %b = f32[8]{0} parameter(2)
  %q = bf16[4,8]{1,0} parameter(3)
  %w = bf16[8,16]{1,0} parameter(4)
  %conv = (bf16[2,6,6,8]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k, %b), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBiasActivationForward", metadata={op_name="jit(step)/jvp(GoogLeNet)/3a/3x3/Conv_0/conv_general_dilated"}, backend_config={"cudnn_conv_backend_config":{"activation_mode":"kRelu"}}
  %y = bf16[2,6,6,8]{3,2,1,0} get-tuple-element(%conv), index=0
  %filter = (bf16[8,3,3,4]{3,2,1,0}, u8[0]{0}) custom-call(%x, %y), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %input = (bf16[2,6,6,4]{3,2,1,0}, u8[0]{0}) custom-call(%y, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %product = f32[4,16]{1,0} fusion(%q, %w), kind=kCustom, calls=%dots
  %all-reduce-start = f32[4,16]{1,0} all-reduce-start(%product), channel_id=1
  %all-reduce-done = f32[4,16]{1,0} all-reduce-done(%all-reduce-start)
  %begun = (s32[], f32[4,16]{1,0}) tuple(%all-reduce-done)
  %while = (s32[], f32[4,16]{1,0}) while(%begun), condition=%unread, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %last = f32[4,16]{1,0} get-tuple-element(%while), index=1
  ROOT %update = f32[4,16]{1,0} fusion(%last), kind=kLoop, calls=%nothing, metadata={op_name="jit(step)/add" stack_frame_id=1}
}
"""
TPU = """HloModule jit_step

ENTRY %main (x: bf16[8,19,19,48]) -> bf16[8,9,9,48] {
  %x = bf16[8,19,19,48]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  %copy-start = (bf16[8,19,19,48]{3,0,2,1:T(8,128)(2,1)S(1)}, bf16[8,19,19,48]{3,0,2,1:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%x)
  %copy-done = bf16[8,19,19,48]{3,0,2,1:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  ROOT %fusion.1 = bf16[8,9,9,48]{3,0,2,1:T(8,128)(2,1)S(1)} fusion(%copy-done), kind=kOutput, calls=%unread, metadata={op_name="jit(step)/jvp(GoogLeNet)/pool2/reduce_window_max"}, backend_config={"window_config":{"estimated_cycles":"4351"}}
}
"""  # fmt: skip
INSIDE = 2 * (6 * 3 - 2) ** 2 * 2 * 8 * 4  # of the convolution: taps on padding do not count


def compiled(function, *args):
    return jax.jit(function).lower(*args).compile()


def total_flops(text: str) -> int:
    parsed = program.parse(text)
    return sum(program.flops(parsed, i) * n for i, n in program.executed(parsed))


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "pads", "dilation"),
    [
        ((2, 9, 9, 3), (3, 3, 3, 4), (1, 1), ((1, 1), (1, 1)), (1, 1)),
        ((1, 12, 10, 2), (7, 5, 2, 3), (2, 3), ((3, 2), (0, 4)), (1, 1)),
        ((3, 11, 8, 4), (3, 1, 4, 2), (1, 1), ((0, 0), (0, 0)), (2, 1)),
    ],
)
def test_flops_are_those_that_xla_counts(shape, kernel, stride, pads, dilation) -> None:
    """Of a convolution, of both of its gradients, and of a product."""

    def convolve(x, k):
        return lax.conv_general_dilated(
            x, k, stride, pads, rhs_dilation=dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x, k = jnp.ones(shape), jnp.ones(kernel)
    y = convolve(x, k)
    for function in (
        convolve,
        lambda x, k: jax.vjp(lambda x: convolve(x, k), x)[1](y)[0],
        lambda x, k: jax.vjp(lambda k: convolve(x, k), k)[1](y)[0],
    ):
        made = compiled(function, x, k)
        assert total_flops(made.as_text()) == made.cost_analysis()["flops"]
    made = compiled(
        lambda a, b: jnp.einsum("nij,njk->nik", a, b), jnp.ones((2, 3, 5)), jnp.ones((2, 5, 7))
    )
    assert total_flops(made.as_text()) == 2 * 2 * 3 * 5 * 7


def test_a_loop_costs_what_its_body_costs_each_time() -> None:
    def loop(x, times):
        return lax.fori_loop(0, times, lambda _, x: x @ x, x)

    text = compiled(lambda x: loop(x, 5), jnp.ones((8, 8))).as_text()
    assert total_flops(text) == 5 * 2 * 8**3
    unknown = compiled(loop, jnp.ones((8, 8)), 5).as_text()
    assert total_flops(unknown) == 2 * 8**3


@given(
    st.sampled_from([("f32", 4), ("bf16", 2), ("pred", 1), ("s8", 1), ("f8e4m3fn", 1), ("u32", 4)]),
    st.lists(st.integers(0, 9), max_size=4),
    st.sampled_from(["", "{3,2,1,0}", "{3,0,2,1:T(8,128)(2,1)S(1)}", "{:S(2)}"]),
)
def test_bytes_of_shapes(dtype: tuple[str, int], sides: list[int], layout: str) -> None:
    shape = f"{dtype[0]}[{','.join(map(str, sides))}]{layout}"
    count = dtype[1] * math.prod(sides)
    assert program.bytes_of(shape) == count
    assert program.bytes_of(f"({shape}, /*index=5*/f32[2]{{0}})") == count + 8


def test_a_program_of_a_gpu() -> None:
    parsed = program.parse(GPU)
    ran = [(i.name, n) for i, n in program.executed(parsed)]
    assert ran == [
        ("conv", 1), ("filter", 1), ("input", 1), ("product", 1), ("all-reduce-start", 1),
        ("loop_add", 3), ("update", 1),
    ]  # fmt: skip
    by_name = {i.name: i for i, _ in program.executed(parsed)}
    x, k, y = 2 * 2 * 6 * 6 * 4, 2 * 8 * 9 * 4, 2 * 2 * 6 * 6 * 8
    assert by_name["conv"].moved_bytes == x + k + 4 * 8 + y
    for name in ("conv", "filter", "input"):
        assert program.flops(parsed, by_name[name]) == INSIDE
    assert program.flops(parsed, by_name["product"]) == 2 * 4 * 8 * 16
    assert program.collectives(parsed) == [
        {"kind": "all-reduce", "dtype": "f32", "bytes": 256, "count": 1}
    ]
    labels = {
        name: estimate.labels(parsed, i, program.flops(parsed, i)) for name, i in by_name.items()
    }
    assert labels == {
        "conv": ("3a", "convolution"),
        "filter": (program.BETWEEN, "convolution"),
        "input": (program.BETWEEN, "convolution"),
        "product": ("classifier", "product"),
        "all-reduce-start": ("collectives", "collective"),
        "loop_add": ("input", "input"),
        "update": ("optimizer", "optimizer"),
    }


def test_the_time_of_a_gpu_is_the_sum_of_its_instructions() -> None:
    chip = GPUS["h100"]._replace(bandwidth=1e9, bfloat16_flops=2e9, link_bandwidth=1e9)
    found = estimate.estimate(program.parse(GPU), Topology("h100:8", [None] * 8, chip, 1e-3))
    kernels = 8 * estimate.LAUNCH_SECONDS  # the loop's three times, no collective
    convolutions = 3 * INSIDE / 1e9  # at half of the peak, longer than their bytes
    moved = (
        2 * 4 * 8 + 2 * 8 * 16 + 256 + 3 * 512 + 512
    ) / 1e9  # the product's too: it has few FLOPs
    product = max(0, 2 * 4 * 8 * 16 - (2 * 4 * 8 + 2 * 8 * 16 + 256)) / 1e9
    sent = 2 * 256 * 7 / 8 / 1e9 + 1e-3
    assert found["seconds"] == pytest.approx(kernels + convolutions + moved + product + sent)
    for rows in (found["layers"], found["operations"]):
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        assert sum(row["kernels"] for row in rows) == found["kernels"] == 9
        assert [row["seconds"] for row in rows] == sorted(
            (r["seconds"] for r in rows), reverse=True
        )
    assert found["cycles"] is None and "50% of 2 GFLOP" not in found["model"]


def test_the_time_of_a_tpu_is_that_of_its_cycles() -> None:
    found = estimate.estimate(program.parse(TPU), Topology("v5e:1x1", [None], TPUS["v5e"], 0.0))
    assert found["cycles"] == 4351 and found["seconds"] == pytest.approx(4351 / 1.5e9)
    assert found["layers"][0]["name"] == "pool2" and found["operations"][0]["name"] == "pool"
    assert "estimated_cycles at 1.5 GHz" in found["model"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("jit(f)/while/body/transpose(jvp(GoogLeNet))/3a/1x1/Conv_0/dot", "3a/1x1"),
        ("jit(f)/GoogLeNet/pool1/max", "pool1"),
        ("jit(f)/transpose(jvp(GoogLeNet))/checkpoint/3a/rematted_computation/1x1/Conv_0/dot", "3a/1x1"),
        ("jit(f)/add", program.OUTSIDE),
        ("", program.BETWEEN),
    ],
)  # fmt: skip
def test_the_layer_of_an_instruction(path: str, name: str) -> None:
    assert program.layer(path, {"3a/1x1"}) == name
