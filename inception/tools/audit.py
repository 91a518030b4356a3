"""Parameters and multiply-adds of each row, counted from the modules, beside the paper's."""

import math
from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from inception.model import HEAD_ROWS, HEADS_ON, TABLE_1, GoogLeNet

# Table 1's last two columns.
PAPER = {
    "conv1": (2_700, 34_000_000),
    "conv2": (112_000, 360_000_000),
    "3a": (159_000, 128_000_000),
    "3b": (380_000, 304_000_000),
    "4a": (364_000, 73_000_000),
    "4b": (437_000, 88_000_000),
    "4c": (463_000, 100_000_000),
    "4d": (580_000, 119_000_000),
    "4e": (840_000, 170_000_000),
    "5a": (1_072_000, 54_000_000),
    "5b": (1_388_000, 71_000_000),
    "linear": (1_000_000, 1_000_000),
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
    "6,797.7K, which is not the network's size. Where its counts and its filter numbers disagree, "
    "the filter numbers are followed."
)
# Module of `GoogLeNet` -> row of the table.
ROWS = {"conv1": "conv1", "conv2_reduce": "conv2", "conv2": "conv2"}
ROWS |= {"fc": "linear", "classifier": "linear"}
ROWS |= {row: row for row in TABLE_1} | {f"head_{row}": f"head {row}" for row in HEAD_ROWS}


def trace(module: nn.Module, shape: tuple[int, ...]) -> tuple[dict, dict]:
    """Traces a module on an input of `shape` [1, h, w, c] without computing anything.

    Returns:
        Shapes: {path: parameter} and {path of a module inside: its output}.
    """

    def init(key: jax.Array) -> Any:
        keys, x = {"params": key, "dropout": key}, jnp.zeros(shape)
        return module.init(keys, x, train=True, capture_intermediates=True, mutable=True)

    found = jax.eval_shape(init, jax.random.key(0))
    outputs = flatten_dict(found["intermediates"])
    return flatten_dict(found["params"]), {path[:-1]: y for path, (y,) in outputs.items()}


def layer_macs(params: dict, outputs: dict) -> dict[tuple[str, ...], int]:
    """{path: multiply-adds per image} of the convolutions and linear layers in a `trace`."""
    return {
        path: math.prod(outputs[path].shape[1:-1]) * params[*path, "kernel"].size
        for path in outputs
        if (*path, "kernel") in params
    }


def _cost(params: dict, outputs: dict, modules: Collection[str] = ()) -> tuple[int, int]:
    """(parameters, multiply-adds) of `modules` in a `trace`; of all if `modules` is empty."""
    sizes = [leaf.size for path, leaf in params.items() if not modules or path[0] in modules]
    macs = layer_macs(params, outputs).items()
    return sum(sizes), sum(n for path, n in macs if not modules or path[0] in modules)


def _beside(name: str, cost: tuple, other: tuple, suffix: str) -> dict[str, Any]:
    """Two costs as {name, name_suffix, 'macs', macs_suffix}."""
    names = (name, f"{name}_{suffix}", "macs", f"macs_{suffix}")
    return dict(zip(names, (cost[0], other[0], cost[1], other[1]), strict=True))


def _example(filters: int, reduce: int, *shape: int) -> dict[str, Any]:
    """The paper's argument for reductions (section 4), worked out for one 5x5 convolution."""
    *grid, channels = shape
    places = math.prod(grid)
    plain, reduced = 25 * channels * filters, (channels + 25 * filters) * reduce
    name = f"5x5, {filters} filters on {_size(shape)}, or through a 1x1 of {reduce}"
    costs = _beside("weights", (plain, places * plain), (reduced, places * reduced), "reduced")
    return {"name": name} | costs


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def audit(model: GoogLeNet, *, input_px: int) -> dict[str, Any]:
    """Compares the modules with Table 1, in rows and in total, and naive with reduced modules.

    Both costs of a module, naive and reduced, are for its input in `model`.

    Returns:
        {'rows': [{'name', 'output', 'params', 'params_paper', 'macs', 'macs_paper', 'note'}],
        'total': the same keys except 'output' and 'note', plus 'params_with_heads' and
        'params_without_biases',
        'modules': [{'name', 'input', 'params', 'params_naive', 'macs', 'macs_naive'}],
        'examples': [{'name', 'weights', 'weights_reduced', 'macs', 'macs_reduced'}], 'notes'}.
    """
    params, outputs = trace(model, (1, input_px, input_px, 3))
    heads = [f"head {row}" for row in HEADS_ON[model.heads_on] if model.heads]
    rows: list[dict[str, Any]] = []
    for name in (*PAPER, *heads):
        members = [module for module, row in ROWS.items() if row == name]
        note = NOTES.get(name, "" if name in PAPER else "in training only; not in Table 1")
        cost, paper = _cost(params, outputs, members), PAPER.get(name, NO_COST)
        row = {"name": name, "output": _size(outputs[members[-1],].shape[1:])}
        rows.append(row | _beside("params", cost, paper, "paper") | {"note": note})
    sums = ("params", "params_paper", "macs", "macs_paper")
    total: dict[str, Any] = {"name": "total"}
    total |= {key: sum(r[key] for r in rows[: len(PAPER)]) for key in sums}
    # NOTE: "without biases" means those of the convolutions: the classifier keeps its own.
    biases = [
        leaf.size
        for path, leaf in params.items()
        if path[-2:] == ("Conv_0", "bias") and ROWS[path[0]] in PAPER
    ]
    total["params_with_heads"] = _cost(params, outputs)[0]
    total["params_without_biases"] = total["params"] - sum(biases)
    inception = model.layers()[1]
    modules = []
    for name, filters in TABLE_1.items():
        channels = params[name, "1x1", "Conv_0", "kernel"].shape[2]
        grid = (*outputs[name,].shape[:3], channels)
        reduced, naive = (
            _cost(*trace(inception(filters, naive=naive), grid)) for naive in (False, True)
        )
        costs = _beside("params", reduced, naive, "naive")
        modules.append({"name": name, "input": _size(grid[1:]), **costs})
    examples = [_example(32, 16, 28, 28, 192), _example(256, 32, 14, 14, 128)]
    return {
        "rows": rows,
        "total": total,
        "modules": modules,
        "examples": examples,
        "notes": GENERAL_NOTES,
    }
