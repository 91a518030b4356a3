"""Every knob once: default, allowed values and reason; the source of docs/reference/knobs.md.

Defaults are the paper's values, except for normalization and schedule, which experiments/paper.py
sets. Where the paper gives no value, they are those of Caffe's quick_solver and MindCV.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Allowed:
    """A knob's allowed values: a test, its description, and the values if they are few."""

    holds: Callable[[Any], bool]
    words: str
    choices: tuple = ()

    def refusal(self, value: Any) -> str:
        """The error after the knob's name, as in '=0: must be at least 1'; '' if allowed."""
        return "" if self.holds(value) else f"={value}: {self.words}"


class Elements(Allowed):
    """Tuples of choices, whose errors show how to write a tuple."""

    def refusal(self, value: Any) -> str:
        unknown = [v for v in value if v not in self.choices]
        if unknown:
            example = str(self.choices[:2]).replace(" ", "")
            return f" has '{unknown[0]}': choose from {self.choices}, written as \"{example}\""
        return "" if value else " is empty: name at least one"


def one_of(*choices: Any, words: str = "") -> Allowed:
    """One of the choices; errors print '' as nothing, and `words` instead of the list."""
    known = ", ".join("or nothing" if c == "" else str(c) for c in choices)
    return Allowed(lambda x: x in choices, words or f"choose one of {known}", choices)


def some_of(*choices: Any) -> Allowed:
    """A tuple of one or several of the choices."""
    return Elements(lambda _: True, f"one or several of {', '.join(choices)}", choices)


ANYTHING = Allowed(lambda _: True, "")
AT_LEAST_1 = Allowed(lambda x: x >= 1, "must be at least 1")
ABOVE_0 = Allowed(lambda x: x > 0, "must be above 0")
SHARE = Allowed(lambda x: 0 <= x < 1, "must be at least 0 and below 1")
UP_TO_1 = Allowed(lambda x: x <= 1, "must be at most 1")
BITS = Allowed(lambda x: x == 0 or 8 <= x <= 32, "from 8 to 32, or 0")
MAGNITUDE = Allowed(lambda x: x <= 10, "must be at most 10")
AREAS = Allowed(
    lambda x: len(x) == 2 and 0 < x[0] <= x[1] <= 1, "two numbers, 0 < low <= high <= 1"
)
ASPECTS = Allowed(lambda x: len(x) == 2 and 0 < x[0] <= x[1], "two numbers, 0 < low <= high")
SIZES = Allowed(lambda x: len(x) > 0, "name at least one size")
THREADS = Allowed(
    lambda x: x == "all" or (x.isdecimal() and 1 <= int(x) <= 256), "all, or from 1 to 256 threads"
)
OPTIMIZERS = ("sgd", "nesterov", "rmsprop", "adamw", "lars", "lamb", "muon", "schedule_free")
INTERPOLATIONS = ("bilinear", "area", "nearest", "cubic")
TRUNK = ("conv1", "conv2_reduce", "conv2", "3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")


@dataclass(frozen=True)
class Knob:
    """One knob; its type is its default's."""

    default: Any
    reason: str
    allowed: Allowed = ANYTHING

    @property
    def type(self) -> str:
        """The type's name, as in 'float' or 'tuple of str'."""
        if isinstance(self.default, tuple):
            return f"tuple of {type(self.default[0]).__name__}"
        return type(self.default).__name__

    def misfit(self, value: Any) -> str:
        """Like `Allowed.refusal`, for another type, and for numbers below 0 or not finite."""
        several = isinstance(self.default, tuple)
        kind = type(self.default[0] if several else self.default)
        kinds = (int, float) if kind is float else kind
        values = value if isinstance(value, tuple) else (value,)
        fits = [isinstance(v, kinds) and isinstance(v, bool) == (kind is bool) for v in values]
        if several != isinstance(value, tuple) or not all(fits):
            each = f"each element must be a {kind.__name__}, as in {self.default}"
            return f"={value}: {each if several else f'must be of type {kind.__name__}'}"
        if not all(0 <= v < math.inf for v in values if isinstance(v, int | float)):
            return f"={value}: must be finite and at least 0"
        return ""


