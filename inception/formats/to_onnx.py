"""A JAX function as an ONNX graph, primitive by primitive: those that GoogLeNet's inference has.

Images are NHWC in JAX and NCHW in ONNX: every tensor of four axes is held as NCHW in the graph.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax import export
from jax.extend import core
from onnx import helper, numpy_helper

from inception import UserError, kernels

OPSET = 18  # of 2022: older runtimes read it, and newer operators are not needed
NCHW = (0, 3, 1, 2)  # where the axes of NCHW are in NHWC
ELEMENTWISE = {"add": "Add", "div": "Div", "exp": "Exp", "max": "Max", "mul": "Mul",
               "pow": "Pow", "sqrt": "Sqrt", "sub": "Sub"}  # fmt: skip
REDUCTIONS = {"reduce_max": "ReduceMax", "reduce_sum": "ReduceSum"}
CALLS = ("jit", "pjit", "custom_jvp_call")  # pjit is jit's former name
# What an equation's parameters may be without the operator's being told.
PLAIN = {
    "feature_group_count": 1,
    "batch_group_count": 1,
    "lhs_dilation": (1, 1),
    "rhs_dilation": (1, 1),
    "base_dilation": (1, 1, 1, 1),
    "window_dilation": (1, 1, 1, 1),
}

Value = np.ndarray | str  # known when the graph is written, or the name of a tensor in it


class _Graph:
    """The nodes and constants of an ONNX graph while it grows."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, array: Any) -> str:
        name = f"c{len(self.constants)}"
        # NOTE: without the copy the bytes of a transposed view are in its first order.
        array = np.array(array, order="C")
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def tensor(self, value: Value) -> str:
        if isinstance(value, str):
            return value
        return self.constant(value.transpose(NCHW) if value.ndim == 4 else value)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name


def _axes(axes: Sequence[int], rank: int) -> list[int]:
    """Where the axes of a JAX array are in the graph's tensor."""
    return [NCHW.index(axis) if rank == 4 else axis for axis in axes]


def _unsupported(eqn: Any) -> UserError:
    return UserError(
        f"no ONNX for JAX's {eqn.primitive.name} as this network has it: take a file of suffix "
        ".stablehlo, which holds every network"
    )


def _convolution(graph: _Graph, eqn: Any, x: Value, kernel: Value) -> str:
    params, dimensions = eqn.params, eqn.params["dimension_numbers"]
    specs = (dimensions.lhs_spec, dimensions.rhs_spec, dimensions.out_spec)
    if specs != (NCHW, (3, 2, 0, 1), NCHW) or isinstance(kernel, str):
        raise _unsupported(eqn)
    before, after = zip(*params["padding"], strict=True)
    return graph.add(
        "Conv",
        graph.tensor(x),
        graph.constant(kernel.transpose(3, 2, 0, 1)),  # HWIO -> OIHW
        kernel_shape=kernel.shape[:2],
        strides=params["window_strides"],
        pads=[*before, *after],
    )


def _max_pool(graph: _Graph, eqn: Any, x: Value) -> str:
    window, strides, padding = (
        eqn.params[key] for key in ("window_dimensions", "window_strides", "padding")
    )
    inside = slice(1, 3)
    if (*window[::3], *strides[::3], *padding[::3]) != (1, 1, 1, 1, (0, 0), (0, 0)):
        raise _unsupported(eqn)
    before, after = zip(*padding[inside], strict=True)
    return graph.add(
        "MaxPool",
        graph.tensor(x),
        kernel_shape=window[inside],
        strides=strides[inside],
        pads=[*before, *after],
    )


def _pad(graph: _Graph, eqn: Any, x: Value, value: Value) -> str:
    config = eqn.params["padding_config"]
    axes = [axis for axis, padding in enumerate(config) if any(padding)]
    if any(interior or low < 0 or high < 0 for low, high, interior in config):
        raise _unsupported(eqn)
    pads = np.array([config[axis][side] for side in (0, 1) for axis in axes])
    where = np.array(_axes(axes, len(config)))
    return graph.add(
        "Pad", graph.tensor(x), graph.constant(pads), graph.tensor(value), graph.constant(where)
    )


def _slice(graph: _Graph, eqn: Any, x: Value) -> str:
    shape = eqn.invars[0].aval.shape
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    steps = eqn.params["strides"] or (1,) * len(shape)
    axes = [
        axis
        for axis, size in enumerate(shape)
        if (starts[axis], limits[axis], steps[axis]) != (0, size, 1)
    ]
    chosen = (np.array([values[axis] for axis in axes]) for values in (starts, limits, steps))
    start, limit, step = map(graph.constant, chosen)
    where = graph.constant(np.array(_axes(axes, len(shape))))
    return graph.add("Slice", graph.tensor(x), start, limit, where, step)


