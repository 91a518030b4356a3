#!/usr/bin/env bash
# OpenCV 5.0 pads a strided ONNX max pool of auto_pad=SAME_UPPER on the wrong side.
#
# Guess: SAME_UPPER puts the odd row of padding at the end, as ONNX specifies and onnxruntime does. Explicit
# pads, [0, 0, 1, 1] for a window of 3 and a stride of 2 on an even side, then give the same result.
# Seen with opencv-python-headless 5.0.0.93, its default engine, beside onnxruntime 1.31.1: with auto_pad the
# output differs from onnxruntime's; with explicit pads it is the same. A whole GoogLeNet read with auto_pad
# returns wrong probabilities without a warning.
# Remedy: write explicit pads, as inception/formats/to_onnx.py does.
# Exit status: 0 if OpenCV still behaves so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
  opencv-python-headless==5.0.0.93 onnxruntime==1.31.1 onnx==1.23.0 numpy==2.4.6
cat > pool.py << 'PYTHON'
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import helper

x = np.random.default_rng(0).normal(size=(1, 2, 8, 8)).astype(np.float32)
same = {}
for name, padding in (("auto_pad", {"auto_pad": "SAME_UPPER"}), ("pads", {"pads": [0, 0, 1, 1]})):
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], **padding)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [pool],
        "pool",
        [value("x", onnx.TensorProto.FLOAT, x.shape)],
        [value("y", onnx.TensorProto.FLOAT, (1, 2, 4, 4))],
    )
    opset = [helper.make_opsetid("", 18)]
    file = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    (expected,) = onnxruntime.InferenceSession(file).run(None, {"x": x})
    network = cv2.dnn.readNetFromONNX(np.frombuffer(file, np.uint8))
    network.setInput(x)
    got = network.forward()
    same[name] = bool(np.array_equal(got, expected))
    print(f"OpenCV {cv2.__version__}, {name}: {int((got != expected).sum())} of {got.size} differ")
sys.exit(same != {"auto_pad": False, "pads": True})
PYTHON
venv/bin/python pool.py
echo "as described"
