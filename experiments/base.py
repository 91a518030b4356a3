"""Every knob once, with the reason: the paper's value where it gives one.

Exceptions: normalization and schedule, whose paper values are in `paper.py`.

Other experiments start from `get_config()` and list what differs.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The paper's network and sampling; where it is silent, Caffe's quick_solver and MindCV."""
    config = ConfigDict()
    config.seed = 0  # initial weights and dropout; order and sampling have data.seed
    config.input_px = 224  # paper, section 5; with heads at least 65
    config.init_from = ""  # a run's folder or a converted one: starts with its weights

    config.model = ConfigDict()
    config.model.classes = 1000  # ILSVRC-2014; labels must be below it
    config.model.module = "reduced"  # figure 2b; naive: figure 2a
    config.model.norm = "lrn"  # paper, figure 3; batch: BatchNorm everywhere, no LRN; none
    config.model.width = 1.0  # times every number of filters; the ensemble had one wider model
    config.model.biases = True  # of the convolutions; Caffe and the paper's time had them
    config.model.heads = True  # auxiliary classifiers on 4a and 4d, in training only
    config.model.heads_on = "both"  # or 4a or 4d alone
    config.model.conv5x5_px = 5  # paper, Table 1; 3: TF-slim's and torchvision's networks
    config.model.pool4_px = 3  # the max pool after 4e; paper, Table 1; 2: likewise theirs
    config.model.head_pool = "strided"  # 5x5/3; paper, section 5; adaptive: torchvision's, to 4x4
    config.model.top = "average"  # paper, Table 1; fc, a fully connected layer: .6% worse there
    config.model.dropout = 0.4  # paper, Table 1
    config.model.head_dropout = 0.7  # paper, section 5
    # For inputs of unit variance: on 0-255 the loss explodes in two steps. xavier is Caffe's,
    # for 0-255, and left the trunk dead for several people.
    config.model.initializer = "he"
    config.model.dtype = "float32"  # of the computation; bfloat16 on TPU and GPU
    config.model.frozen_through = ""  # conv1, conv2_reduce, conv2, 3a to 5b: training leaves it be
    config.model.remat = False  # computes activations anew in the backward pass: less memory

    config.loss = ConfigDict()
    config.loss.head_weight = 0.3  # of each auxiliary loss; paper, section 5
    config.loss.label_smoothing = 0.0  # not in the paper; .1 is Inception v3's

    config.optim = ConfigDict()
    config.optim.batch_size = 256  # global; the paper gives none, Caffe 32, Intel 256
    # The batch in so many parts, one after the other, for devices that it does not fit on; the
    # result is the same, rounding apart, but for BatchNorm: see inception/step.py.
    config.optim.accumulate = 1
    config.optim.epochs = 90.0  # Intel Caffe at batch 256: 68.74 / 89.06
    config.optim.learning_rate = 0.01  # MindCV at batch 256, for he; Intel Caffe .04, for xavier
    config.optim.schedule = "polynomial"  # Caffe's; exponential is the paper's; cosine
    config.optim.power = 0.5  # of polynomial; quick_solver's
    config.optim.decay_rate = 0.96  # of exponential; paper, section 6
    config.optim.decay_epochs = 8.0  # of exponential; paper, section 6
    config.optim.warmup_epochs = 0.0  # linear from 0; large batches want a few
    config.optim.momentum = 0.9  # paper, section 6
    config.optim.momentum_style = "optax"  # caffe: the rate inside the velocity
    config.optim.weight_decay = 2e-4  # L2; quick_solver's
    config.optim.bias_lr_mult = 1.0  # Caffe: 2; for every parameter with one axis
    config.optim.bias_decay_mult = 1.0  # Caffe: 0; likewise
    config.optim.trunk_lr_mult = 1.0  # of all but classifiers and heads; times bias_lr_mult
    config.optim.polyak_decay = 0.9999  # 2 epochs of ImageNet; the paper gives no rate; 0: none

    config.data = ConfigDict()
    config.data.source = "digits"  # inside scikit-learn; or folder, tfds, store, synthetic
    config.data.path = ""  # folder: of class folders; tfds: TFDS's; store: what prepare wrote
    config.data.name = ""  # tfds: imagenet2012, mnist:3.0.1, ...
    config.data.examples = 1024  # synthetic: how many
    config.data.train_split = "train"  # tfds may slice: train[:90%]
    config.data.eval_split = "test"  # folder without splits: val, all; imagenet2012: validation
    config.data.seed = 0  # order, crops, colours
    config.data.decoder = "fast"  # the crop alone, not antialiased; exact: slower (docs/input.md)
    config.data.sampler = "inception"  # paper, section 6; caffe: squash and random crop
    config.data.area_range = (0.08, 1.0)  # paper, section 6
    config.data.aspect_range = (3 / 4, 4 / 3)  # paper, section 6
    config.data.mirror = True  # digits and letters must not
    config.data.interpolations = ("bilinear", "area", "nearest", "cubic")  # paper, section 6
    config.data.colors = ConfigDict()  # on the device, in random order; 0 turns one off
    config.data.colors.brightness = 0.5  # factor from 1 -+ this; Howard (2013)
    config.data.colors.contrast = 0.5  # likewise
    config.data.colors.saturation = 0.5  # likewise
    config.data.colors.hue = 0.0  # turns, -+ this; not Howard's
    config.data.colors.lighting = 0.1  # standard deviation; Krizhevsky et al. (2012)
    config.data.randaugment = ConfigDict()  # Cubuk et al. (2020), before the colours
    config.data.randaugment.layers = 0  # operations on each image, of 14; theirs for ResNet-50: 2
    config.data.randaugment.magnitude = 9.0  # of 10; likewise; smaller networks bear less
    config.data.mixup = 0.0  # of Beta(this, this); 0: none; Zhang et al. (2018) have .2
    config.data.cutmix = 0.0  # likewise; Yun et al. (2019) have 1; with both, one or the other
    config.data.normalization = "unit"  # variance; mean: 0-255 less it, the paper's; symmetric: +-1
    config.data.resize = "short"  # evaluation's; squash: both sides, Caffe; central_crop: TF-slim
    config.data.resize_px = 256  # paper, its smallest scale; also before Caffe's random crop
    config.data.max_megapixels = 100.0  # a larger picture counts as damaged
    config.data.max_damaged_share = 0.01  # of the training images; ImageNet has none damaged

    # What may change from one start of a run to the next: nothing here changes the result.
    config.run = ConfigDict()
    config.run.log_every_steps = 20
    config.run.eval_every_epochs = 1.0
    config.run.checkpoint_every_epochs = 1.0
    config.run.keep_checkpoints = 2  # the newest; the best is kept besides
    config.run.workers = "all"  # threads, each on a batch of its own: one a core, or a number
    config.run.eval_batch_size = 256  # rounded up to a multiple of the devices
    config.run.dead_head_epochs = 4.0  # a head at chance for so long raises a warning
    return config