GROUPS = {  # remarks on all knobs of a group
    "data.colors": "Colour distortions, on the device, in random order; 0 turns one off.",
    "data.randaugment": "RandAugment, Cubuk et al. (2020), before the colours.",
    "run": "May change between the starts of a run: no knob here changes the result.",
}

KNOBS = {
    "seed": Knob(0, "Seeds the initial weights and dropout; data.seed seeds order and crops."),
    "input_px": Knob(224, "Paper, section 5; at least 65 with strided heads."),
    "init_from": Knob("", "A workdir or a converted checkpoint: training starts from its weights."),
    "model.classes": Knob(1000, "ILSVRC-2014 has 1000; labels must be below it.", ABOVE_0),
    "model.module": Knob("reduced", "Figure 2b; naive: figure 2a.", one_of("reduced", "naive")),
    "model.norm": Knob(
        "lrn", "Paper, figure 3; batch: BatchNorm, no LRN.", one_of("lrn", "batch", "none")
    ),
    "model.width": Knob(1.0, "Multiplies all filters; the ensemble has one wider model.", ABOVE_0),
    "model.biases": Knob(True, "Biases in the convolutions, as in Caffe and usual in 2014."),
    "model.heads": Knob(True, "Auxiliary classifiers on 4a and 4d, in training only."),
    "model.heads_on": Knob("both", "Heads on both modules or on one.", one_of("both", "4a", "4d")),
    "model.conv5x5_px": Knob(
        5, "Paper, Table 1; 3: TF-slim's and torchvision's networks.", one_of(3, 5)
    ),
    "model.pool4_px": Knob(
        3, "Max pool after 4e: paper, Table 1; 2: TF-slim's and torchvision's.", one_of(2, 3)
    ),
    "model.padding": Knob(
        "symmetric",
        "Of convolutions, as in Caffe and torch; same: TensorFlow's, which differs in conv1.",
        one_of("symmetric", "same"),
    ),
    "model.head_pool": Knob(
        "strided", "5x5/3, section 5; adaptive: torchvision's 4x4.", one_of("strided", "adaptive")
    ),
    "model.top": Knob(
        "average",
        "Average pooling: paper, Table 1; fc: fully connected, .6% worse in the paper.",
        one_of("average", "fc"),
    ),
    "model.dropout": Knob(0.4, "Before the classifier: paper, Table 1.", SHARE),
    "model.head_dropout": Knob(0.7, "In the heads: paper, section 5.", SHARE),
    "model.drop_path": Knob(
        0.0, "Share of an image's branches that training drops: Zoph et al. (2018).", SHARE
    ),
    "model.initializer": Knob(
        "he",
        "For inputs of unit variance: on 0-255 the loss explodes in two steps. xavier is Caffe's, "
        "for 0-255; several people report a dead trunk with it.",
        one_of("he", "xavier"),
    ),
    "model.dtype": Knob(
        "float32", "Computation type; bfloat16: for TPU and GPU.", one_of("float32", "bfloat16")
    ),
    "model.frozen_through": Knob(
        "", "Training freezes the modules from conv1 to this one.", one_of(*TRUNK, "")
    ),
    "model.remat": Knob(False, "Recomputes activations in the backward pass: less memory."),
    "loss.head_weight": Knob(0.3, "Weight of each auxiliary loss: paper, section 5."),
    "loss.head_schedule": Knob(
        "constant", "linear: head_weight falls to 0 along the run.", one_of("constant", "linear")
    ),
    "loss.label_smoothing": Knob(0.0, "Not in the paper; Inception v3 uses .1."),
    "loss.smooth_heads": Knob(True, "Smooths the labels of the auxiliary losses too."),
    "loss.class_balance": Knob(
        0.0, "Weights a class of n images by n to the power of minus this; 0: all alike.", UP_TO_1
    ),
    "distill.teacher": Knob("", "DIR,...: runs whose mean probabilities the network learns too."),
    "distill.temperature": Knob(1.0, "Of both softmaxes: Hinton et al. (2015).", ABOVE_0),
    "distill.share": Knob(
        1.0, "Of the teachers in the loss; 1: no labels, Beyer et al. (2022).", UP_TO_1
    ),
    "distill.heads": Knob(True, "The auxiliary heads learn from the teachers too."),
    "optim.batch_size": Knob(
        256, "The global batch; the paper gives none, Caffe uses 32, Intel's Caffe 256.", AT_LEAST_1
    ),
    "optim.accumulate": Knob(
        1, "Parts of a batch, one after the other: less memory. Changes BatchNorm.", AT_LEAST_1
    ),
    "optim.gradient_dtype": Knob(
        "float32",
        "Type in which devices sum their gradients; bfloat16 sends half the bytes.",
        one_of("float32", "bfloat16"),
    ),
    "optim.epochs": Knob(90.0, "Intel's Caffe at batch 256: 68.74 / 89.06 top-1 / top-5."),
    "optim.min_epoch_steps": Knob(0, "Minimum steps per epoch: several passes over a small set."),
    "optim.learning_rate": Knob(
        0.01, "MindCV's at batch 256, for he; Intel's Caffe uses .04, for xavier."
    ),
    "optim.schedule": Knob(
        "polynomial",
        "Caffe's; exponential is the paper's; one_cycle: Smith and Topin (2018).",
        one_of("polynomial", "exponential", "cosine", "linear", "constant", "one_cycle"),
    ),
    "optim.power": Knob(0.5, "Exponent of the polynomial schedule: quick_solver's."),
    "optim.decay_rate": Knob(0.96, "Factor of the exponential schedule: paper, section 6."),
    "optim.decay_epochs": Knob(8.0, "Interval of the exponential schedule: paper, section 6."),
    "optim.warmup_epochs": Knob(0.0, "Linear from 0; large batches need a few epochs."),
    "optim.warmup_steps": Knob(0, "The warm-up in steps instead of epochs."),
    "optim.name": Knob("sgd", "The paper's; all: docs/how-to/recipes.md.", one_of(*OPTIMIZERS)),
    "optim.momentum": Knob(0.9, "Paper, section 6; beta1 of adamw, lamb and muon."),
    "optim.momentum_style": Knob(
        "optax", "caffe: the velocity includes the learning rate.", one_of("optax", "caffe")
    ),
    "optim.clip_norm": Knob(0.0, "Greatest norm of all gradients together; 0: any. v3 uses 2."),
    "optim.adaptive_clip": Knob(
        0.0, "The same by filter, over its weights' norm: Brock et al. (2021)."
    ),
    "optim.weight_decay": Knob(2e-4, "L2: quick_solver's; decoupled in adamw, lamb and muon."),
    "optim.bias_lr_mult": Knob(1.0, "Multiplies the rate of one-axis parameters; Caffe: 2."),
    "optim.bias_decay_mult": Knob(1.0, "Multiplies the decay of one-axis parameters; Caffe: 0."),
    "optim.trunk_lr_mult": Knob(1.0, "Multiplies the rate of conv1 to 5b, besides bias_lr_mult."),
    "optim.polyak_decay": Knob(
        0.9999, "Averages over 2 epochs of ImageNet; the paper gives no decay; 0: no average."
    ),
    "train.sizes": Knob((0,), "Sizes in px, for equal shares of the run; 0: input_px.", SIZES),
    "data.source": Knob(
        "digits",
        "Part of scikit-learn; folder: class folders; tfds: a TFDS set; store: written by prepare; "
        "synthetic: noise around one colour per class.",
        one_of("digits", "folder", "tfds", "store", "synthetic"),
    ),
    "data.path": Knob("", "Folder of the class folders, of TFDS, or of a store."),
    "data.labels": Knob(
        "",
        "List of path and class of a folder's pictures, for splits without class folders; {split} "
        "in its name is the split's; ReaL's real.json: docs/how-to/sets.md.",
    ),
    "data.name": Knob("", "Name of a tfds set: imagenet2012, mnist:3.0.1, ..."),
    "data.examples": Knob(1024, "Number of synthetic images.", AT_LEAST_1),
    "data.train_split": Knob("train", "A tfds set may be sliced: train[:90%]."),
    "data.eval_split": Knob("test", "Folder without splits: val or all; imagenet2012: validation."),
    "data.seed": Knob(0, "Seeds order, crops and colours."),
    "data.balance": Knob(
        0.0, "Draws a class of n images in proportion to n ** (1 - this); 1: all alike.", UP_TO_1
    ),
    "data.decoder": Knob(
        "fast",
        "Decodes only the crop, no antialiasing; exact: slower (docs/reasons/input.md).",
        one_of("fast", "exact", words="choose fast or exact"),
    ),
    "data.sampler": Knob(
        "inception",
        "Paper, section 6; caffe: squash, then a random crop.",
        one_of("inception", "caffe", words="choose inception or caffe"),
    ),
    "data.area_range": Knob((0.08, 1.0), "Share of the image in a crop: paper, section 6.", AREAS),
    "data.aspect_range": Knob((3 / 4, 4 / 3), "Width over height: paper, section 6.", ASPECTS),
    "data.mirror": Knob(True, "Mirrors half of the crops; wrong for digits and letters."),
    "data.interpolations": Knob(
        INTERPOLATIONS, "One is drawn for each crop: paper, section 6.", some_of(*INTERPOLATIONS)
    ),
    "data.colors.brightness": Knob(0.5, "Factor between 1 - this and 1 + this: Howard (2013)."),
    "data.colors.contrast": Knob(0.5, "Factor between 1 - this and 1 + this: Howard (2013)."),
    "data.colors.saturation": Knob(0.5, "Factor between 1 - this and 1 + this: Howard (2013)."),
    "data.colors.hue": Knob(0.0, "Rotation by up to this, in turns; not Howard's."),
    "data.colors.lighting": Knob(0.1, "Standard deviation: Krizhevsky et al. (2012)."),
    "data.randaugment.layers": Knob(
        0, "Operations per image, drawn from 14; the authors use 2 for ResNet-50; 0: none."
    ),
    "data.randaugment.magnitude": Knob(
        9.0, "The authors' value for ResNet-50; smaller networks need less.", MAGNITUDE
    ),
    "data.mixup": Knob(0.0, "Share from Beta(this, this); 0: none; Zhang et al. (2018) use .2."),
    "data.cutmix": Knob(
        0.0, "As mixup; Yun et al. (2019) use 1. If both are above 0, each image draws one."
    ),
    "data.erasing": Knob(0.0, "Share of images with an erased box: Zhong et al. (2017).", UP_TO_1),
    "data.repeats": Knob(1, "Crops of an image in a row: Hoffer et al. (2020).", AT_LEAST_1),
    "data.normalization": Knob(
        "unit",
        "Unit variance; mean: 0-255 minus the mean, the paper's; symmetric: -1 to 1.",
        one_of("mean", "unit", "symmetric"),
    ),
    "data.resize": Knob(
        "short",
        "Evaluation resizes the shorter side; squash: both, Caffe's; central_crop: TF-slim's.",
        one_of("short", "squash", "central_crop"),
    ),
    "data.resize_px": Knob(256, "Paper, section 7, smallest scale; also used by sampler caffe."),
    "data.bits": Knob(
        0,
        "Bits used by pictures stored with 16 or 32 bits a channel: 12 for most X-rays. One that "
        "uses more counts as damaged. 0: 16, with a warning if the sampled pictures use fewer.",
        BITS,
    ),
    "data.max_megapixels": Knob(100.0, "A larger picture counts as damaged."),
    "data.max_damaged_share": Knob(
        0.01, "Share of the training images; above it the run ends. ImageNet has none damaged."
    ),
    "run.log_every_steps": Knob(20, "Steps from one line of metrics to the next.", AT_LEAST_1),
    "run.norms_every_steps": Knob(
        0, "Steps between lines of norms of each module's gradient, update, weights; 0: none."
    ),
    "run.eval_every_epochs": Knob(1.0, "Epochs from one evaluation to the next."),
    "run.checkpoint_every_epochs": Knob(1.0, "Epochs from one checkpoint to the next."),
    "run.keep_checkpoints": Knob(2, "The newest ones; the best is kept too.", AT_LEAST_1),
    "run.workers": Knob(
        "all", "Threads; each makes a batch, in evaluation an image; all: one per core.", THREADS
    ),
    "run.eval_batch_size": Knob(256, "Rounded up to a multiple of the devices.", AT_LEAST_1),
    "run.dead_head_epochs": Knob(4.0, "A head at chance for this long raises a warning."),
}
