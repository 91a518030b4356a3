#!/usr/bin/env bash
# On a CPU, onnxruntime's operator LRN takes twice as long as the same computation in nine operators.
#
# Guess: the operator LRN is as fast as local response normalisation written out. Written out, it consists
# of a square, a product with the matrix of each channel's neighbours, two square roots and a division,
# with a transposition before and after.
# Seen with onnxruntime 1.31.1, one thread, 1 x 192 x 56 x 56, as after GoogLeNet's second convolution:
# written out, LRN takes less than half of the operator's time, including two transpositions, and the
# outputs agree to 1e-6 of the largest input.
# Remedy: if speed on CPUs matters, write LRN out, as inception/formats/to_onnx.py does for int8.
# Exit status: 0 if the operator still takes more than 1.4 times as long.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
  onnxruntime==1.31.1 onnx==1.23.0 numpy==2.4.6
cat > lrn.py << 'PYTHON'
import sys
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

CHANNELS, SIZE, ALPHA, BETA = 192, 5, 1e-4, 0.75
SHAPE = (1, CHANNELS, 56, 56)


def session(nodes, **constants):
    tensors = [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in constants.items()]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, SHAPE) for n in "xy")
    graph = helper.make_graph([helper.make_node(*n[:3], **n[3]) for n in nodes], "lrn", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


channel = np.arange(CHANNELS)
near = abs(channel[:, None] - channel) <= SIZE // 2
forms = {
    "operator": session([("LRN", ["x"], ["y"], {"size": SIZE, "alpha": ALPHA, "beta": BETA, "bias": 1.0})]),
    "written out": session(
        [
            ("Transpose", ["x"], ["t"], {"perm": [0, 2, 3, 1]}),
            ("Mul", ["t", "t"], ["squares"], {}),
            ("MatMul", ["squares", "near"], ["energy"], {}),
            ("Add", ["energy", "one"], ["scale"], {}),
            ("Sqrt", ["scale"], ["root"], {}),
            ("Sqrt", ["root"], ["fourth"], {}),
            ("Mul", ["root", "fourth"], ["power"], {}),  # scale to the power of 3/4
            ("Div", ["t", "power"], ["out"], {}),
            ("Transpose", ["out"], ["y"], {"perm": [0, 3, 1, 2]}),
        ],
        near=near * (ALPHA / SIZE),
        one=1.0,
    ),
}
x = np.random.default_rng(0).normal(0, 50, SHAPE).astype(np.float32)
outputs = {name: form.run(None, {"x": x})[0] for name, form in forms.items()}
difference = abs(outputs["operator"] - outputs["written out"]).max() / abs(x).max()
times = {name: [] for name in forms}
for _ in range(30):  # in turns, for the machine may be busy
    for name, form in forms.items():
        start = time.process_time()
        form.run(None, {"x": x})
        times[name].append(time.process_time() - start)
fastest = {name: min(seconds) for name, seconds in times.items()}
ratio = fastest["operator"] / fastest["written out"]
print(f"onnxruntime {onnxruntime.__version__}: " + ", ".join(f"{n} {1e3 * s:.1f} ms" for n, s in fastest.items()))
print(f"{ratio:.1f} times the time, difference {difference:.0e} of the largest input")
sys.exit(int(ratio < 1.4 or difference > 1e-6))
PYTHON
venv/bin/python lrn.py
echo "as described"
