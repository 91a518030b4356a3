"""The network against the paper: an independent forward pass, shapes, counts, variants."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax import lax

from inception.model import Conv, GoogLeNet
from tests import tiny
from tests.test_step import steps_on

# Typed from the paper's Table 1 for this test: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
PAPER = """
3a  64  96 128 16  32  32
3b 128 128 192 32  96  64
4a 192  96 208 16  48  64
4b 160 112 224 24  64  64
4c 128 128 256 24  64  64
4d 112 144 288 32  64  64
4e 256 160 320 32 128 128
5a 256 160 320 32 128 128
5b 384 192 384 48 128 128
"""


def conv(x, p, stride=1):
    w = p["Conv_0"]["kernel"]
    pad = w.shape[0] // 2
    y = lax.conv_general_dilated(
        x, w, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.maximum(y + p["Conv_0"]["bias"][None, None, None], 0)


def caffe_max_pool(x, stride):
    """Caffe's ceil mode: windows start inside the image and may hang over its end."""
    if stride == 1:
        pads = (1, 1)
    else:
        out = -(-(x.shape[1] - 3) // 2) + 1
        pads = (0, (out - 1) * 2 + 3 - x.shape[1])
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, stride, stride, 1), ((0, 0), pads, pads, (0, 0))
    )


def lrn(x):
    energy = lax.reduce_window(
        x * x, 0.0, lax.add, (1, 1, 1, 5), (1, 1, 1, 1), ((0, 0), (0, 0), (0, 0), (2, 2))
    )
    return x / (1 + 2e-5 * energy) ** 0.75


def is_shape(value) -> bool:
    return isinstance(value, tuple)


def head(x, p):
    x = lax.reduce_window(x, 0.0, lax.add, (1, 5, 5, 1), (1, 3, 3, 1), "VALID") / 25
    x = conv(x, p["conv"]).reshape(x.shape[0], -1)
    x = jnp.maximum(x @ p["fc"]["kernel"] + p["fc"]["bias"][None], 0)
    return x @ p["classifier"]["kernel"] + p["classifier"]["bias"][None]


def plain_forward(params, x):
    """The paper's network in jax.lax; returns logits by head and the shape after each row."""
    shapes, logits = {}, {}
    x = conv(x, params["conv1"], 2)
    shapes["conv1"] = x.shape
    x = lrn(caffe_max_pool(x, 2))
    shapes["pool1"] = x.shape
    x = lrn(conv(conv(x, params["conv2_reduce"]), params["conv2"]))
    shapes["conv2"] = x.shape
    x = caffe_max_pool(x, 2)
    shapes["pool2"] = x.shape
    for line in PAPER.split("\n")[1:-1]:
        row, *filters = line.split()
        a, b, c, d, e, f = map(int, filters)
        p = params[row]
        branches = [
            conv(x, p["1x1"]),
            conv(conv(x, p["3x3_reduce"]), p["3x3"]),
            conv(conv(x, p["5x5_reduce"]), p["5x5"]),
            conv(caffe_max_pool(x, 1), p["pool_proj"]),
        ]
        assert p["3x3_reduce"]["Conv_0"]["kernel"].shape[-1] == b
        assert p["5x5_reduce"]["Conv_0"]["kernel"].shape[-1] == d
        assert [y.shape[-1] for y in branches] == [a, c, e, f]
        x = jnp.concatenate(branches, -1)
        shapes[row] = x.shape
        if row in ("4a", "4d"):
            logits[row] = head(x, params[f"head_{row}"])
        if row in ("3b", "4e"):
            x = caffe_max_pool(x, 2)
    x = x.mean((1, 2))
    p = params["classifier"]
    logits["main"] = x @ p["kernel"] + p["bias"][None]
    return logits, shapes


def init(model: GoogLeNet, px: int, *, train: bool = True):
    return jax.eval_shape(
        lambda: model.init(
            {"params": jax.random.key(0), "dropout": jax.random.key(1)},
            jnp.zeros((1, px, px, 3)),
            train=train,
        )
    )


