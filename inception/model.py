"""GoogLeNet as in Table 1 of the paper: Inception, AuxiliaryHead, GoogLeNet."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from inception import UserError, ops


class Filters(NamedTuple):
    """One row of Table 1: how many filters each convolution of an Inception module has."""

    conv1x1: int
    reduce3x3: int
    conv3x3: int
    reduce5x5: int
    conv5x5: int
    pool_proj: int


# Table 1. Below: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
# NOTE: the paper's parameter and operation counts do not all follow from these numbers
# (`launch.py audit` lists where); the filter counts are what every port uses, and so do we.
TABLE_1 = {
    "3a": Filters(64, 96, 128, 16, 32, 32),
    "3b": Filters(128, 128, 192, 32, 96, 64),
    "4a": Filters(192, 96, 208, 16, 48, 64),
    "4b": Filters(160, 112, 224, 24, 64, 64),
    "4c": Filters(128, 128, 256, 24, 64, 64),
    "4d": Filters(112, 144, 288, 32, 64, 64),
    "4e": Filters(256, 160, 320, 32, 128, 128),
    "5a": Filters(256, 160, 320, 32, 128, 128),
    "5b": Filters(384, 192, 384, 48, 128, 128),
}
CONV1, CONV2_REDUCE, CONV2 = 64, 64, 192  # the filters before 3a
HEADS_ON = ("4a", "4d")
HEADS = {"both": HEADS_ON, **{row: (row,) for row in HEADS_ON}}
TRUNK = ("conv1", "conv2_reduce", "conv2", *TABLE_1)  # all but the classifier and the heads
HEAD_CONV, HEAD_HIDDEN = 128, 1024
TOPS = ("average", "fc")
TOP_HIDDEN = 1024  # of 'fc': as many features as the average has
HEAD_GRID = 4  # what the heads' convolution reads, at 224 px or after adaptive pooling
# A head's 5x5 pool stands on 4a's grid, which is the input halved four times, rounded up.
SMALLEST_PX_WITH_HEADS = 4 * 2**4 + 1

# Fields that neither shape the trunk nor change what it computes in evaluation, rounding apart.
FREE_KNOBS = frozenset(
    (
        "heads",
        "heads_on",
        "head_pool",
        "dropout",
        "head_dropout",
        "initializer",
        "dtype",
        "frozen_through",
        "remat",
    )
)

MODULES = ("reduced", "naive")
NORMS = ("lrn", "batch", "none")
HEAD_POOLS = ("strided", "adaptive")
INITIALIZERS = {
    # (kernels, biases of everything but the classifiers)
    "he": (nn.initializers.he_normal(), nn.initializers.zeros),
    # NOTE: Caffe's "xavier" is uniform(+-sqrt(3 / fan_in)): fan-in only, unlike Glorot's.
    "xavier": (
        nn.initializers.variance_scaling(1.0, "fan_in", "uniform"),
        nn.initializers.constant(0.2),
    ),
}


def frozen_modules(frozen_through: str) -> tuple[str, ...]:
    """The modules from conv1 to the named one, which training leaves as they are; '': none.

    Raises:
        UserError: no such module in the trunk.
    """
    if not frozen_through:
        return ()
    if frozen_through not in TRUNK:
        raise UserError(
            f"config.model.frozen_through={frozen_through}: choose one of {', '.join(TRUNK)}, or "
            "nothing"
        )
    return TRUNK[: TRUNK.index(frozen_through) + 1]


def _initializers(module: nn.Module) -> tuple[Any, Any]:
    """(kernels, biases) of a module of that `initializer`.

    Where there are parameters Flax traces the initialiser for its shape alone: zeros do, and a
    step is sooner traced (docs/performance.md).
    """
    if not module.is_initializing():
        return nn.initializers.zeros, nn.initializers.zeros
    return INITIALIZERS[module.initializer]


class Conv(nn.Module):
    """Convolution, BatchNorm if asked for, ReLU unless the caller has it done.

    [b, h, w, c] -> [b, ceil(h / stride), ceil(w / stride), filters].
    """

    filters: int
    kernel_px: int
    stride: int = 1
    batch_norm: bool = False
    use_bias: bool = True
    initializer: str = "he"
    dtype: str = "float32"
    relu: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        kernel_init, bias_init = _initializers(self)
        # NOTE: padded alike on both sides, as in Caffe and torch. TF's SAME pads a 7x7/2
        # by (2, 3) on even inputs: weights trained one way need it at inference.
        pad = self.kernel_px // 2
        x = nn.Conv(
            self.filters,
            (self.kernel_px, self.kernel_px),
            self.stride,
            padding=((pad, pad), (pad, pad)),
            # NOTE: BatchNorm's offset takes the bias's place.
            use_bias=self.use_bias and not self.batch_norm,
            kernel_init=kernel_init,
            bias_init=bias_init,
            dtype=self.dtype,
            conv_general_dilated=ops.convolution if train else None,
        )(x)
        if self.batch_norm:
            # The mean is over the global batch: under jit every device computes the same
            # statistics. epsilon as in the TF-slim and torchvision networks.
            x = nn.BatchNorm(
                use_running_average=not train, momentum=0.9, epsilon=1e-3, dtype=self.dtype
            )(x)
        return ops.relu(x) if self.relu else x


class Inception(nn.Module):
    """The Inception module, paper section 4 and figure 2: (b) with dimension reductions or
    (a) naive, where 3x3, 5x5 and the pool read the input itself and no projection follows.

    [b, h, w, c] -> [b, h, w, sum of the four branches].
    """

    filters: Filters
    conv: functools.partial
    naive: bool = False
    conv5x5_px: int = 5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        f = self.filters

        def reduce(filters: int, name: str) -> jax.Array:
            return x if self.naive else self.conv(filters, 1, name=name)(x, train)

        def branch(x: jax.Array, filters: int, kernel_px: int, name: str) -> jax.Array:
            return self.conv(filters, kernel_px, name=name, relu=False)(x, train)

        branches = [
            branch(x, f.conv1x1, 1, "1x1"),
            branch(reduce(f.reduce3x3, "3x3_reduce"), f.conv3x3, 3, "3x3"),
            branch(reduce(f.reduce5x5, "5x5_reduce"), f.conv5x5, self.conv5x5_px, "5x5"),
        ]
        pool = ops.max_pool(x, stride=1)
        if self.naive:
            return jnp.concatenate([ops.concatenate_relu(*branches), pool], axis=-1)
        return ops.concatenate_relu(*branches, branch(pool, f.pool_proj, 1, "pool_proj"))


class AuxiliaryHead(nn.Module):
    """The classifier on 4a and on 4d that only training has, paper section 5.

    [b, h, w, c] -> logits float32 [b, classes]; the strided pool needs h, w >= 5.
    """

    classes: int
    conv: functools.partial
    dense: functools.partial
    conv_filters: int = HEAD_CONV
    hidden: int = HEAD_HIDDEN
    dropout: float = 0.7
    pool: str = "strided"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, rows: jax.Array | None = None) -> jax.Array:
        if self.pool == "strided":
            x = ops.avg_pool(x, window=5, stride=3)  # [b, 4, 4, 512 or 528] at 224 px
        else:
            x = ops.adaptive_avg_pool(x, outputs=HEAD_GRID)  # the same at any
        x = self.conv(self.conv_filters, 1, name="conv")(x, train)  # [b, 4, 4, 128]
        x = x.reshape(x.shape[0], -1)  # [b, 2048]
        _, bias_init = INITIALIZERS[self.conv.keywords["initializer"]]
        x = ops.relu(self.dense(self.hidden, bias_init=bias_init, name="fc")(x))  # [b, 1024]
        x = ops.Dropout(self.dropout)(x, train, rows)
        return self.dense(self.classes, name="classifier")(x).astype(jnp.float32)


class GoogLeNet(nn.Module):
    """GoogLeNet, paper section 5 and Table 1.

    [b, px, px, 3] -> {'main': logits, '4a': logits, '4d': logits}, float32 [b, classes].
    The heads '4a' and '4d' are there in training only, and only if `heads`; evaluation
    neither computes them nor needs their parameters. Parameters are float32.
    In training `rows`, int [b], says which rows of the whole batch these images are, where they
    are a part of it: dropout's masks are functions of the rng 'dropout' and the row.

    Args:
        classes: how many.
        module: 'reduced' (figure 2b, the paper's network) or 'naive' (figure 2a).
        norm: 'lrn' (the paper's), 'batch' (BatchNorm after every convolution, no LRN), 'none'.
        width: multiplies every number of filters; the paper's ensemble had one wider model.
        biases: of the convolutions. BatchNorm's offset takes their place.
        heads: auxiliary classifiers in training.
        heads_on: 'both', or '4a' or '4d' alone.
        conv5x5_px: kernel of the convolutions called 5x5: 5, or 3 as in TF-slim and torchvision.
        pool4_px: window of the max pool after 4e: 3, or 2 likewise.
        head_pool: 'strided' (5x5/3, the paper's) or 'adaptive' (to 4x4, torchvision's).
        top: what makes 1024 features of 5b's grid: 'average' (the paper's), or 'fc', a fully
            connected layer and ReLU, which fixes the input's size.
        dropout: share of these features dropped before the classifier.
        head_dropout: the same in the auxiliary heads.
        initializer: 'he' (normal, fan-in, biases 0) or 'xavier' (Caffe's; biases .2).
        dtype: of the computation, 'float32' or 'bfloat16'.
        frozen_through: the last module, counted from conv1, that runs in training as it does in
            evaluation (BatchNorm with its running statistics, which stay) and that no gradient
            enters; '': none. The optimiser must leave its parameters alone: `frozen_modules`.
        remat: in training the backward pass computes the inside of every module of the trunk,
            and of LRN, anew instead of keeping it: the same gradients.

    Raises:
        UserError: a choice that does not exist; in training with heads, a too small input.
    """

    classes: int = 1000
    module: str = "reduced"
    norm: str = "lrn"
    width: float = 1.0
    biases: bool = True
    heads: bool = True
    heads_on: str = "both"
    conv5x5_px: int = 5
    pool4_px: int = 3
    head_pool: str = "strided"
    top: str = "average"
    dropout: float = 0.4
    head_dropout: float = 0.7
    initializer: str = "he"
    dtype: str = "float32"
    frozen_through: str = ""
    remat: bool = False

    def __post_init__(self) -> None:
        for knob, value, choices in (
            ("module", self.module, MODULES),
            ("norm", self.norm, NORMS),
            ("conv5x5_px", self.conv5x5_px, (3, 5)),
            ("pool4_px", self.pool4_px, (2, 3)),
            ("heads_on", self.heads_on, tuple(HEADS)),
            ("head_pool", self.head_pool, HEAD_POOLS),
            ("top", self.top, TOPS),
            ("initializer", self.initializer, tuple(INITIALIZERS)),
            ("dtype", self.dtype, ("float32", "bfloat16")),
        ):
            if value not in choices:
                known = ", ".join(map(str, choices))
                raise UserError(f"config.model.{knob}={value}: choose one of {known}")
        for knob in ("classes", "width"):
            if getattr(self, knob) <= 0:
                raise UserError(f"config.model.{knob}={getattr(self, knob)}: must be above 0")
        for knob in ("dropout", "head_dropout"):
            if not 0 <= getattr(self, knob) < 1:
                raise UserError(
                    f"config.model.{knob}={getattr(self, knob)}: must be at least 0 and below 1"
                )
        frozen_modules(self.frozen_through)
        super().__post_init__()

    def check_input_px(self, px: int) -> None:
        """Raises UserError where the heads have no room in training."""
        if self.heads and self.head_pool == "strided" and px < SMALLEST_PX_WITH_HEADS:
            raise UserError(
                f"config.input_px={px} is too small for the auxiliary heads, whose 5x5 pool needs "
                f"a grid of 5x5: the smallest is {SMALLEST_PX_WITH_HEADS}, or turn them off with "
                "config.model.heads=False"
            )

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, rows: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        heads = HEADS[self.heads_on] if self.heads and train else ()
        if heads:
            self.check_input_px(min(x.shape[1:3]))

        def scale(filters: int) -> int:
            return max(1, round(filters * self.width))

        conv = functools.partial(
            Conv,
            batch_norm=self.norm == "batch",
            use_bias=self.biases,
            initializer=self.initializer,
            dtype=self.dtype,
        )
        kernel_init, bias_init = _initializers(self)
        dense = functools.partial(nn.Dense, kernel_init=kernel_init, dtype=self.dtype)

        # Named for `launch.py bench --profile`.
        def lrn(name: str, x: jax.Array) -> jax.Array:
            with jax.named_scope(name):
                return ops.local_response_normalization(x) if self.norm == "lrn" else x

        def pool(name: str, x: jax.Array, window: int = 3) -> jax.Array:
            with jax.named_scope(name):
                return ops.max_pool(x, stride=2, window=window)

        def trained(module: nn.Module, x: jax.Array) -> jax.Array:
            return module(x, train)

        if self.remat and train:
            trained = nn.remat(trained)
        frozen = frozen_modules(self.frozen_through)
        logits = {}

        def run(module: nn.Module, x: jax.Array) -> jax.Array:
            if module.name in frozen:
                return jax.lax.stop_gradient(module(x, train=False))
            return trained(module, x)

        # Shapes at 224 px and width 1.
        x = run(conv(scale(CONV1), 7, 2, name="conv1"), x)  # [b, 112, 112, 64]
        x = lrn("lrn1", pool("pool1", x))  # [b, 56, 56, 64]
        x = run(conv(scale(CONV2_REDUCE), 1, name="conv2_reduce"), x)  # [b, 56, 56, 64]
        x = run(conv(scale(CONV2), 3, name="conv2"), x)  # [b, 56, 56, 192]
        x = pool("pool2", lrn("lrn2", x))  # [b, 28, 28, 192]
        for row, filters in TABLE_1.items():
            wide = Filters(*map(scale, filters))
            x = run(Inception(wide, conv, self.module == "naive", self.conv5x5_px, name=row), x)
            if row in heads:
                logits[row] = AuxiliaryHead(
                    self.classes,
                    conv,
                    dense,
                    scale(HEAD_CONV),
                    scale(HEAD_HIDDEN),
                    self.head_dropout,
                    self.head_pool,
                    name=f"head_{row}",
                )(x, train, rows)
            if row == "3b":
                x = pool("pool3", x)  # [b, 14, 14, 480]
            if row == "4e":
                x = pool("pool4", x, self.pool4_px)  # [b, 7, 7, 832]
        if self.top == "average":
            x = x.mean(axis=(1, 2))  # [b, 1024]
        else:
            x = x.reshape(x.shape[0], -1)  # [b, 50176]
            x = ops.relu(dense(scale(TOP_HIDDEN), bias_init=bias_init, name="fc")(x))
        x = ops.Dropout(self.dropout)(x, train, rows)
        logits["main"] = dense(self.classes, name="classifier")(x).astype(jnp.float32)
        return logits
