"""Parameters and multiply-adds, row by row, counted from the modules and beside the paper's."""

import collections
import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from inception.model import HEAD_ROWS, HEADS_ON, TABLE_1, Conv, GoogLeNet, Inception

# Table 1's last two columns, as printed: parameters in K, operations in M.
PAPER = {
    "conv1": (2.7e3, 34e6),
    "conv2": (112e3, 360e6),
    "3a": (159e3, 128e6),
    "3b": (380e3, 304e6),
    "4a": (364e3, 73e6),
    "4b": (437e3, 88e6),
    "4c": (463e3, 100e6),
    "4d": (580e3, 119e6),
    "4e": (840e3, 170e6),
    "5a": (1072e3, 54e6),
    "5b": (1388e3, 71e6),
    "linear": (1000e3, 1e6),
}
NO_COST = (None, None)
NOTES = {
    "conv1": "the paper's numbers fit a separable 7x7 (depth multiplier 8); ports have a full one",
    "4c": "the paper's parameters do not follow from its own row",
    "5a": "the paper's do not follow from its row: 54M fits a 5x5 reduce of 48, not the printed 32",
    "5b": "the paper's parameters do not follow from its own row",
}
GENERAL_NOTES = (
    "The paper counts parameters in units of 1024 and without biases, and its column sums to "
    "6,797.7K, which is not the network's size.",
    "Where the paper's counts and its filter numbers disagree, the filter numbers are followed.",
)
# Module of `GoogLeNet` -> row of the table.
ROWS = {"conv1": "conv1", "conv2_reduce": "conv2", "conv2": "conv2"}
ROWS |= {"fc": "linear", "classifier": "linear"}
ROWS |= {row: row for row in TABLE_1} | {f"head_{row}": f"head {row}" for row in HEAD_ROWS}


class Layer(NamedTuple):
    """A convolution or linear layer: its path, its biases, its multiply-adds on one image."""

    path: tuple[str, ...]
    biases: int
    macs: int


class Trace(NamedTuple):
    """What a module holds; shapes are [1, ...]."""

    layers: list[Layer]
    params: dict[tuple[str, ...], int]  # sizes by path
    outputs: dict[str, tuple[int, ...]]  # shapes by child
    inceptions: dict[str, tuple[Inception, tuple[int, ...]]]  # by child, and its input's shape