@pytest.fixture(scope="module")
def network():
    """The paper's network, its parameters (biases drawn too) and two images of 0-255 less the mean."""
    model = GoogLeNet(dropout=0.0, head_dropout=0.0)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(-120, 130, (2, 224, 224, 3)), jnp.float32)

    def draw(shape) -> jax.Array:
        fan_in = np.prod(shape.shape[:-1])
        scale = 0.5 if len(shape.shape) == 1 else (2 / fan_in) ** 0.5
        return jnp.asarray(rng.normal(0, scale, shape.shape), jnp.float32)

    return model, jax.tree.map(draw, init(model, 224)["params"]), x


@pytest.fixture(scope="module")
def plain(network):
    _, params, x = network
    logits = jax.jit(lambda p, x: plain_forward(p, x)[0])(params, x)
    shapes = jax.eval_shape(
        lambda: jax.tree.map(jnp.zeros, plain_forward(params, x)[1], is_leaf=is_shape)
    )
    return logits, {row: array.shape for row, array in shapes.items()}


def test_forward_is_that_of_the_papers_table(network, plain) -> None:
    model, params, x = network
    logits = jax.jit(lambda p, x: model.apply({"params": p}, x, train=True))(params, x)
    assert logits.keys() == {"main", "4a", "4d"}
    for name, expected in plain[0].items():
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(logits[name] / scale, expected / scale, atol=2e-5)


