"""The page of `launch.py inspect`: what a network has learnt, and the files of its figures."""

import base64
import contextlib
import html
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from inception import UserError
from inception.data import outputs, progress, whole
from inception.evaluation.predict import Predictor
from inception.inspection import gradients, where
from inception.model import GoogLeNet
from inception.reporting import markup
from inception.tools.inspect_sections import WITH_PICTURES, Subject, features, fields

# One figure alone does not fill the page.
CSS = """figure { margin-bottom: 1rem }
.grid { grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)) }"""


def label_of(path: str, classes: Sequence[str]) -> int | None:
    """The class that names the picture's folder, or begins its name as in n01440764_18.JPEG."""
    file = pathlib.Path(path)
    own = (name for name in (file.parent.name, file.name.split("_")[0]) if name in classes)
    return next((classes.index(name) for name in own), None)


def subject(
    predictor: Predictor, pictures: Sequence[str], layers: Sequence[str], channels: int
) -> tuple[Subject, list[str]]:
    """The network of a predictor with the readable pictures; and why others cannot be read.

    Raises:
        UserError: an ensemble; no such layer, or one without positions; no readable picture.
    """
    if len(predictor.configs) > 1:
        raise UserError("`checkpoint` names several networks: inspect one at a time")
    (config,), (variables,) = predictor.configs, predictor.variables
    model = GoogLeNet(**config.model)
    if not all(f"head_{row}" in variables["params"] for row in gradients.of_heads(model)):
        model = model.clone(heads=False)
    for layer in layers:
        where.check_layer(model, variables, layer, config.input_px)
    own = Subject(
        model, variables, config.data.normalization, config.input_px, layers, channels,
        classes=predictor.names,
    )  # fmt: skip
    rejected, crops, names = [], [], []
    for name in progress.bar(pictures, desc="pictures", unit="img", leave=False):
        try:
            crops.append(predictor.crop(name))
            names.append(name)
        except UserError as error:
            rejected.append(str(error))
    if not crops:
        if rejected:
            raise UserError(f"no picture can be read; the first: {rejected[0]}")
        return own, rejected
    own.names, own.crops = names, np.stack(crops)
    labels = [label_of(name, predictor.classes) for name in names]
    own.own_guesses = None in labels
    if own.own_guesses:
        guesses = predictor.each(names, topk=1)
        labels = [guess["classes"][0]["id"] for guess in guesses]
    own.labels = np.asarray(labels)
    return own, rejected


def write(own: Subject, output: str, folder: str = "") -> dict[str, Any]:
    """Computes the sections, writes the page, and each figure into the new folder `folder`.

    Returns:
        {'page', 'figures': the files, 'left_out': what needs pictures or heads that are not there}

    Raises:
        UserError: before the work, a file or folder that cannot be written.
    """
    outputs.check(output=(output, markup.KIND))
    with contextlib.ExitStack() as closing:
        work = (
            closing.enter_context(whole.all_or_nothing(folder, flag="figures")) if folder else None
        )
        return _write(own, output, work, folder)


def _write(own: Subject, output: str, work: pathlib.Path | None, folder: str) -> dict[str, Any]:
    left_out = []
    made = [features(own), fields(own)]
    if len(own.crops):
        made += [section(own) for section in WITH_PICTURES]
    else:
        names = ", ".join(section.__name__ for section in WITH_PICTURES)
        left_out.append(f"without pictures there are no {names}: give --images=PATH")
    if not own.model.heads:
        left_out.append("this checkpoint has no auxiliary heads: nothing is read at 4a and 4d")
    body = "<h1>Inside the network</h1>" + "".join(
        f"<h2>{s.title}</h2><p>{html.escape(s.text)}</p>"
        f'<div class="grid">{"".join(s.figures.values())}</div>{s.tables}'
        for s in made
    )
    body += "".join(f"<p>{html.escape(line)}</p>" for line in left_out)
    outputs.write(output, markup.document("Inside the network", CSS, body))
    files = []
    for name, drawn in (item for section in made for item in section.figures.items()):
        if work:
            files.append(_save(work, name.replace("/", "_"), drawn))
    return {"page": output, "figures": [f"{folder}/{f}" for f in files], "left_out": left_out}


def _save(folder: pathlib.Path, name: str, drawn: str) -> str:
    """Writes a figure's SVG or PNG; returns the file's name."""
    if svg := re.search("<svg.*</svg>", drawn, re.DOTALL):
        (folder / f"{name}.svg").write_text(svg[0])
        return f"{name}.svg"
    _, data = drawn.split("base64,", 1)
    (folder / f"{name}.png").write_bytes(base64.b64decode(data.split('"')[0]))
    return f"{name}.png"
