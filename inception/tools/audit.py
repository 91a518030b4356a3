"""Parameters and multiply-adds, row by row, counted from the modules and beside the paper's."""

import collections
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from tabulate import tabulate

from inception.model import HEADS, HEADS_ON, TABLE_1, GoogLeNet

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
ROWS |= {row: row for row in TABLE_1} | {f"head_{row}": f"head {row}" for row in HEADS_ON}


def trace(module: nn.Module, shape: tuple[int, ...]) -> tuple[dict, dict]:
    """Traces a module on an input of `shape` [1, h, w, c], computing nothing.

    Returns:
        The shapes {path: parameter} and {path of a module in it: what that gives}.
    """

    def init(key: jax.Array) -> Any:
        keys, x = {"params": key, "dropout": key}, jnp.zeros(shape)
        return module.init(keys, x, train=True, capture_intermediates=True, mutable=True)

    found = jax.eval_shape(init, jax.random.key(0))
    outputs = flatten_dict(found["intermediates"])
    return flatten_dict(found["params"]), {path[:-1]: y for path, (y,) in outputs.items()}


def layer_macs(params: dict, outputs: dict) -> dict[tuple[str, ...], int]:
    """{path: multiply-adds on an image} of the convolutions and linear layers in a `trace`."""
    return {
        path: math.prod(outputs[path].shape[1:-1]) * params[*path, "kernel"].size
        for path in outputs
        if (*path, "kernel") in params
    }


def _cost(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """(parameters, multiply-adds)."""
    params, outputs = trace(module, shape)
    macs = layer_macs(params, outputs)
    return sum(leaf.size for leaf in params.values()), sum(macs.values())


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
    *grid, channels = shape
    places = math.prod(grid)
    plain, reduced = 25 * channels * filters, (channels + 25 * filters) * reduce
    name = f"5x5, {filters} filters on {_size(shape)}, or through a 1x1 of {reduce}"
    costs = _beside("weights", (plain, places * plain), (reduced, places * reduced), "reduced")
    return {"name": name} | costs


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


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
    leaves, outputs = trace(model, (1, input_px, input_px, 3))
    params, macs = collections.Counter[str](), collections.Counter[str]()
    for path, leaf in leaves.items():
        params[ROWS[path[0]]] += leaf.size
    for path, count in layer_macs(leaves, outputs).items():
        macs[ROWS[path[0]]] += count
    sizes = {
        row: _size(outputs[child,].shape[1:]) for child, row in ROWS.items() if (child,) in outputs
    }
    heads = [f"head {row}" for row in HEADS[model.heads_on] if model.heads]
    rows = [
        {
            "name": name,
            "output": sizes[name],
            **_beside("params", (params[name], macs[name]), PAPER.get(name, NO_COST), "paper"),
            "note": NOTES.get(name, "" if name in PAPER else "in training only; not in Table 1"),
        }
        for name in (*PAPER, *heads)
    ]
    trunk = (sum(params[name] for name in PAPER), sum(macs[name] for name in PAPER))
    paper = tuple(map(sum, zip(*PAPER.values(), strict=True)))
    # NOTE: "without biases" means those of the convolutions: the classifier keeps its own.
    conv_biases = sum(
        leaf.size
        for path, leaf in leaves.items()
        if path[-2:] == ("Conv_0", "bias") and ROWS[path[0]] in PAPER
    )
    total = {
        "name": "total",
        **_beside("params", trunk, paper, "paper"),
        "params_with_heads": params.total(),
        "params_without_biases": trunk[0] - conv_biases,
    }
    inception = model.layers()[1]
    modules = []
    for name, filters in TABLE_1.items():
        channels = leaves[name, "1x1", "Conv_0", "kernel"].shape[2]
        grid = (*outputs[name,].shape[:3], channels)
        reduced, naive = (_cost(inception(filters, naive=flag), grid) for flag in (False, True))
        costs = _beside("params", reduced, naive, "naive")
        modules.append({"name": name, "input": _size(grid[1:]), **costs})
    examples = [_example(32, 16, 28, 28, 192), _example(256, 32, 14, 14, 128)]
    return {"rows": rows, "total": total, "modules": modules, "examples": examples}


def to_text(result: dict[str, Any]) -> str:
    """The audit as a person reads it."""

    def table(rows: Sequence[dict[str, Any]]) -> str:
        return tabulate(rows, "keys", "plain", ",.0f", ",", missingval="-")

    parts = [
        table(result["rows"]),
        table([result["total"]]),
        "\n".join(GENERAL_NOTES),
        "Each module on its own input, with reductions (figure 2b) and naive (figure 2a):",
        table(result["modules"]),
        "What a reduction saves, on one convolution:",
        table(result["examples"]),
    ]
    return "\n\n".join(parts)
