"""Quantises an ONNX network's weights and activations to 8 bits, statically, by onnxruntime."""

import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnxruntime import quantization
from PIL import Image

from inception import UserError
from inception.data import cropping, pipeline, progress
from inception.evaluation import pictures

MOST_IMAGES = 100  # of 10, 30 and 100, 30 and 100 come equally near to float32
OPERATORS = ["Conv", "Relu", "MaxPool", "Concat", "Gemm"]  # LRN's operators and softmax stay float
# Without this entry onnxruntime's quantiser warns; our graph needs no preparation.
PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}


def calibration_images(path: str, config: Mapping[str, Any]) -> np.ndarray:
    """The central crops of pictures, uint8 [n, px, px, 3], as evaluation cuts them.

    Args:
        path: a picture, a folder or a list; at most MOST_IMAGES pictures are taken, evenly spread.
        config: as `read_config` returns it.

    Raises:
        UserError: no picture, or one that cannot be read.
    """
    found, data = pictures.find([os.path.expanduser(path)]), config["data"]
    spread = np.linspace(0, len(found) - 1, min(len(found), MOST_IMAGES)).astype(int)
    views = cropping.Views((1,), config["input_px"], data["resize_px"], data["resize"])
    reading = {knob: data[knob] for knob in pipeline.READING if knob in data}
    source = pictures.Pictures([found[i] for i in spread], **reading)
    crops = []
    for index in progress.bar(range(len(source)), desc="pictures", unit="img", leave=False):
        crops.append(views.of(Image.fromarray(source[index][0])))
        if source.rejected:
            raise UserError(f"`calibration`: {source.rejected[index]}")
    return np.concatenate(crops)


class _Reader(quantization.CalibrationDataReader):
    """Returns one image at a time: the calibrator keeps every activation of a batch in memory."""

    def __init__(self, images: np.ndarray) -> None:
        self._images = iter(progress.bar(images, desc="calibration", unit="img", leave=False))

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {"images": image[None]}


def quantized(model: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """Quantises convolutions, pools and classifier of a model of `to_onnx.convert(for_int8=True)`.

    Activations take their ranges on the images. Each channel of weights has its own scale.

    NOTE: weights are unsigned. x86 without VNNI sums two products of 8 bits in 16 bits, so signed
    weights must have 7 bits there: faster, but less accurate.
    """
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, {**metadata, **PREPARED})
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "int8.onnx"
        quantization.quantize_static(
            model,
            path,
            _Reader(images),
            op_types_to_quantize=OPERATORS,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QUInt8,
            extra_options={
                "WeightSymmetric": True,  # one zero point for all channels, as onnxruntime requires
                "ForceQuantizeNoInputCheck": True,  # also quantises the pool after LRN
                "OpTypesToExcludeOutputQuantization": ["Gemm"],  # keeps logits in float
            },
        )
        made = onnx.load(path)
    made.producer_name = model.producer_name
    helper.set_model_props(made, metadata)
    onnx.checker.check_model(made, full_check=True)
    return made
