"""Every experiment and every point of its sweeps: sound, and a step that can be taken."""

import functools
import json
import operator
import pathlib
import re
from collections.abc import Iterator

import cv2
import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from experiments import random
from inception import pixels, train
from inception.config import experiment, experiment_config, flat, load_config
from inception.knobs import KNOBS
from inception.model import HEAD_ROWS, HEADS_ON, GoogLeNet
from inception.runtime import sharding
from inception.step import head_losses
from inception.sweeps import plan
from inception.tools import profiler
from tests import tiny

EXPERIMENTS = sorted((pathlib.Path(__file__).parents[1] / "experiments").glob("[!_]*.py"))
YOURS = {"config.data.path": "x", "config.init_from": "x", "config.model.classes": "10"}
SMALL = {"model.classes": 3, "input_px": 65, "optim.batch_size": 8}


@pytest.fixture(autouse=True)
def _promotion() -> Iterator[None]:
    """As in a run: optax's cosine mixes types, which the other tests forbid."""
    before = jax.config.values["jax_numpy_dtype_promotion"]
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", before)


def given(path: pathlib.Path) -> list[str]:
    """What a user must give."""
    values = flat(experiment_config(str(path)))
    return [f"--{knob}={YOURS[knob]}" for knob, value in values.items() if value is None]


def configs_of_points(path: pathlib.Path, name: str) -> list:
    points = plan.Plan(str(path), given(path), "study", name).points()
    return [load_config(str(path), list(point.command[3:])) for point in points]


def sweeps(path: pathlib.Path) -> list[str]:
    """Their names; "" is that of `sweep`."""
    names = (n for n in experiment(str(path)) if n == "sweep" or n.startswith("sweep_"))
    return [name.removeprefix("sweep").removeprefix("_") for name in names]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_recipe_lists_what_differs_from_its_parent_alone(path: pathlib.Path) -> None:
    text = path.read_text()
    parent = re.search(r"(?:return|config =) (\w+)\.get_config\(\)", text)
    if not parent:
        assert path.stem == "base"
        return
    own, theirs = (
        experiment(str(path.with_stem(name)))["get_config"]() for name in (path.stem, parent[1])
    )
    for knob in re.findall(r"^    config\.([a-z0-9_.]+) = ", text, re.MULTILINE):
        assert operator.attrgetter(knob)(own) != operator.attrgetter(knob)(theirs), knob


def test_every_experiment_has_a_docstring_with_its_command() -> None:
    for path in EXPERIMENTS:
        if path.stem != "base":
            assert f"--config=experiments/{path.name}" in path.read_text().split('"""')[1]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_and_point_of_a_sweep_is_valid(path: pathlib.Path) -> None:
    config = load_config(str(path), given(path))
    assert set(flat(config, prefix="")) == set(KNOBS)
    for name in sweeps(path):
        assert configs_of_points(path, name)


def state_batch_step(config) -> tuple:
    """A state and a batch as shapes, and the step, on one device."""
    mesh = Mesh(jax.devices()[:1], ("data",), axis_types=(AxisType.Auto,))
    training = train.build(config, mesh, steps_per_epoch=10.0, total_steps=10**6)
    state = sharding.replicated_shapes(training.init, mesh)
    px, size = config.input_px, config.optim.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((size, px, px, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((size,), np.int32),
    }
    return state, batch, training.step


def kinds(config) -> set[str]:
    """What a step's program is but for numbers: all but the schedule, the schedule, the width."""
    numbers = ("classes", "width", "initializer")  # the last: of the state before it
    model = {k: v for k, v in config.model.items() if k not in numbers}
    model |= {k: config.model[k] > 0 for k in ("dropout", "head_dropout", "drop_path")}
    optim = {k: config.optim[k] for k in ("momentum_style", "accumulate")}
    optim |= {"polyak_decay": config.optim.polyak_decay > 0}
    data = [config.data.mixup > 0, config.data.cutmix > 0, any(config.data.colors.values())]
    schedule = [config.optim.schedule, config.optim.warmup_epochs > 0]
    return {json.dumps(part) for part in ([model, optim, data], schedule, config.model.width)}


TRACED: set[str] = set()
TAKEN: set[str] = set()


@pytest.mark.faults
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_point_is_sound_and_its_step_can_be_traced(path: pathlib.Path) -> None:
    base = load_config(str(path), given(path))

    def look(config) -> None:
        if not kinds(config) <= TRACED:
            TRACED.update(kinds(config))
            state, batch, step = state_batch_step(config)
            _, metrics = jax.eval_shape(step.function, state, batch)
            assert metrics["loss"].shape == ()
            heads = HEADS_ON[config.model.heads_on] if config.model.heads else ()
            assert {h for h in HEAD_ROWS if f"loss_{h}" in metrics} == set(heads)

    look(base)
    for name in sweeps(path):
        for config in configs_of_points(path, name):
            look(config)


def take_two_steps(config) -> None:
    with config.unlocked():
        config.update_from_flattened_dict(SMALL)
        config.model.width *= 0.1
    if kinds(config) <= TAKEN:
        return
    TAKEN.update(kinds(config))
    shapes, batch, step = state_batch_step(config)
    rng = np.random.default_rng(0)
    below = {"image": 256, "label": 3}
    batch = {k: rng.integers(0, below[k], s.shape).astype(s.dtype) for k, s in batch.items()}
    first = tiny.draw_state(shapes)
    state = first
    for _ in range(2):
        state, metrics = step(state, batch)
    last = jax.device_get(state)
    assert int(last.step) == 2 and all(np.isfinite(v) for v in jax.tree.leaves(metrics))
    # A bias of zero is moved by a gradient alone, not by weight decay.
    pairs = [(first.params, last.params)]
    if first.average:
        pairs.append((first.average["params"], last.average["params"]))
    for pair in pairs:
        leaves = [jax.tree.leaves(params["classifier"]) for params in pair]
        assert leaves[0] and not any(map(np.array_equal, *leaves))


OFTEN = ("base", "finetune")  # LRN, a frozen trunk; docs/tour.ipynb trains digits


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, marks=pytest.mark.slow if p.stem in OFTEN else pytest.mark.faults)
        for p in EXPERIMENTS
    ],
    ids=lambda path: path.stem,
)
def test_two_steps_at_a_small_size(path: pathlib.Path) -> None:
    take_two_steps(load_config(str(path), given(path)))


