"""Predicts pictures' classes by one network or several: the Python API, `launch.py predict`.

from inception import Predictor

predictor = Predictor("weights/bvlc")  # or several folders: an ensemble
predictions = predictor(["cat.jpg"])  # [{'image': ..., 'classes': [{'id', 'name', ...}]}]
"""

import difflib
import json
import os
import pathlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from inception import UserError
from inception.config import run_config
from inception.data import imagenet, pipeline
from inception.evaluation import cam
from inception.evaluation.evaluate import load_alike
from inception.evaluation.networks import Networks
from inception.evaluation.pictures import Picture, Pictures
from inception.runtime import processes, sharding

Classes = str | Sequence[str | int]


class Predictor:
    """A network that `train` or `convert` wrote, or an ensemble of several, to classify pictures.

    Args:
        workdirs: folders with config.json, classes.txt and checkpoints/.
        best: use each folder's best checkpoint, not the newest.
        configs: one for each folder, to change knobs outside the network, such as data.resize.

    Raises:
        UserError: as `load_alike`.
    """

    def __init__(
        self,
        *workdirs: str | os.PathLike[str],
        best: bool = False,
        configs: Sequence[ConfigDict] = (),
    ):
        if not workdirs or not all(isinstance(w, str | os.PathLike) for w in workdirs):
            raise UserError('name the folders one by one, as in Predictor("runs/a", "runs/b")')
        folders = [os.fspath(workdir) for workdir in workdirs]
        self.configs = list(configs) or [run_config(folder, []) for folder in folders]
        trained = load_alike(folders, self.configs, best=best)
        self.classes = trained[0].classes
        self.names = imagenet.names(self.classes)
        self._reading = {knob: self.configs[0].data[knob] for knob in pipeline.READING}
        self.mesh = sharding.make_mesh()
        self._networks = Networks(self.configs, self.mesh)
        self.variables = [sharding.replicate(t.variables, self.mesh) for t in trained]

    def __call__(
        self,
        pictures: Iterable[Picture],
        *,
        topk: int = 5,
        crops: int = 1,
        classes: Classes = (),
    ) -> list[dict[str, Any]]:
        """The likeliest classes of each picture.

        Args:
            pictures: paths, PIL images, or uint8 arrays [h, w] or [h, w, 3] (RGB).
            topk: the number of classes for each picture.
            crops: 1, 10 or 144, averaged as in evaluation.
            classes: as for `ids`; these, in this order, in place of the `topk` likeliest.

        Returns:
            [{'image': its path or number, 'classes': [{'id': class index, 'name', 'probability'}]}]

        Raises:
            UserError: a picture that cannot be read, impossible `topk` or `crops`, no such class.
        """
        _check_several(pictures)
        predictions = list(self.each(pictures, topk=topk, crops=crops, classes=classes))
        for prediction in predictions:
            if "error" in prediction:
                raise UserError(prediction["error"])
        return predictions

    def each(
        self,
        pictures: Iterable[Picture],
        *,
        topk: int = 5,
        crops: int = 1,
        classes: Classes = (),
    ) -> Iterator[dict[str, Any]]:
        """As a call, but one by one; yields {'image', 'error'} for an unreadable picture."""
        if topk < 1:
            raise UserError(f"`topk`={topk}: must be at least 1")
        ids = self.ids(classes)
        for image, error, row in self.averages(pictures, self._networks, crops=crops):
            if error:
                yield {"image": image, "error": error}
                continue
            p = row.mean(0)
            chosen = ids or np.argsort(-p, kind="stable")[:topk].tolist()
            listed = [{"id": i, "name": self.names[i], "probability": float(p[i])} for i in chosen]
            yield {"image": image, "classes": listed}

    def averages(
        self, pictures: Iterable[Picture], networks: Networks, *, crops: int
    ) -> Iterator[tuple[str, str, np.ndarray]]:
        """Yields each picture's path or number, why it cannot be read or '', and its average.

        The average over the crops is that of `Networks.averages`, [networks, ...].
        """
        source = Pictures(list(pictures), **self._reading)
        batches = networks.batches(source, networks.views([crops]))
        for images, _, values in networks.averages(self.variables, batches, crops=[crops]):
            rejected: dict[str, str] = {}
            for own in processes.gather_text(json.dumps(source.rejected.copy())):  # threads write
                rejected |= json.loads(own)
            for index, row in zip(images.tolist(), values[:, :, 0], strict=True):
                yield source.name(index), rejected.get(str(index), ""), row

    def ids(self, classes: Classes) -> list[int]:
        """The numbers of classes, given by name, by ImageNet's words for it, or by number.

        Args:
            classes: a list, or a text in which commas separate them. A text is first looked up
                among the names: "2" may be a class's name. An int is always a number.

        Raises:
            UserError: no such class, with the nearest names; words for several classes.
        """
        numbers: dict[str | int, int] = {str(i): i for i in range(len(self.classes))}
        known = numbers | {name: i for i, name in enumerate(self.names)}
        known |= {name: i for i, name in enumerate(self.classes)}
        known |= {i: i for i in range(len(self.classes))}
        found = []
        for name in _split(classes, known) if isinstance(classes, str) else classes:
            alike = [i for i, other in enumerate(self.names) if other == name]
            if len(alike) > 1 and name not in self.classes:
                which = " and ".join(f"{i} ({self.classes[i]})" for i in alike)
                raise UserError(f"`class`={name}: these are {which}: give the number")
            if name not in known:
                near = difflib.get_close_matches(
                    str(name), [*self.names, *self.classes], 3, cutoff=0.0
                )
                last = len(self.classes) - 1
                raise UserError(
                    f"`class`={name}: neither a class nor a number from 0 to {last}; the nearest "
                    f"are {', '.join(dict.fromkeys(near))}"
                )
            found.append(known[name])
        return found

    def maps(self, pictures: Iterable[Picture], *, classes: Classes = ()) -> np.ndarray:
        """Class activation maps of the pictures' central crops, float32 [n, classes, h, w].

        They are the classifier at each position of 5b's grid, before any ReLU: the mean over h and
        w is the class's logit. Of several networks: the mean of their maps.

        Args:
            classes: as for `ids`; (): all, in the order of `self.classes`.

        Raises:
            UserError: a picture that cannot be read, no such class, a network that has no maps.
        """
        _check_several(pictures)
        ids = self.ids(classes) or list(range(len(self.classes)))
        return np.stack([self._map(picture)[1][ids] for picture in pictures])

    def features(
        self, pictures: Iterable[Picture], *, layer: str = "pool5", crops: int = 1
    ) -> np.ndarray:
        """Activations of a layer, float32 [n, ...], as `features.each` has and refuses them."""
        from inception.evaluation import features

        _check_several(pictures)
        rows = []
        for _, error, row in features.each(self, pictures, layer=layer, crops=crops):
            if error:
                raise UserError(error)
            rows.append(row)
        shape = features.shape(self, layer)
        return np.asarray(rows, np.float32).reshape(len(rows), *shape)

    def draw(self, prediction: dict[str, Any]) -> Image.Image:
        """Draws the central crop of a predicted file, and over it the map of each listed class.

        For several networks it draws the mean of their maps.
        """
        crop, maps = self._map(prediction["image"])
        classes = prediction["classes"]
        captions = [f"{c['name']} {c['probability']:.1%}" for c in classes]
        captions = [pathlib.Path(prediction["image"]).stem, *captions]
        return cam.draw(crop, maps[[c["id"] for c in classes]], captions)

    def crop(self, picture: Picture) -> np.ndarray:
        """The central crop, uint8 [px, px, 3]; UserError for a picture that cannot be read."""
        source = Pictures([picture], **self._reading)
        pixels, _ = source[0]
        if source.rejected:
            raise UserError(source.rejected[0])
        return self._networks.views([1]).of(Image.fromarray(pixels))[0]

    def _map(self, picture: Picture) -> tuple[np.ndarray, np.ndarray]:
        """The central crop, and the maps of all classes, [classes, h, w]."""
        crop = self.crop(picture)
        maps = [
            cam.maps(c.model, v, crop[None], normalization=c.data.normalization)
            for c, v in zip(self.configs, self.variables, strict=True)
        ]
        return crop, np.mean(maps, 0)[0].transpose(2, 0, 1)


def _check_several(pictures: Iterable[Picture]) -> None:
    if isinstance(pictures, Picture):  # an array's rows would pass for grey pictures
        raise UserError("this is one picture: give a list of pictures, as in [picture]")


def _split(text: str, known: Collection[str | int]) -> Iterator[str]:
    """'a,b' -> 'a', 'b'; a known name may contain commas."""
    rest = text.split(",")
    while rest:
        whole = (n for n in range(len(rest), 0, -1) if ",".join(rest[:n]) in known)
        count = next(whole, 1)
        yield ",".join(rest[:count])
        del rest[:count]