def trace(module: nn.Module, shape: tuple[int, ...]) -> Trace:
    """Traces a module on an input of `shape` [1, h, w, c], computing nothing, and counts."""
    found = Trace([], {}, {}, {})

    def note(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y = next_fun(*args, **kwargs)
        layer = context.module
        if len(layer.path) == 1:
            found.outputs[layer.path[0]] = y.shape
        if isinstance(layer, (nn.Conv, nn.Dense)):
            variables = layer.variables["params"]
            biases = variables["bias"].size if "bias" in variables else 0
            macs = math.prod(y.shape[1:-1]) * variables["kernel"].size
            found.layers.append(Layer(layer.path, biases, macs))
        if isinstance(layer, Inception) and layer.path:
            found.inceptions[layer.path[-1]] = (layer.clone(parent=None), args[0].shape)
        return y

    def init(key: jax.Array) -> Any:
        with nn.intercept_methods(note):
            return module.init({"params": key, "dropout": key}, jnp.zeros(shape), train=True)

    params = jax.eval_shape(init, jax.random.key(0))["params"]
    sizes = {path: leaf.size for path, leaf in flax.traverse_util.flatten_dict(params).items()}
    return found._replace(params=sizes)


def _cost(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """(parameters, multiply-adds)."""
    traced = trace(module, shape)
    return sum(traced.params.values()), sum(layer.macs for layer in traced.layers)


def _beside(name: str, cost: tuple, other: tuple, suffix: str) -> dict[str, Any]:
    """Two costs as {name, name_suffix, 'macs', macs_suffix}."""
    return {
        name: cost[0],
        f"{name}_{suffix}": other[0],
        "macs": cost[1],
        f"macs_{suffix}": other[1],
    }


def _example(filters: int, reduce: int, *shape: int) -> dict[str, Any]:
    """The paper's argument for reductions (section 4), worked on one convolution of 5x5."""
    conv = functools.partial(Conv, use_bias=False)
    plain = _cost(conv(filters, 5), (1, *shape))
    first = _cost(conv(reduce, 1), (1, *shape))
    second = _cost(conv(filters, 5), (1, *shape[:2], reduce))
    name = f"5x5, {filters} filters on {_size(shape)}, or through a 1x1 of {reduce}"
    reduced = (first[0] + second[0], first[1] + second[1])
    return {"name": name} | _beside("weights", plain, reduced, "reduced")


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _module(name: str, module: Inception, shape: tuple[int, ...]) -> dict[str, Any]:
    """Its costs with reductions and naive (figure 2a: none, and no projection)."""
    reduced, naive = (_cost(module.clone(naive=flag), shape) for flag in (False, True))
    return {"name": name, "input": _size(shape[1:])} | _beside("params", reduced, naive, "naive")


def audit(model: GoogLeNet, *, input_px: int) -> dict[str, Any]:
    """Table 1 beside what the modules have, the totals, naive against reduced.

    Both costs of a module are taken on the input that it has in `model`.

    Returns:
        {'rows': [{'name', 'output', 'params', 'params_paper', 'macs', 'macs_paper', 'note'}],
        'total': the same keys but 'output' and 'note', and 'params_with_heads' and
        'params_without_biases',
        'modules': [{'name', 'input', 'params', 'params_naive', 'macs', 'macs_naive'}],
        'examples': [{'name', 'weights', 'weights_reduced', 'macs', 'macs_reduced'}]}.
    """
    traced = trace(model, (1, input_px, input_px, 3))
    heads = [f"head {row}" for row in HEADS_ON[model.heads_on] if model.heads]
    params, macs = collections.Counter[str](), collections.Counter[str]()
    for path, size in traced.params.items():
        params[ROWS[path[0]]] += size
    for layer in traced.layers:
        macs[ROWS[layer.path[0]]] += layer.macs
    outputs = {ROWS[child]: shape[1:] for child, shape in traced.outputs.items() if child in ROWS}
    rows = [
        {
            "name": name,
            "output": _size(outputs[name]),
            **_beside("params", (params[name], macs[name]), PAPER.get(name, NO_COST), "paper"),
            "note": NOTES.get(name, "" if name in PAPER else "in training only; not in Table 1"),
        }
        for name in (*PAPER, *heads)
    ]
    trunk = (sum(params[name] for name in PAPER), sum(macs[name] for name in PAPER))
    paper = tuple(map(sum, zip(*PAPER.values(), strict=True)))
    # NOTE: "without biases" means those of the convolutions: the classifier keeps its own.
    conv_biases = sum(
        layer.biases for layer in traced.layers if ROWS[layer.path[0]] in PAPER.keys() - {"linear"}
    )
    total = {
        "name": "total",
        **_beside("params", trunk, paper, "paper"),
        "params_with_heads": params.total(),
        "params_without_biases": trunk[0] - conv_biases,
    }
    modules = [_module(name, *found) for name, found in traced.inceptions.items()]
    examples = [_example(32, 16, 28, 28, 192), _example(256, 32, 14, 14, 128)]
    return {"rows": rows, "total": total, "modules": modules, "examples": examples}


def to_text(result: dict[str, Any]) -> str:
    """The audit as a person reads it."""

    def million(value: float | None) -> str:
        return "-" if value is None else f"{value / 1e6:.1f}M"

    def thousand(value: float | None) -> str:
        return "-" if value is None else f"{value / 1e3:,.1f}K"

    total = result["total"]
    lines = [
        f"{'row':<8}{'output':>11}{'params':>12}{'paper':>10}{'MACs':>10}{'paper':>8}  difference"
    ]
    for row in (*result["rows"], total):
        lines.append(
            f"{row['name']:<8}{row.get('output', ''):>11}{row['params']:>12,}"
            f"{thousand(row['params_paper']):>10}"
            f"{million(row['macs']):>10}{million(row['macs_paper']):>8}  {row.get('note', '')}"
        )
    lines += [
        "",
        f"parameters               {total['params']:>12,}",
        f"with the auxiliary heads {total['params_with_heads']:>12,}",
        f"without the biases       {total['params_without_biases']:>12,}  (of the convolutions)",
        "",
        *GENERAL_NOTES,
        "",
        "Each module on its own input, with reductions (figure 2b) and naive (figure 2a):",
        f"{'row':<8}{'input':>12}{'params':>12}{'naive':>12}{'MACs':>10}{'naive':>10}{'ratio':>7}",
    ]
    for m in result["modules"]:
        lines.append(
            f"{m['name']:<8}{m['input']:>12}{m['params']:>12,}{m['params_naive']:>12,}"
            f"{million(m['macs']):>10}{million(m['macs_naive']):>10}"
            f"{m['macs_naive'] / m['macs']:>6.1f}x"
        )
    lines += ["", "What a reduction saves, on one convolution:"]
    for e in result["examples"]:
        lines.append(
            f"{e['name']}: {e['weights']:,} -> {e['weights_reduced']:,} weights, "
            f"{million(e['macs'])} -> {million(e['macs_reduced'])} MACs "
            f"({e['macs'] / e['macs_reduced']:.1f} times fewer)"
        )
    return "\n".join(line.rstrip() for line in lines)
