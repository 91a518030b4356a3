"""GoogLeNet's inference in ONNX's operators; the tests compare its numbers with model.py's.

JAX is NHWC and ONNX NCHW: images are transposed first, and again only in int8's LRN and before fc.
"""

from typing import Any

import numpy as np
import onnx
from flax.traverse_util import flatten_dict
from onnx import helper, numpy_helper

from inception import ops, pixels
from inception.model import TABLE_1, GoogLeNet
from inception.runtime.weights import Trained

BATCH_NORM_EPSILON = 1e-3  # model.Conv's


class _Graph:
    """An ONNX graph under construction, from weights by path, as '3a/1x1/Conv_0/kernel'.

    Args:
        px: the side of the image; self.px is the side of the newest layer's output.
        padding: GoogLeNet's field.
        for_int8: merges BatchNorm into its convolution, and makes LRN of other operators.
    """

    def __init__(
        self, weights: dict[str, np.ndarray], *, px: int, padding: str, for_int8: bool
    ) -> None:
        self.weights, self.px, self.padding, self.for_int8 = weights, px, padding, for_int8
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Adds a node; returns the name of its output. Arrays become constants of the graph."""
        names = [i if isinstance(i, str) else self._constant(i) for i in inputs]
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], **attributes))
        return output

    def _constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        # NOTE: without the copy, a transposed view gives its bytes in the original order.
        self.constants.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def arrays(self, layer: str, *names: str) -> list[np.ndarray]:
        """The named arrays of a layer, without those that the network lacks."""
        paths = [f"{layer}/{name}" for name in names]
        return [self.weights[path] for path in paths if path in self.weights]

    def same_pads(self, window: int, stride: int) -> list[int]:
        """SAME's pads, top, left, bottom, right, of the next layer; self.px becomes its output's.

        NOTE: pads are explicit: for SAME_UPPER OpenCV 5.0 computes other ones.
        """
        before_px, self.px = self.px, -(-self.px // stride)
        pad = max(0, (self.px - 1) * stride + window - before_px)
        return [pad // 2] * 2 + [pad - pad // 2] * 2

    def conv(self, x: str, layer: str, stride: int = 1) -> str:
        """model.Conv."""
        kernel, *bias = self.arrays(f"{layer}/Conv_0", "kernel", "bias")
        norm = self.arrays(f"{layer}/BatchNorm_0", "scale", "bias", "mean", "var")
        if norm and self.for_int8:
            scale, shift, mean, variance = norm
            factor = scale / np.sqrt(variance + BATCH_NORM_EPSILON)
            kernel, bias, norm = kernel * factor, [shift + (sum(bias) - mean) * factor], []
        oihw, same = kernel.transpose(3, 2, 0, 1), self.same_pads(len(kernel), stride)
        pads = same if self.padding == "same" else [len(kernel) // 2] * 4
        x = self.add("Conv", x, oihw, *bias, strides=[stride] * 2, pads=pads)
        if norm:
            x = self.add("BatchNormalization", x, *norm, epsilon=BATCH_NORM_EPSILON)
        return self.add("Relu", x)

    def lrn(self, x: str, layer: str) -> str:
        """ops.local_response_normalization of a layer's output.

        NOTE: on CPUs, onnxruntime 1.31 takes 8 times as long for its operator LRN as for this
        matrix product. With channels last, as int8 layers have, the product is faster still.
        """
        size, alpha, k = ops.LRN_SIZE, ops.LRN_ALPHA, ops.LRN_K
        if not self.for_int8:
            return self.add("LRN", x, size=size, alpha=alpha, beta=0.75, bias=k)
        channel = np.arange(self.weights[f"{layer}/Conv_0/kernel"].shape[-1])
        near = abs(channel[:, None] - channel) <= size // 2
        x = self.add("Transpose", x, perm=[0, 2, 3, 1])
        energy = self.add("MatMul", self.add("Mul", x, x), np.float32(alpha / size) * near)
        root = self.add("Sqrt", self.add("Add", energy, np.array(k, np.float32)))
        x = self.add("Div", x, self.add("Mul", root, self.add("Sqrt", root)))
        return self.add("Transpose", x, perm=[0, 3, 1, 2])

    def max_pool(self, x: str, stride: int, window: int = 3) -> str:
        """ops.max_pool."""
        sizes = {"kernel_shape": [window] * 2, "strides": [stride] * 2}
        return self.add("MaxPool", x, pads=self.same_pads(window, stride), **sizes)

    def inception(self, x: str, row: str) -> str:
        """model.Inception; the module of figure 2a has no reductions and no projection."""
        inputs = {"1x1": x, "3x3": x, "5x5": x, "pool_proj": self.max_pool(x, 1)}
        for branch, source in inputs.items():
            for layer in (f"{row}/{branch}_reduce", f"{row}/{branch}"):
                if self.arrays(f"{layer}/Conv_0", "kernel"):
                    source = self.conv(source, layer)
            inputs[branch] = source
        return self.add("Concat", *inputs.values(), axis=1)

    def dense(self, x: str, layer: str) -> str:
        return self.add("Gemm", x, *self.arrays(layer, "kernel", "bias"))


def _probabilities(graph: _Graph, model: GoogLeNet, normalization: str) -> str:
    """GoogLeNet.__call__ in evaluation, applied to the graph's input 'images'; then softmax."""

    def lrn(x: str, layer: str) -> str:
        return graph.lrn(x, layer) if model.norm == "lrn" else x

    x = graph.add("Transpose", "images", perm=[0, 3, 1, 2])
    x = graph.add("Cast", x, to=onnx.TensorProto.FLOAT)
    mean, scale = np.array(pixels.NORMALIZATIONS[normalization], np.float32)[..., None, None]
    x = graph.add("Div", graph.add("Sub", x, mean), scale)
    x = lrn(graph.max_pool(graph.conv(x, "conv1", stride=2), stride=2), "conv1")
    x = graph.conv(graph.conv(x, "conv2_reduce"), "conv2")
    x = graph.max_pool(lrn(x, "conv2"), stride=2)
    for row in TABLE_1:
        x = graph.inception(x, row)
        if row == "3b":
            x = graph.max_pool(x, stride=2)
        if row == "4e":
            x = graph.max_pool(x, stride=2, window=model.pool4_px)
    if model.top == "fc":
        x = graph.add("Flatten", graph.add("Transpose", x, perm=[0, 2, 3, 1]))
        x = graph.add("Relu", graph.dense(x, "fc"))
    else:
        x = graph.add("Flatten", graph.add("GlobalAveragePool", x))
    return graph.add("Softmax", graph.dense(x, "classifier"))