def test_drop_path_drops_whole_branches_of_single_images() -> None:
    """Of 3a, whose branches have 64, 128, 32 and 32 channels; what is kept makes up for the rest."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(32, 33, 33, 3)), jnp.float32)
    whole = GoogLeNet(heads=False, dropout=0.0)
    params = tiny.draw(init(whole, 33), 0)["params"]

    @functools.partial(jax.jit, static_argnames=("model", "train"))
    def of_3a(model: GoogLeNet, x: jax.Array, rows: jax.Array, *, train: bool = True) -> jax.Array:
        _, captured = model.apply(
            {"params": params},
            x,
            train=train,
            rows=rows,
            rngs={"dropout": jax.random.key(1)},
            capture_intermediates=lambda module, _: module.name == "3a",
        )
        return captured["intermediates"]["3a"]["__call__"][0]

    dropping, rows = whole.clone(drop_path=0.25), jnp.arange(32)
    plain, got = (np.asarray(of_3a(model, x, rows)) for model in (whole, dropping))
    kept = [(branch != 0).any((1, 2, 3)) for branch in np.split(got, np.cumsum((64, 128, 32)), -1)]
    factors = np.repeat(np.stack(kept, 1) / 0.75, (64, 128, 32, 32), axis=1)[:, None, None]
    np.testing.assert_allclose(got, plain * factors, rtol=1e-5, atol=1e-6)
    assert abs(np.mean(kept) - 0.75) < 4 * (0.25 * 0.75 / 128) ** 0.5
    assert len({tuple(branch) for branch in kept}) == 4  # each branch by itself
    some = jnp.asarray([20, 3, 7])
    np.testing.assert_allclose(of_3a(dropping, x[some], some), got[some], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_3a(dropping, x, rows, train=False), plain, rtol=1e-5, atol=1e-6)


def test_evaluation_neither_computes_nor_needs_the_heads(network, plain) -> None:
    model, params, x = network
    trunk = {name: p for name, p in params.items() if not name.startswith("head")}
    logits = jax.jit(lambda p, x: model.apply({"params": p}, x, train=False))(trunk, x)
    assert logits.keys() == {"main"}
    scale = float(jnp.abs(plain[0]["main"]).max())
    np.testing.assert_allclose(logits["main"] / scale, plain[0]["main"] / scale, atol=2e-5)


def test_each_row_has_the_papers_output_size(network, plain) -> None:
    shapes = {name: shape[1:] for name, shape in plain[1].items()}
    assert shapes == {
        "conv1": (112, 112, 64), "pool1": (56, 56, 64), "conv2": (56, 56, 192), "pool2": (28, 28, 192),
        "3a": (28, 28, 256), "3b": (28, 28, 480), "4a": (14, 14, 512), "4b": (14, 14, 512),
        "4c": (14, 14, 512), "4d": (14, 14, 528), "4e": (14, 14, 832), "5a": (7, 7, 832),
        "5b": (7, 7, 1024),
    }  # fmt: skip
    model, params, x = network
    outputs = {}

    def note(next_fun, args, kwargs, context):
        y = next_fun(*args, **kwargs)
        if context.module.path:
            outputs["/".join(context.module.path)] = getattr(y, "shape", None)
        return y

    with nn.intercept_methods(note):
        jax.eval_shape(lambda: model.apply({"params": params}, x, train=False))
    for row in shapes:
        if not row.startswith("pool"):
            assert outputs[row][1:] == shapes[row]


def size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("choices", "parameters"),
    [
        ({}, 13_378_280),
        ({"heads": False}, 6_998_552),
        ({"heads": False, "biases": False}, 6_991_272),
        # The upper head reads 528 channels, the lower 512: 128 * 16 weights less.
        ({"heads_on": "4a"}, 6_998_552 + 512 * 128 + 128 + 2048 * 1024 + 1024 + 1024 * 1000 + 1000),
        ({"heads_on": "4d", "heads": False}, 6_998_552),
        ({"top": "fc", "heads": False}, 6_998_552 + 7 * 7 * 1024 * 1024 + 1024),
        # torchvision's own number, without and with heads.
        ({"heads": False, "norm": "batch", "conv5x5_px": 3}, 6_624_904),
        ({"norm": "batch", "conv5x5_px": 3, "head_pool": "adaptive", "pool4_px": 2}, 13_004_888),
    ],
)
def test_parameter_counts(choices: dict, parameters: int) -> None:
    assert size(init(GoogLeNet(**choices), 224)["params"]) == parameters


def test_batch_norm_has_statistics_for_every_convolution_and_no_conv_bias() -> None:
    variables = init(GoogLeNet(norm="batch", heads=False), 224)
    assert len(jax.tree.leaves(variables["batch_stats"])) == 2 * 57
    # 6,991,272 without biases, and a scale and an offset for each of 7,280 filters.
    assert size(variables["params"]) == 6_991_272 + 2 * 7_280


@pytest.mark.slow
@pytest.mark.parametrize("row", ["4a", "4d"])
def test_one_head_alone(row: str) -> None:
    model = GoogLeNet(width=0.05, classes=3, heads_on=row)
    rngs = {"dropout": jax.random.key(0)}
    apply = functools.partial(model.apply, train=True, rngs=rngs)
    logits = jax.eval_shape(apply, init(model, 65), jnp.zeros((1, 65, 65, 3)))
    assert logits.keys() == {"main", row}


@pytest.mark.slow
def test_a_fully_connected_layer_sees_where_the_average_does_not(rng: np.random.Generator) -> None:
    """A turned image has a turned last grid, whose average is the same, kernels being symmetric."""
    images = jnp.asarray(rng.normal(size=(1, 65, 65, 3)), jnp.float32)
    outputs = {}
    for top in ("average", "fc"):
        model = GoogLeNet(width=0.05, classes=3, heads=False, norm="none", top=top)
        symmetric = jax.tree.map(
            lambda k: (k + k[::-1, ::-1]) / 2 if k.ndim == 4 else k, tiny.state(model).params
        )
        outputs[top] = [
            tiny.logits(model, {"params": symmetric}, x) for x in (images, images[:, ::-1, ::-1])
        ]
        assert ("fc" in symmetric) == (top == "fc")
    np.testing.assert_allclose(*outputs["average"], rtol=1e-4, atol=1e-6)
    assert np.abs(np.subtract(*outputs["fc"])).max() > 1e-3


def test_naive_modules_concatenate_the_pooled_input() -> None:
    params = init(GoogLeNet(module="naive", heads=False), 224)["params"]
    assert set(params["3a"]) == {"1x1", "3x3", "5x5"}
    # 3a reads 192 channels and gives 64 + 128 + 32 + 192.
    assert params["3b"]["1x1"]["Conv_0"]["kernel"].shape == (1, 1, 416, 128)


def test_width_multiplies_every_number_of_filters() -> None:
    params = init(GoogLeNet(width=0.5), 224)["params"]
    assert params["conv1"]["Conv_0"]["kernel"].shape[-1] == 32
    assert params["4c"]["5x5_reduce"]["Conv_0"]["kernel"].shape[-1] == 12
    assert params["classifier"]["kernel"].shape == (512, 1000)


@pytest.mark.parametrize("initializer", ["he", "xavier"])
@pytest.mark.slow
def test_initialisation(initializer: str) -> None:
    """Kernels by their spread; biases are Caffe's .2 everywhere but in the classifiers."""
    conv = Conv(384, 3, initializer=initializer)
    p = conv.init(jax.random.key(0), jnp.zeros((1, 3, 3, 192)), train=False)["params"]["Conv_0"]
    w, fan_in = np.asarray(p["kernel"]), 3 * 3 * 192
    if initializer == "he":
        assert abs(w.std() / (2 / fan_in) ** 0.5 - 1) < 0.01
        assert not p["bias"].any()
    else:
        limit = (3 / fan_in) ** 0.5  # uniform, fan-in only
        assert 0.99 * limit < np.abs(w).max() <= limit
        assert abs(w.std() / (limit / 3**0.5) - 1) < 0.01
        assert (p["bias"] == jnp.float32(0.2)).all()
    model = GoogLeNet(classes=3, width=0.05, initializer=initializer, top="fc")
    variables = jax.jit(functools.partial(model.init, train=True))(
        {"params": jax.random.key(0), "dropout": jax.random.key(1)}, jnp.zeros((1, 65, 65, 3))
    )
    biases = {
        path: leaf
        for path, leaf in traverse_util.flatten_dict(variables["params"], sep="/").items()
        if path.endswith("/bias")
    }
    assert len(biases) == 57 + 2 * 3 + 2
    for path, bias in biases.items():
        caffes = initializer == "xavier" and "classifier" not in path
        assert (bias == jnp.float32(0.2 if caffes else 0.0)).all(), path


