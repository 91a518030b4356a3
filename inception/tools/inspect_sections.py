"""The sections of the page of `launch.py inspect`: arrays of `inception.inspection`, drawn."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from inception import pixels
from inception.evaluation import cam
from inception.inspection import gradients, photos, redundancy, scales, sparsity, visualize, where
from inception.model import HEAD_ROWS, SMALLEST_PX_WITH_HEADS, TABLE_1, TRUNK, GoogLeNet
from inception.reporting import figures, markup

FEATURE_PX, FEATURE_STEPS = 112, 192  # 224 px and 256 steps are five times the work
TILE_PX, PATCHES = 96, 5  # of a row of features
MAPPED = 4  # pictures with maps
OF_A_BATCH = 16  # pictures behind the gradients


class Section(NamedTuple):
    """A part of the page; each figure is HTML of one SVG or PNG, and becomes a file of its name."""

    title: str
    text: str
    figures: dict[str, str]
    tables: str = ""


@dataclasses.dataclass
class Subject:
    """A network and the pictures to look at it with."""

    model: GoogLeNet
    variables: Any
    normalization: str
    px: int
    layers: Sequence[str]
    channels: int
    names: Sequence[str] = ()
    crops: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8))
    labels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))
    classes: Sequence[str] = ()
    own_guesses: bool = False  # the labels are the network's first guesses

    @functools.cached_property
    def images(self) -> np.ndarray:
        """The crops as the network reads them, float32 [n, px, px, 3]."""
        return np.asarray(pixels.normalize(jnp.asarray(self.crops), method=self.normalization))

    @property
    def whose(self) -> str:
        """What accuracy means here."""
        return "agreement with the network's own guesses" if self.own_guesses else "accuracy"


def features(own: Subject) -> Section:
    """Pictures that excite and silence channels, beside the photos' patches that excite them."""
    drawn, ratios = {}, []
    chosen = {layer: _channels(own, layer) for layer in own.layers}
    directions = {layer: one_hot for layer, (_, one_hot) in chosen.items()}
    fields = scales.receptive_fields(own.model, input_px=own.px)
    respond = functools.partial(
        photos.responses, own.model, own.variables, normalization=own.normalization
    )
    found = respond(own.crops, directions) if len(own.crops) else {}
    for layer, (picks, one_hot) in chosen.items():
        made = visualize.visualize(
            own.model, own.variables, layer, np.concatenate([one_hot, -one_hot]),
            normalization=own.normalization, px=FEATURE_PX, steps=FEATURE_STEPS,
        )  # fmt: skip
        rows = list(map(list, zip(*np.split(made, 2), strict=True)))
        if found:
            best = found[layer].best(PATCHES)
            at = found[layer].position
            for i, row in enumerate(rows):
                row += [photos.patch(own.crops[n], fields[layer], at[n, i]) for n in best[i]]
            answer = respond(made[: len(picks)], {layer: one_hot})[layer].mean.diagonal()
            ratios += (answer / np.maximum(found[layer].mean.max(0), 1e-6)).tolist()
        tiles = np.stack([[_tile(tile) for tile in row] for row in rows])
        sheet = figures.png(figures.montage(tiles), f"features of {layer}")
        text = f"{layer}, channels {', '.join(map(str, picks))}: most excited, most silenced"
        text += ", then the patches that excite it most" * bool(found)
        drawn[f"features_{layer}"] = figures.captioned(sheet, text)
    text = (
        "Each picture was optimised, from noise, to excite or to silence one channel before its "
        "ReLU. Section 3 of the paper builds layers from clusters of units whose outputs "
        "correlate; these are what single units look for."
    )
    if ratios:
        text += (
            f" The channels answer to them {np.median(ratios):.1f} times (median) as strongly as "
            "to the best photo, on the mean over positions."
        )
    return Section("Features", text, drawn)