def convert(
    trained: Trained, *, opset: int, metadata: dict[str, str], for_int8: bool = False
) -> onnx.ModelProto:
    """'images', uint8 [batch, px, px, 3] -> 'probabilities', float32 [batch, classes].

    Any `batch` works. The ONNX checker has accepted the model. `for_int8`: it will be quantised.
    """
    arrays = flatten_dict(trained.variables)
    weights = {"/".join(path[1:]): array for path, array in arrays.items()}
    model, px = GoogLeNet(**trained.config["model"]), trained.config["input_px"]
    graph = _Graph(weights, px=px, padding=model.padding, for_int8=for_int8)
    output = _probabilities(graph, model, trained.config["data"]["normalization"])
    graph.nodes.append(helper.make_node("Identity", [output], ["probabilities"]))
    tensor, types = helper.make_tensor_value_info, onnx.TensorProto
    inputs = [tensor("images", types.UINT8, ["batch", px, px, 3])]
    outputs = [tensor("probabilities", types.FLOAT, ["batch", model.classes])]
    made = helper.make_model(
        helper.make_graph(graph.nodes, "inception", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", opset)],
        producer_name="inception",
    )
    made.ir_version = helper.find_min_ir_version_for(made.opset_import)
    helper.set_model_props(made, metadata)
    onnx.checker.check_model(made, full_check=True)
    return made
