"""GoogLeNet's inference in ONNX's operators; the tests hold it to model.py's numbers.

Images are NHWC in JAX and NCHW in ONNX: they are transposed at the start, and nothing else is.
"""

from typing import Any

import numpy as np
import onnx
from flax.traverse_util import flatten_dict
from onnx import helper, numpy_helper

from inception import ops, pixels
from inception.model import TABLE_1, GoogLeNet
from inception.runtime.weights import Trained


class _Graph:
    """An ONNX graph while it grows, of a network's weights by path, as '3a/1x1/Conv_0/kernel'."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights = weights
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
        # NOTE: without the copy the bytes of a transposed view are in its first order.
        self.constants.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def arrays(self, layer: str, *names: str) -> list[np.ndarray]:
        """Those of a layer's arrays that the network has."""
        paths = [f"{layer}/{name}" for name in names]
        return [self.weights[path] for path in paths if path in self.weights]

    def conv(self, x: str, layer: str, stride: int = 1) -> str:
        """model.Conv."""
        kernel, *bias = self.arrays(f"{layer}/Conv_0", "kernel", "bias")
        oihw, pads = kernel.transpose(3, 2, 0, 1), [len(kernel) // 2] * 4
        x = self.add("Conv", x, oihw, *bias, strides=[stride] * 2, pads=pads)
        if norm := self.arrays(f"{layer}/BatchNorm_0", "scale", "bias", "mean", "var"):
            x = self.add("BatchNormalization", x, *norm, epsilon=1e-3)
        return self.add("Relu", x)

    def max_pool(self, x: str, stride: int, window: int = 3) -> str:
        sizes = {"kernel_shape": [window] * 2, "strides": [stride] * 2}
        return self.add("MaxPool", x, auto_pad="SAME_UPPER", **sizes)

    def inception(self, x: str, row: str) -> str:
        """model.Inception; figure 2a's has no reductions and no projection."""
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
    """GoogLeNet.__call__ in evaluation, of the graph's input 'images'; then softmax."""

    def lrn(x: str) -> str:
        constants = {"size": ops.LRN_SIZE, "alpha": ops.LRN_ALPHA, "beta": 0.75, "bias": ops.LRN_K}
        return graph.add("LRN", x, **constants) if model.norm == "lrn" else x

    x = graph.add("Transpose", "images", perm=[0, 3, 1, 2])
    x = graph.add("Cast", x, to=onnx.TensorProto.FLOAT)
    mean, scale = np.array(pixels.NORMALIZATIONS[normalization], np.float32)[..., None, None]
    x = graph.add("Div", graph.add("Sub", x, mean), scale)
    x = lrn(graph.max_pool(graph.conv(x, "conv1", stride=2), stride=2))
    x = graph.conv(graph.conv(x, "conv2_reduce"), "conv2")
    x = graph.max_pool(lrn(x), stride=2)
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


def convert(trained: Trained, *, opset: int, metadata: dict[str, str]) -> onnx.ModelProto:
    """'images', uint8 [batch, px, px, 3] -> 'probabilities', float32 [batch, classes].

    `batch` is any; the ONNX checker has passed the model.
    """
    arrays = flatten_dict(trained.variables)
    graph = _Graph({"/".join(path[1:]): array for path, array in arrays.items()})
    model, px = GoogLeNet(**trained.config["model"]), trained.config["input_px"]
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
