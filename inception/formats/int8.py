"""An ONNX network's weights and activations in 8 bits, by onnxruntime's static quantisation."""

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
from inception.evaluation import predict

MOST_IMAGES = 100  # of 10, 30 and 100 the last two come equally near to float32
OPERATORS = ["Conv", "Relu", "MaxPool", "Concat", "Gemm"]  # others, LRN's and softmax, stay float
# onnxruntime's quantiser warns about a model without it. Our graph needs no preparation.
PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}


def calibration_images(path: str, config: Mapping[str, Any]) -> np.ndarray:
    """The central crops of pictures, uint8 [n, px, px, 3], as evaluation cuts them.

    Args:
        path: a picture, a folder or a list; of more than MOST_IMAGES, so many evenly spread.
        config: as `read_config`.

    Raises:
        UserError: no picture, or one that cannot be read.
    """
    found, data = predict.find([os.path.expanduser(path)]), config["data"]
    spread = np.linspace(0, len(found) - 1, min(len(found), MOST_IMAGES)).astype(int)
    views = cropping.Views((1,), config["input_px"], data["resize_px"], data["resize"])
    reading = {knob: data[knob] for knob in pipeline.READING if knob in data}
    source = predict.Pictures([found[i] for i in spread], **reading)
    crops = []
    for index in progress.bar(range(len(source)), desc="pictures", unit="img", leave=False):
        crops.append(views.of(Image.fromarray(source[index][0])))
        if source.rejected:
            raise UserError(f"`calibration`: {source.rejected[index]}")
    return np.concatenate(crops)


class _Reader(quantization.CalibrationDataReader):
    """One image at a time: the calibrator computes every activation of a batch and keeps it."""

    def __init__(self, images: np.ndarray) -> None:
        self._images = iter(progress.bar(images, desc="calibration", unit="img", leave=False))

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {"images": image[None]}


def quantized(model: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """What `to_onnx.convert` made for it, with convolutions, pools and classifier in 8 bits.

    Ranges of activations are those on the images. Each channel of weights has a scale of its own.

    NOTE: weights are unsigned. Signed ones need 7 bits on x86 without VNNI, where two products of
    8 bits are summed in 16: faster, but less accurate.
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
                "WeightSymmetric": True,  # one zero for all channels, as onnxruntime requires
                "ForceQuantizeNoInputCheck": True,  # the pool after LRN as well
                "OpTypesToExcludeOutputQuantization": ["Gemm"],  # logits
            },
        )
        made = onnx.load(path)
    made.producer_name = model.producer_name
    helper.set_model_props(made, metadata)
    onnx.checker.check_model(made, full_check=True)
    return made