def _reduce(graph: _Graph, eqn: Any, x: Value) -> str:
    rank = eqn.invars[0].aval.ndim
    if rank == 4 and eqn.params["axes"] != (1, 2):  # others would leave axes in another order
        raise _unsupported(eqn)
    axes = graph.constant(np.array(_axes(eqn.params["axes"], rank)))
    return graph.add(REDUCTIONS[eqn.primitive.name], graph.tensor(x), axes, keepdims=0)


def _new_axes(graph: _Graph, eqn: Any, x: Value) -> str:
    """broadcast_in_dim where it only inserts axes of size 1."""
    shape, kept = eqn.outvars[0].aval.shape, eqn.params["broadcast_dimensions"]
    new = [axis for axis in range(len(shape)) if axis not in kept]
    same = all(shape[k] == size for k, size in zip(kept, eqn.invars[0].aval.shape, strict=True))
    if not same or any(shape[axis] != 1 for axis in new) or len(shape) == 4:
        raise _unsupported(eqn)
    return graph.add("Unsqueeze", graph.tensor(x), graph.constant(np.array(new)))


def _matmul(graph: _Graph, eqn: Any, x: Value, y: Value) -> str:
    ranks = [v.aval.ndim for v in eqn.invars]
    if eqn.params["dimension_numbers"] != (((1,), (0,)), ((), ())) or ranks != [2, 2]:
        raise _unsupported(eqn)
    return graph.add("MatMul", graph.tensor(x), graph.tensor(y))


def _elementwise(graph: _Graph, eqn: Any, *inputs: Value) -> str:
    return graph.add(ELEMENTWISE[eqn.primitive.name], *map(graph.tensor, inputs))


def _cast(graph: _Graph, eqn: Any, x: Value) -> str:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
    return graph.add("Cast", graph.tensor(x), to=dtype)


OPERATORS: dict[str, Callable[..., str]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(REDUCTIONS, _reduce),
    "broadcast_in_dim": _new_axes,
    "concatenate": lambda graph, eqn, *inputs: graph.add(
        "Concat",
        *map(graph.tensor, inputs),
        axis=_axes([eqn.params["dimension"]], eqn.outvars[0].aval.ndim)[0],
    ),
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "dot_general": _matmul,
    "pad": _pad,
    "reduce_window_max": _max_pool,
    "slice": _slice,
    "square": lambda graph, _eqn, x: graph.add("Mul", graph.tensor(x), graph.tensor(x)),
    "stop_gradient": lambda graph, _eqn, x: graph.tensor(x),
}


def _translate(graph: _Graph, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> Any:
    """Adds a jaxpr's equations; returns its outputs. What is known is computed at once."""
    values: dict[Any, Value] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
    values |= zip(jaxpr.invars, inputs, strict=True)

    def read(variable: Any) -> Value:
        literal = isinstance(variable, core.Literal)
        return np.asarray(variable.val, variable.aval.dtype) if literal else values[variable]

    for eqn in jaxpr.eqns:
        arguments = [read(v) for v in eqn.invars]
        name, params = eqn.primitive.name, eqn.params
        outputs: list[Value]
        if name in CALLS:
            inner = params.get("jaxpr") or params["call_jaxpr"]
            outputs = _translate(graph, inner.jaxpr, inner.consts, arguments)
        elif not any(isinstance(a, str) for a in arguments):
            result = eqn.primitive.bind(*map(jax.numpy.asarray, arguments), **params)
            outputs = result if eqn.primitive.multiple_results else [result]
            outputs = [np.asarray(output) for output in outputs]
        elif name in OPERATORS and all(params.get(k, v) == v for k, v in PLAIN.items()):
            outputs = [OPERATORS[name](graph, eqn, *arguments)]
        else:
            raise _unsupported(eqn)
        values |= zip(eqn.outvars, outputs, strict=True)
    return [read(v) for v in jaxpr.outvars]


def convert(
    function: Callable[[jax.Array], jax.Array],
    *,
    image_shape: tuple[int, int, int],
    output: str,
    metadata: dict[str, str],
) -> onnx.ModelProto:
    """uint8 images -> float32 [b, n], for any b, as an ONNX model that the checker passes.

    Args:
        function: of 'images', uint8 [b, *image_shape]; arrays that it closes over are constants.
        image_shape: (height, width, channels).
        output: the result's name; the first axis of it and of 'images' is called 'batch'.
        metadata: stored with the model.

    Raises:
        UserError: the function has a primitive, or one used in a way, not listed here.
    """
    shape = (*export.symbolic_shape("batch"), *image_shape)
    closed = jax.make_jaxpr(kernels.on("any")(function))(jax.ShapeDtypeStruct(shape, np.uint8))
    (aval,) = closed.out_avals
    graph = _Graph()
    images = graph.add("Transpose", "images", perm=NCHW)
    (result,) = _translate(graph, closed.jaxpr, closed.consts, [images])
    graph.nodes.append(helper.make_node("Identity", [graph.tensor(result)], [output]))
    info = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "inception",
            [info("images", onnx.TensorProto.UINT8, ["batch", *image_shape])],
            [info(output, onnx.TensorProto.FLOAT, ["batch", *aval.shape[1:]])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="inception",
    )
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model