@pytest.mark.faults
@pytest.mark.parametrize("path", filter(sweeps, EXPERIMENTS), ids=lambda path: path.stem)
def test_two_steps_of_every_point_of_a_sweep(path: pathlib.Path) -> None:
    for name in sweeps(path):
        for config in configs_of_points(path, name):
            take_two_steps(config)


@functools.cache
def first_weights(initializer: str) -> dict:
    """Of the whole network without BatchNorm."""
    init = functools.partial(GoogLeNet(classes=10, initializer=initializer).init, train=True)
    key = jax.random.key(0)
    return jax.jit(init)({"params": key, "dropout": key}, np.zeros((1, 65, 65, 3), np.float32))


@functools.cache
def first_losses(initializer: str, normalization: str, norm: str) -> dict[str, float]:
    """Of the whole network, on smooth pictures of all colours."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 5, 5, 3)).astype(np.uint8)
    pictures = np.stack([cv2.resize(c, (65, 65), interpolation=cv2.INTER_CUBIC) for c in coarse])
    model = GoogLeNet(classes=10, initializer=initializer, norm=norm)

    @jax.jit
    def losses(variables, key, x) -> dict:
        x = pixels.normalize(x, method=normalization)
        out = model.apply(variables, x, train=True, rngs={"dropout": key})
        targets = jax.nn.one_hot(np.arange(8), 10)
        return head_losses(out, targets, label_smoothing=0.0)

    return jax.device_get(losses(first_weights(initializer), jax.random.key(0), pictures))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_initial_weights_suit_the_inputs(path: pathlib.Path) -> None:
    """The first losses are within ten times that of guessing, 2.3: he on 0-255 has 280."""
    config = load_config(str(path), given(path))
    model = config.model
    if config.init_from or model.norm == "batch":
        return  # weights that are trained, or whose scale BatchNorm takes out
    losses = first_losses(model.initializer, config.data.normalization, model.norm)
    assert max(losses.values()) < 25, losses


@pytest.mark.parametrize("name", ["ablations", "photos_small"])
@pytest.mark.slow
def test_the_naive_modules_cost_as_much_as_the_reduced(name: str) -> None:
    path = EXPERIMENTS[0].with_name(f"{name}.py")
    points = experiment(str(path))["sweep_module"]()
    costs = set()
    for point in points:
        flags = [f"--config.{knob}={value}" for knob, value in point.items()]
        config = load_config(str(path), [*given(path), *flags])
        model = GoogLeNet(**config.model).clone(heads=False)
        costs.add(sum(profiler.macs(model, config.input_px, train=False).values()))
    assert len(points) == 6 and len(costs) == 2 and max(costs) < 1.02 * min(costs)


@pytest.mark.parametrize("name", ["", "muon", "plain"])
def test_any_choice_of_speedrun_makes_a_config(name: str) -> None:
    path = str(EXPERIMENTS[0].with_name("speedrun.py"))
    space = plan.Plan(path, given(pathlib.Path(path)), "runs/x", name, minutes=2.5).space()
    for values in random(space, 20):
        flags = [f"--config.{knob}={value}" for knob, value in values.items()]
        load_config(path, [*given(pathlib.Path(path)), *flags])