def _channels(own: Subject, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Channels spread evenly over the layer, so that all branches are among them; as one-hots."""
    *_, count = where.check_layer(own.model, own.variables, layer, own.px)
    picks = np.unique(np.linspace(0, count - 1, own.channels + 2)[1:-1].round().astype(int))
    return picks, np.eye(count, dtype=np.float32)[picks]


def _tile(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)


def fields(own: Subject) -> Section:
    """What each branch sees of a picture."""
    found = scales.receptive_fields(own.model, input_px=own.px)
    rows = []
    for name in ("conv1", "conv2", *TABLE_1):
        sides = [
            found[f"{name}/{b}"].size if f"{name}/{b}" in found else None for b in scales.BRANCHES
        ]
        rows.append([name, found[name].size, *sides, found[name].stride])
    text = (
        "The side, in pixels, of the square of the picture that a position of the whole layer, and "
        "of each branch, sees (section 4: filters of several sizes see several scales at once). "
        "The strides are the distances between positions."
    )
    header = ("", "whole", *scales.BRANCHES, "stride")
    return Section("Receptive fields", text, {}, markup.table(rows, header))


def branches(own: Subject) -> Section:
    """The share of each branch in its module's output, and the price of its silence."""
    shares = scales.energy(own.model, own.variables, own.images)
    lost = scales.ablations(own.model, own.variables, own.images, own.labels)
    large = {key: values[:, 1:3].sum(1) for key, values in shares.items()}
    trend = scipy.stats.spearmanr(large["energy"], range(len(TABLE_1))).statistic
    lines = {b: _by_row(shares["energy"][:, i]) for i, b in enumerate(scales.BRANCHES)}
    lines["3x3 and 5x5"] = _by_row(large["energy"])
    lines["their share of the filters"] = _by_row(large["filters"])
    cost = {b: _by_row(lost["cross_entropy"][:, i]) for i, b in enumerate(scales.BRANCHES)}
    text = (
        "Section 4 expects the ratio of 3x3 and 5x5 to increase with depth, as features become "
        f"abstract. Here their share of the energy goes from {large['energy'][0]:.0%} in "
        f"3a to {large['energy'][-1]:.0%} in 5b, rank correlation "
        f"with depth {trend:.2f}: {'as' if trend > 0.5 else 'not as'} the paper expects."
    )
    rows = [
        [row, *(f"{-100 * v:+z.1f} ± {100 * e:.1f}" for v, e in zip(*pair, strict=True))]
        for row, *pair in zip(TABLE_1, lost["top1"], lost["top1_error"], strict=True)
    ]
    table = markup.table(rows, ("", *scales.BRANCHES), numeric=range(1, 5))
    return Section(
        "Scales",
        text,
        {
            "energy": figures.by_depth(lines, "share of the energy", "Energy by branch", log=False),
            "ablations": figures.by_depth(
                cost, "cross-entropy gained, nats", "One branch of one module silenced", log=False
            ),
        },
        f"<p>Points of {own.whose} after a branch is silenced, of "
        f"{100 * lost['whole_top1']:.1f}%:</p>{table}",
    )


def _by_row(values: Iterable[float]) -> dict[str, float]:
    return dict(zip(TABLE_1, map(float, values), strict=True))


def reductions(own: Subject) -> Section:
    """In how few dimensions modules' inputs lie, and what narrower reductions cost."""
    seen = redundancy.moments(own.model, own.variables, own.images)
    ranks = {name: redundancy.effective_rank(found.covariance) for name, found in seen.items()}
    lines = {"channels of the input": {row: float(len(seen[row].mean)) for row in TABLE_1}}
    lines["effective rank of the input"] = {row: ranks[row] for row in TABLE_1}
    for name in redundancy.REDUCTIONS:
        if own.model.module == "reduced":
            own_rows = {row: f"{row}/{name}" for row in TABLE_1}
            lines[f"filters of {name}"] = {r: float(len(seen[n].mean)) for r, n in own_rows.items()}
            lines[f"effective rank of {name}"] = {r: ranks[n] for r, n in own_rows.items()}
    text = (
        "Section 4: activations are redundant, so that a 1x1 convolution with few filters keeps "
        "what matters. The effective rank counts the dimensions in which a module's input lies."
    )
    table = "<p>Naive modules have no reductions to narrow.</p>"
    if own.model.module == "reduced":
        cost = redundancy.narrowed(own.model, own.variables, own.images, own.labels, seen)
        rows = [
            [f"{f:g}", f"{100 * top1:.1f}", f"{nats:.3f}", f"{macs / 1e9:.3f}"]
            for f, top1, nats, macs in zip(*cost.values(), strict=True)
        ]
        header = ("filters", f"{own.whose}, %", "cross-entropy, nats", "G multiply-adds")
        table = "<p>All reductions squeezed at once to a share of their filters, by SVD, without "
        table += "training; directions from the same pictures; what follows keeps its width:</p>"
        table += markup.table(rows, header, numeric=range(4))
    drawn = figures.by_depth(lines, "channels", "Channels and effective ranks by depth")
    return Section("Redundancy", text, {"ranks": drawn}, table)


def depths(own: Subject) -> Section:
    """Gradients of each head's loss by module: before training and now."""
    batch = (own.images[:OF_A_BATCH], own.labels[:OF_A_BATCH])
    with_heads = own.model.clone(heads=own.px >= SMALLEST_PX_WITH_HEADS, heads_on="both")
    init = jax.jit(functools.partial(with_heads.init, train=True))
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    fresh = gradients.by_module(with_heads, init(keys, batch[0][:1]), *batch)
    trained = gradients.by_module(own.model, own.variables, *batch)
    drawn, rows = {}, []
    for when, found in (("before training", fresh), ("now", trained)):
        choices = {"no head": {"main": 1.0}}
        for name in HEAD_ROWS if len(found.heads) == 3 else ():
            choices[f"head {name}"] = {"main": 1.0, name: 0.3}
            choices["both heads"] = {"main": 1.0, **dict.fromkeys(HEAD_ROWS, 0.3)}
        lines = {
            name: {m: v for m, v in zip(found.modules, norms, strict=True) if m in TRUNK}
            for name, norms in ((n, found.norms(**w)) for n, w in choices.items())
        }
        drawn[f"gradients_{when.replace(' ', '_')}"] = figures.by_depth(
            lines, "norm of the gradient", f"Gradient of the loss by module, {when}"
        )
        alone = [found.norms(**{head: 1.0})[0] for head in found.heads]
        rows.append([when, *alone, *[None] * (3 - len(alone))])
    text = (
        "Section 5 adds auxiliary heads so that gradients reach the lower layers. The table has "
        "the norm of the gradient that arrives at conv1 from the loss of each classifier alone."
    )
    return Section("Gradients", text, drawn, markup.table(rows, ("", "main", *HEAD_ROWS)))


def maps(own: Subject) -> Section:
    """Where classes are seen, by branch, with occlusion as the check; and at which depth."""
    drawn = {}
    images, labels = own.images[:MAPPED], own.labels[:MAPPED]
    layer = cam.LAST
    by_branch = where.grad_cam(own.model, own.variables, images, labels, layer=layer)
    hidden = where.occlusion(own.model, own.variables, images, labels)
    same = where.rank_correlation(by_branch.sum(-1), hidden)
    for i, crop in enumerate(own.crops[:MAPPED]):
        stack = [by_branch[i].sum(-1), *np.moveaxis(by_branch[i], -1, 0)]
        stack = [one / (np.abs(stack[0]).max() or 1.0) for one in stack]
        size = hidden.shape[1:]
        stack = [cv2.resize(one.astype("f"), size, interpolation=cv2.INTER_LINEAR) for one in stack]
        stack.append(hidden[i] / (np.abs(hidden[i]).max() or 1.0))
        captions = [own.classes[labels[i]], f"Grad-CAM, {layer}", *scales.BRANCHES, "occlusion"]
        sheet = np.asarray(cam.draw(crop, np.stack(stack), captions))
        text = f"{pathlib.Path(own.names[i]).name}: rank correlation with occlusion {same[i]:.2f}"
        drawn[f"map_{i}"] = figures.captioned(figures.png(sheet, "maps"), text)
    text = (
        "Section 6 lets the average replace fully connected layers: a class is then the sum of "
        "what positions say. Grad-CAM shows which positions, and which branch of the last module; "
        "occlusion is the drop of the probability under a grey square."
    )
    table = ""
    if own.model.heads:
        found = where.recognised(own.model, own.variables, own.images, own.labels)
        rows = [[h, f"{100 * r.mean():.1f}", f"{p.mean():.3f}"] for h, (r, p) in found.items()]
        header = ("classifier", f"{own.whose}, %", "mean probability of the class")
        table = markup.table(rows, header, numeric=(1, 2))
    return Section("Where and why", text, drawn, table)


def zeros(own: Subject) -> Section:
    """Zeros after ReLU by layer, and units that no picture wakes."""
    found = sparsity.zeros(own.model, own.variables, own.images)
    trunk = [name for name in TRUNK if name in found]
    shares = {name: float(found[name][0]) for name in trunk}
    rows = [[n, len(found[n][1]), int((found[n][1] == 0).sum())] for n in trunk]
    text = (
        "The paper's argument begins with sparse activations (section 3). A unit that no picture "
        "wakes has no gradient: many of them are a dead trunk."
    )
    drawn = figures.by_depth({"zeros": shares}, "share of zeros", "After ReLU", log=False)
    table = markup.table(rows, ("", "units", "without any response"))
    return Section("Sparsity", text, {"zeros": drawn}, table)


WITH_PICTURES = (branches, reductions, depths, maps, zeros)