@pytest.mark.faults
def test_remat_computes_the_same_in_less_memory() -> None:
    results, temporary = [], []
    for remat in (False, True):
        state, history, compiled = steps_on(1, count=1, heads=False, remat=remat)
        results.append((history, state.params, state.batch_stats))
        temporary.append(compiled.memory_analysis().temp_size_in_bytes)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), *results)
    least = 0.8 if jax.__version_info__ < (0, 11) else 0.85  # of so small a network
    assert temporary[1] < least * temporary[0]


def test_smallest_input_with_heads() -> None:
    init(GoogLeNet(), 65)
    with pytest.raises(ValueError, match=r"`input_px`=64 .* smallest is 65.*`heads=False`"):
        init(GoogLeNet(), 64)
    init(GoogLeNet(heads=False), 32)
    init(GoogLeNet(), 64, train=False)
    assert size(init(GoogLeNet(head_pool="adaptive"), 17)["params"]) == 13_378_280


@pytest.mark.parametrize(
    "choice",
    [{"module": "x"}, {"norm": "group"}, {"initializer": "x"}, {"head_pool": "x"}, {"heads_on": "4b"}, {"top": "x"}, {"frozen_through": "4f"}],
    ids=str,
)  # fmt: skip
def test_an_unknown_choice_takes_no_other_branch(choice: dict) -> None:
    with pytest.raises((KeyError, ValueError)):
        init(GoogLeNet(**choice), 65)


@pytest.mark.slow
def test_bfloat16_computes_in_bfloat16_with_float32_parameters_and_logits() -> None:
    model = GoogLeNet(dtype="bfloat16", width=0.25, classes=10)
    variables = init(model, 65)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    jaxpr = str(
        jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(
            jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), variables),
            jnp.zeros((1, 65, 65, 3)),
        )
    )
    convs = [line for line in jaxpr.splitlines() if "= conv_general_dilated" in line]
    assert convs and all("bf16" in line.split("=")[0] for line in convs)
    logits = jax.eval_shape(
        lambda: model.apply(variables_like(variables), jnp.zeros((1, 65, 65, 3)), train=False)
    )
    assert logits["main"].dtype == jnp.float32


def test_the_gradient_of_a_bias_is_a_float32_sum() -> None:
    """Of 4,096 equal terms; a sum in bfloat16 stops at the 256th."""
    conv, *_, dense = GoogLeNet(dtype="bfloat16").layers()
    x = jnp.ones((1, 64, 64, 3))

    def of_conv(bias):
        params = {"Conv_0": {"kernel": jnp.zeros((1, 1, 3, 4)), "bias": bias}}
        y = conv(4, 1, relu=False).apply({"params": params}, x, train=True)
        return y.astype(jnp.float32).sum()

    def of_dense(bias):
        return dense(4).apply({"params": {"kernel": jnp.zeros((3, 4)), "bias": bias}}, x).sum()

    for total in (of_conv, of_dense):
        assert jax.jit(jax.grad(total))(jnp.zeros(4)).tolist() == [4096] * 4


def variables_like(shapes):
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
