"""README's picture: where BVLC's network sees what it guesses, and the filters of its first layer.

    python docs/figures/looks.py CHECKPOINT docs/figures/looks.jpg

CHECKPOINT is a folder that `launch.py convert --source=caffe` wrote. The photos are scikit-learn's
samples, CC BY 2.0: china.jpg by danielbuechele (flickr.com/photos/danielbuechele/6061409035),
flower.jpg by vultilion (flickr.com/photos/vultilion/6056698931).
"""

import pathlib
import sys

import numpy as np
from PIL import Image
from sklearn import datasets

from inception import Predictor
from inception.reporting.figures import montage
from inception.runtime import weights

GAP = 12


def main(folder: str, output: str) -> None:
    photos = pathlib.Path(datasets.__file__).parent / "images"
    predictor = Predictor(folder)
    predictions = predictor([photos / "china.jpg", photos / "flower.jpg"], topk=2)
    sheets = [predictor.draw(p) for p in predictions]
    params = weights.load_trained(folder).variables["params"]
    kernels = np.asarray(params["conv1"]["Conv_0"]["kernel"])
    kernels = kernels - kernels.min((0, 1, 2))
    tiles = np.moveaxis(kernels / kernels.max((0, 1, 2)) * 255, -1, 0).round().astype(np.uint8)
    filters = Image.fromarray(montage(tiles.reshape(8, 8, *tiles.shape[1:])))
    side = sum(s.height for s in sheets) + GAP
    filters = filters.resize((side, side), Image.Resampling.NEAREST)
    page = Image.new("RGB", (sheets[0].width + GAP + side, side), "white")
    for i, sheet in enumerate(sheets):
        page.paste(sheet, (0, i * (sheet.height + GAP)))
    page.paste(filters, (sheets[0].width + GAP, 0))
    page.save(output, quality=85)


if __name__ == "__main__":
    main(*sys.argv[1:])
