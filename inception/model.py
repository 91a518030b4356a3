"""GoogLeNet as in Table 1 of the paper: Inception, AuxiliaryHead, GoogLeNet."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers

from inception import ops


class Filters(NamedTuple):
    """One row of Table 1: the number of filters of each convolution in an Inception module."""

    conv1x1: int
    reduce3x3: int
    conv3x3: int
    reduce5x5: int
    conv5x5: int
    pool_proj: int


# Table 1. Columns: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
# NOTE: the paper's parameter and operation counts do not all follow from these numbers
# (`launch.py audit` lists the differences). Every port uses these filter counts, as this one does.
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
CONV1, CONV2_REDUCE, CONV2 = 64, 64, 192  # filters of the convolutions before 3a
HEAD_ROWS = ("4a", "4d")
POOLED = ("3b", "4e")  # rows before a max pool
TRUNK = ("conv1", "conv2_reduce", "conv2", *TABLE_1)  # all but the classifier and the heads
HEAD_CONV, HEAD_HIDDEN = 128, 1024
TOP_HIDDEN = 1024  # units of the 'fc' top: as many features as the average returns
MOMENTUM = 0.9  # of BatchNorm's running statistics
# A head's 5x5 pool reads 4a's grid: the input's size halved four times, rounded up each time.
SMALLEST_PX_WITH_HEADS = 4 * 2**4 + 1
HEADS_ON = {"both": HEAD_ROWS, "4a": ("4a",), "4d": ("4d",)}
HEAD_POOLS = {
    "strided": functools.partial(ops.avg_pool, window=5, stride=3),
    "adaptive": functools.partial(ops.adaptive_avg_pool, outputs=4),  # strided's grid at 224 px
}
NAIVE = {"reduced": False, "naive": True}
INITIALIZERS = {
    # (initializer of kernels, of biases); the classifiers' biases start at 0
    "he": (initializers.he_normal(), initializers.zeros),
    # NOTE: Caffe's "xavier" is uniform(+-sqrt(3 / fan_in)): fan-in only, unlike Glorot's.
    "xavier": (initializers.variance_scaling(1.0, "fan_in", "uniform"), initializers.constant(0.2)),
}
# The normalisation after pool1 and conv2. 'batch' adds none there: every Conv contains BatchNorm.
NORMS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "lrn": ops.local_response_normalization,
    "batch": lambda x: x,
    "none": lambda x: x,
}
# Fields that change neither the trunk's shape nor, up to rounding, its values in evaluation.
FREE_KNOBS = frozenset((
    "heads", "heads_on", "head_pool", "dropout", "head_dropout", "drop_path", "initializer",
    "dtype", "frozen_through", "remat", "batch_axis",
))  # fmt: skip

Logits = dict[str, jax.Array]  # by head


def frozen_modules(frozen_through: str) -> tuple[str, ...]:
    """The modules from conv1 to `frozen_through`, which training does not change; '': none."""
    return TRUNK[: TRUNK.index(frozen_through) + 1] if frozen_through else ()


def scaled(filters: int, width: float) -> int:
    """The number of filters, at least 1, at a `width` that multiplies it."""
    return max(1, round(filters * width))


def named(name: str, operation: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """operation(x), under the name that `launch.py bench --profile` prints."""
    with jax.named_scope(name):
        return operation(x)


class Conv(nn.Module):
    """Convolution, then BatchNorm if `batch_norm`, then ReLU if `relu`.

    [b, h, w, c] -> [b, ceil(h / stride), ceil(w / stride), filters * width].
    """

    filters: int
    kernel_px: int
    stride: int = 1
    batch_norm: bool = False
    use_bias: bool = True
    width: float = 1.0
    initializer: str = "he"
    dtype: str = "float32"
    batch_axis: str | None = None
    relu: bool = True
    padding: str = "symmetric"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        kernel_init, bias_init = INITIALIZERS[self.initializer]
        # NOTE: on even inputs SAME pads a 7x7/2 by (2, 3). Weights need their training's padding.
        layer = ops.Conv if self.use_bias and not self.batch_norm else nn.Conv
        x = layer(
            scaled(self.filters, self.width),
            (self.kernel_px, self.kernel_px),
            self.stride,
            padding="SAME" if self.padding == "same" else self.kernel_px // 2,
            use_bias=False,
            kernel_init=kernel_init,
            bias_init=bias_init,
            dtype=self.dtype,
            conv_general_dilated=ops.convolution,
        )(x)
        if self.batch_norm:
            # Statistics are over the rows of all devices; epsilon is TF-slim's and torchvision's.
            norm = functools.partial(nn.BatchNorm, momentum=MOMENTUM, epsilon=1e-3)
            x = norm(use_running_average=not train, axis_name=self.batch_axis, dtype=self.dtype)(x)
        return ops.relu(x) if self.relu else x


class Inception(nn.Module):
    """The Inception module, paper section 4 and figure 2: (b) with dimension reductions or
    (a) naive, where 3x3, 5x5 and the pool read the input itself and no projection follows.

    [b, h, w, c] -> [b, h, w, sum of the four branches]. With `relu` False, 3x3, 5x5 and pool_proj
    return values before ReLU: the caller applies ReLU after a max pool.
    """

    filters: Filters
    conv: Callable[..., Conv]
    naive: bool = False
    conv5x5_px: int = 5
    relu: bool = True
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, rows: jax.Array | None = None) -> jax.Array:
        f, last = self.filters, functools.partial(self.conv, relu=self.relu)
        reduce = {} if self.naive else {"3x3_reduce": f.reduce3x3, "5x5_reduce": f.reduce5x5}
        branch1x1, *reduced = ops.side_by_side(self, x, train, {"1x1": f.conv1x1, **reduce})
        branch3x3, branch5x5 = reduced or (x, x)
        branch3x3 = last(f.conv3x3, 3, name="3x3")(branch3x3, train)
        branch5x5 = last(f.conv5x5, self.conv5x5_px, name="5x5")(branch5x5, train)
        pool = ops.max_pool(x, stride=1)
        if not self.naive:
            pool = last(f.pool_proj, 1, name="pool_proj")(pool, train)
        branches = [branch1x1, branch3x3, branch5x5, pool]
        if train and self.drop_path:
            keys = [self.make_rng("dropout") for _ in branches]
            drop = functools.partial(ops.drop_path, rate=self.drop_path, rows=rows)
            branches = list(map(drop, branches, keys))
        return jnp.concatenate(branches, axis=-1)


class AuxiliaryHead(nn.Module):
    """The auxiliary classifier on 4a or 4d, in training only; paper, section 5.

    [b, h, w, c] -> logits float32 [b, classes]; the strided pool needs h, w >= 5.
    """

    classes: int
    conv: Callable[..., Conv]
    dense: Callable[..., ops.Dense]
    hidden: int = HEAD_HIDDEN
    dropout: float = 0.7
    pool: str = "strided"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, rows: jax.Array | None = None) -> jax.Array:
        x = HEAD_POOLS[self.pool](x)  # [b, 4, 4, 512 or 528] at 224 px
        x = self.conv(HEAD_CONV, 1, name="conv")(x, train)  # [b, 4, 4, 128]
        x = x.reshape(x.shape[0], -1)  # [b, 2048]
        x = ops.relu(self.dense(self.hidden, name="fc")(x))  # [b, 1024]
        x = ops.Dropout(self.dropout)(x, train, rows)
        x = self.dense(self.classes, bias_init=initializers.zeros, name="classifier")(x)
        return x.astype(jnp.float32)


class GoogLeNet(nn.Module):
    """GoogLeNet, paper section 5 and Table 1.

    [b, px, px, 3] -> {'main': logits, '4a': logits, '4d': logits}, float32 [b, classes].
    Only training computes the heads '4a' and '4d': evaluation does not need their parameters.
    Parameters are float32. `rows`, int [b], are the images' rows in the global batch, if x is a
    part of it: dropout's masks are functions of the rng 'dropout' and the row.

    Raises ValueError or KeyError for an unknown value of a field, or an input too small for heads.
    """

    classes: int = 1000
    module: str = "reduced"  # figure 2b, the paper's network; 'naive': figure 2a
    norm: str = "lrn"  # the paper's; 'batch': BatchNorm after every convolution, no LRN; 'none'
    width: float = 1.0  # multiplies all filters; one model of the paper's ensemble is wider
    biases: bool = True  # of the convolutions; BatchNorm's offset replaces them
    heads: bool = True  # auxiliary classifiers in training
    heads_on: str = "both"  # or '4a' or '4d' alone
    conv5x5_px: int = 5  # kernel of the 5x5 convolutions; TF-slim and torchvision use 3
    pool4_px: int = 3  # window of the max pool after 4e; TF-slim and torchvision use 2
    padding: str = "symmetric"  # of convolutions, as in Caffe and torch; 'same': TensorFlow's
    head_pool: str = "strided"  # 5x5/3, the paper's; 'adaptive': to 4x4, torchvision's
    top: str = "average"  # of 5b's grid; 'fc': fully connected and ReLU, for one input size
    dropout: float = 0.4  # rate at which the top's features are dropped
    head_dropout: float = 0.7  # the same in the auxiliary heads
    drop_path: float = 0.0  # rate at which an image's branches of the Inception modules are dropped
    initializer: str = "he"  # normal, fan-in, biases 0; 'xavier': Caffe's, biases .2
    dtype: str = "float32"  # of the computation; or 'bfloat16'
    # Training runs the modules from conv1 to this one as evaluation does, with BatchNorm's running
    # statistics, and without gradients; '': none. The optimiser needs `frozen_modules` as well.
    frozen_through: str = ""
    # The backward pass recomputes the trunk's activations by module; the gradients are the same.
    remat: bool = False
    # The mesh's axis over which BatchNorm averages its statistics, if every device computes its own
    # rows of the batch (`sharding.over_devices`). The run sets it: it is no knob.
    batch_axis: str | None = None

    @nn.nowrap
    def layers(self) -> tuple[Callable[..., Any], ...]:
        """Conv, Inception, AuxiliaryHead and ops.Dense with this network's choices."""
        kernel_init, bias_init = INITIALIZERS[self.initializer]
        conv = functools.partial(
            Conv,
            batch_norm=self.norm == "batch",
            use_bias=self.biases,
            width=self.width,
            initializer=self.initializer,
            dtype=self.dtype,
            batch_axis=self.batch_axis,
            padding=self.padding,
        )
        dense = functools.partial(
            ops.Dense, kernel_init=kernel_init, bias_init=bias_init, dtype=self.dtype
        )
        choices: Any = {"conv5x5_px": self.conv5x5_px, "drop_path": self.drop_path}
        inception = functools.partial(Inception, conv=conv, naive=NAIVE[self.module], **choices)
        hidden = scaled(HEAD_HIDDEN, self.width)
        head = functools.partial(
            AuxiliaryHead, self.classes, conv, dense, hidden, self.head_dropout, self.head_pool
        )
        return conv, inception, head, dense

    @nn.nowrap
    def run(self, module: nn.Module, x: jax.Array, *rows: Any, train: bool) -> jax.Array:
        """Applies a module of the trunk to x: frozen, with remat, or plainly."""
        if module.name in frozen_modules(self.frozen_through):
            return jax.lax.stop_gradient(module(x, train=False))
        if self.remat and train:
            return nn.remat(lambda module, x: module(x, train, *rows))(module, x)
        return module(x, train, *rows)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, rows: jax.Array | None = None) -> Logits:
        heads = HEADS_ON[self.heads_on] if self.heads and train else ()
        px = min(x.shape[1:3])
        if heads and self.head_pool == "strided" and px < SMALLEST_PX_WITH_HEADS:
            smallest = f"the smallest is {SMALLEST_PX_WITH_HEADS}, or `heads=False`"
            raise ValueError(f"`input_px`={px} is too small for the auxiliary heads: {smallest}")
        conv, inception, head, dense = self.layers()
        run = functools.partial(self.run, train=train)
        pool, norm = functools.partial(ops.max_pool, stride=2), NORMS[self.norm]
        # Shapes at 224 px and width 1. ReLU follows pool1, pool3 and pool4 instead of preceding
        # them: the values are the same, and ReLU's gradient reads a quarter as many.
        x = run(conv(CONV1, 7, 2, relu=False, name="conv1"), x)  # [b, 112, 112, 64]
        x = named("pool1", lambda x: ops.relu(pool(x)), x)  # [b, 56, 56, 64]
        x = named("lrn1", norm, x)
        x = run(conv(CONV2_REDUCE, 1, name="conv2_reduce"), x)  # [b, 56, 56, 64]
        x = run(conv(CONV2, 3, name="conv2"), x)  # [b, 56, 56, 192]
        x = named("lrn2", norm, x)
        x = named("pool2", pool, x)  # [b, 28, 28, 192]
        logits = {}
        for row, filters in TABLE_1.items():
            x = run(inception(filters, relu=row not in POOLED, name=row), x, rows)
            if row in heads:
                logits[row] = head(name=f"head_{row}")(x, train, rows)
            if row == "3b":
                x = named("pool3", lambda x: ops.relu(pool(x)), x)  # [b, 14, 14, 480]
            if row == "4e":  # to [b, 7, 7, 832]
                x = named("pool4", lambda x: ops.relu(pool(x, window=self.pool4_px)), x)
        if self.top == "average":
            x = x.mean(axis=(1, 2))  # [b, 1024]
        elif self.top == "fc":
            x = x.reshape(x.shape[0], -1)  # [b, 50176]
            x = ops.relu(dense(scaled(TOP_HIDDEN, self.width), name="fc")(x))  # [b, 1024]
        else:
            raise ValueError(f"top={self.top}: 'average' or 'fc'")
        x = ops.Dropout(self.dropout)(x, train, rows)
        x = dense(self.classes, bias_init=initializers.zeros, name="classifier")(x)
        logits["main"] = x.astype(jnp.float32)
        return logits
