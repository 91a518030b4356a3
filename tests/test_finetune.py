"""Starting from a checkpoint, freezing, the trunk's own rate; the recipe on a folder of photos."""

import functools
import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from inception import Interrupted, UserError, optim, train
from inception.config import load_config
from inception.model import TRUNK, GoogLeNet, frozen_modules
from inception.runtime import checkpoint, sharding
from inception.runtime.weights import load_to_start, load_trained, start_from
from inception.runtime.workdir import write_config
from inception.step import TrainState, train_step
from tests import tiny
from tests.cli.test_cli import fails, process, train_args
from tests.test_train import interrupt_at

pytestmark = pytest.mark.slow
FINETUNE = "experiments/finetune.py"
TINY = GoogLeNet(classes=3, width=0.05, norm="batch")
BATCH = "--config.model.norm=batch"
COLOURS = ("colour 0", "colour 1", "colour 2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A tiny run with BatchNorm, heads and an average, on three classes."""
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    tiny.write_run(workdir, tiny.config(BATCH), average=True)
    return workdir


@pytest.fixture(scope="module")
def theirs(trained: pathlib.Path) -> dict[tuple[str, ...], np.ndarray]:
    return traverse_util.flatten_dict(load_trained(str(trained)).variables)


def test_schedule_free_starts_at_the_weights_it_is_given_and_resumes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its three sequences begin as one: the mean holds nothing of the random weights."""
    free = ("--config.optim.name=schedule_free", "--config.optim.schedule=constant",
            "--config.optim.polyak_decay=0", "--config.optim.warmup_epochs=0.5",
            "--config.model.heads=false", "--config.input_px=33", "--config.data.resize_px=33")  # fmt: skip
    source = tiny.write_run(tmp_path / "source", tiny.config(*free))
    config = tiny.config(*free, f"--config.init_from={source}")
    given = load_trained(source).variables["params"]
    training = train.build(config, sharding.make_mesh(), steps_per_epoch=2.0, total_steps=6)
    empty = checkpoint.Checkpoints(str(tmp_path / "none"))
    state = train.restore_or_initialise(config, training, empty, COLOURS)
    for tree in (state.params, state.average["params"], optax.tree.get(state.opt_state, "z")):
        jax.tree.map(np.testing.assert_array_equal, tree, given)
    whole = train.run(config, str(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(Interrupted):
            train.run(config, str(tmp_path / "broken"))
    assert train.run(config, str(tmp_path / "broken"))["params_digest"] == whole["params_digest"]
    end = checkpoint.Checkpoints(str(tmp_path / "whole")).restore(None)
    mean, newest = (
        x["conv1"]["Conv_0"]["kernel"] for x in (end["average"]["params"], end["params"])
    )
    assert 0 < np.abs(mean - newest).max() < 0.1


def fresh(model: GoogLeNet, input_px: int = 65) -> Any:
    """Noise in the shapes of the model's variables."""
    rng = np.random.default_rng(0)
    shapes = tiny.state(model, input_px=input_px).raw_variables()
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(s.dtype), shapes)


def start(trained: pathlib.Path, model: GoogLeNet, classes=COLOURS, input_px: int = 65) -> dict:
    """What a run would start from: path -> array."""
    loaded = load_to_start(str(trained), model, "symmetric")
    started = start_from(str(trained), loaded, fresh(model, input_px), classes)
    assert jax.tree.structure(started) == jax.tree.structure(fresh(model, input_px))
    return traverse_util.flatten_dict(started)


def same(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and np.array_equal(a, b)


# What is taken


def test_the_same_classes_take_everything(trained: pathlib.Path, theirs, capfd) -> None:
    started = start(trained, TINY)
    assert started.keys() == theirs.keys()
    assert all(same(started[path], theirs[path]) for path in theirs)
    assert capfd.readouterr().err == f"fresh: nothing; {len(theirs)} arrays from {trained}\n"


@pytest.mark.parametrize(
    ("model", "classes", "input_px", "said"),
    [
        (TINY.clone(classes=4), "abcd", 65, "classifier, head_4a/classifier, head_4d/classifier"),
        (TINY, "abc", 65, "classifier, head_4a/classifier, head_4d/classifier"),
        (TINY, COLOURS[::-1], 65, "classifier, head_4a/classifier, head_4d/classifier"),
        (TINY.clone(heads=False), "abc", 65, "classifier"),
        (TINY.clone(heads=False), COLOURS, 65, "nothing"),
        (TINY, COLOURS, 129, "head_4a/fc, head_4d/fc"),
    ],
)  # fmt: skip
def test_the_trunk_is_taken_bit_for_bit_and_other_classifiers_start_fresh(
    trained: pathlib.Path, theirs, capfd, model: GoogLeNet, classes, input_px: int, said: str
) -> None:
    untouched = traverse_util.flatten_dict(fresh(model, input_px))
    started = start(trained, model, classes, input_px)
    for path, array in started.items():
        new = "/".join(path[1:-1]) in said.split(", ")
        assert same(array, (untouched if new else theirs)[path]), path
        assert path[1] not in TRUNK or not new
    assert capfd.readouterr().err.startswith(f"fresh: {said}; ")


def test_heads_that_the_checkpoint_has_not_start_fresh(
    trained: pathlib.Path, theirs, tmp_path: pathlib.Path, capfd
) -> None:
    """And without BatchNorm: no statistics at all."""
    for name in ("config.json", "classes.txt"):
        shutil.copy(trained / name, tmp_path)
    change_config(tmp_path, lambda config: config["model"].update(norm="none", heads=False))
    model = TINY.clone(norm="none")
    written = checkpoint.Checkpoints(str(tmp_path))
    written.save(0, {"step": jnp.int32(0), "average": {}, **fresh(model.clone(heads=False))})
    written.close()
    started = start(tmp_path, model, "abc")
    assert capfd.readouterr().err.startswith("fresh: classifier, head_4a, head_4d; 114 arrays from")
    untouched = traverse_util.flatten_dict(fresh(model))
    heads = [path for path in started if path[1].startswith("head_")]
    assert len(heads) == 12 and all(same(started[path], untouched[path]) for path in heads)


def change_config(folder: pathlib.Path, change) -> pathlib.Path:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_knob_that_an_older_checkpoint_does_not_know_had_its_default(
    trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    older = pathlib.Path(shutil.copytree(trained, tmp_path / "older"))
    change_config(older, lambda config: config["model"].pop("biases"))
    start(older, TINY)
    with tiny.refused(r"give --config\.model\.biases=True$"):
        start(older, TINY.clone(biases=False))


@pytest.mark.faults
def test_a_run_starts_from_the_checkpoint_its_average_too(
    trained: pathlib.Path, theirs, tmp_path: pathlib.Path
) -> None:
    """The warm-up starts at rate 0: the first step changes statistics, and no parameter."""
    config = tiny.config(BATCH, f"--config.init_from={trained}", "--config.optim.batch_size=32",
                         "--config.optim.epochs=2.", "--config.optim.warmup_epochs=1.")  # fmt: skip
    train.run(config, str(tmp_path))
    saved = checkpoint.Checkpoints(str(tmp_path), read_only=True)
    params = traverse_util.unflatten_dict(theirs)["params"]
    first, last = (saved.restore(None, step=step) for step in (1, 2))
    assert checkpoint.digest(first["params"]) == checkpoint.digest(params)
    assert checkpoint.digest(first["average"]["params"]) == checkpoint.digest(params)
    assert checkpoint.digest(last["params"]) != checkpoint.digest(params)


# Freezing, and the trunk's rate


def steps(model: GoogLeNet, *, count: int, **choices: Any) -> list[TrainState]:
    """The states before and after each of a few steps."""
    tx = optim.sgd(optax.constant_schedule(0.02), momentum=0.9, weight_decay=0.01, trunk=TRUNK,
                   frozen=frozen_modules(model.frozen_through), **choices)  # fmt: skip
    states = [tiny.state(model, tx, averaged=True)]
    step = jax.jit(functools.partial(
        train_step, model=model, tx=tx, seed=0, data_seed=1, colors={}, mixing={},
        normalization="symmetric", loss={"head_weight": 0.3, "label_smoothing": 0.0}, averaging=functools.partial(optim.polyak, decay=0.9),
    ))  # fmt: skip
    for i in range(count):
        rng = np.random.default_rng(i)
        batch = {
            "image": jnp.asarray(rng.integers(0, 256, (8, 65, 65, 3)), jnp.uint8),
            "label": jnp.asarray(rng.integers(0, 3, 8), jnp.int32),
        }
        states.append(step(states[-1], batch)[0])
    return states


def test_what_is_frozen_stays_bit_for_bit_and_all_else_moves() -> None:
    first, *_, last = steps(TINY.clone(frozen_through="4a"), count=3, bias_lr_mult=2.0)
    frozen = TRUNK[:6]
    assert frozen[-1] == "4a"
    for tree in ("params", "batch_stats", "average"):
        before, after = (traverse_util.flatten_dict(getattr(s, tree)) for s in (first, last))
        for path, array in before.items():
            module = path[0] if tree != "average" else path[1]
            assert same(array, after[path]) == (module in frozen), (tree, path)
    momentum = {
        key.key
        for path, _ in jax.tree_util.tree_leaves_with_path(last.opt_state)
        for key in path
        if isinstance(key, jax.tree_util.DictKey)
    }
    assert momentum.isdisjoint(frozen)
    assert momentum >= {*TRUNK[6:], "classifier", "head_4a", "head_4d"}


@pytest.mark.parametrize(
    ("frozen_through", "convolutions", "products"),
    [
        ("", 57 + 56, 37 + 82 + 2),
        ("3a", 57 + 44, 32 + 64 + 2),
        ("5b", 57, 1),
    ],
)
def test_no_gradient_is_computed_in_what_is_frozen(
    frozen_through: str, convolutions: int, products: int
) -> None:
    """As many operations as the trained modules need, on the CPU.

    Convolutions: 57 forward, and the gradients of the inputs of what is trained, where these need
    one: not the pixels, not what four of a module read from a frozen one. Products, of the kernels'
    gradients: one for each 1x1, one for each row of the larger ones (7 + 3 + 9 * (3 + 5) or
    8 * (3 + 5)); one or two for the classifier, whose own values the gradient leaves out.
    """
    model = GoogLeNet(classes=3, width=0.05, heads=False, frozen_through=frozen_through)
    variables = fresh(model.clone(frozen_through=""))

    def loss(params: Any, images: jax.Array) -> jax.Array:
        rngs = {"dropout": jax.random.key(0)}
        return model.apply({"params": params}, images, train=True, rngs=rngs)["main"].sum()

    text = jax.jit(jax.grad(loss)).lower(variables["params"], jnp.zeros((1, 65, 65, 3))).as_text()
    assert text.count("stablehlo.convolution") == convolutions
    assert text.count("stablehlo.dot_general") == products


def test_evaluation_knows_no_freezing() -> None:
    programs = {
        jax.jit(functools.partial(TINY.clone(frozen_through=name).apply, train=False))
        .lower(fresh(TINY), jnp.zeros((1, 65, 65, 3)))
        .as_text()
        for name in ("", "4e")
    }
    assert len(programs) == 1


@pytest.mark.parametrize("style", ["optax", "caffe"])
def test_the_trunks_rate_is_a_multiple_of_the_rate(rng: np.random.Generator, style: str) -> None:
    """Exactly: the multiples are powers of two."""

    def draw() -> dict[str, Any]:
        layer = {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}
        return jax.tree.map(jnp.float32, {"conv1": {"Conv_0": layer}, "classifier": layer})

    params, grads = draw(), draw()

    def first_update(trunk_lr_mult: float, bias_lr_mult: float) -> dict[tuple[str, ...], jax.Array]:
        tx = optim.sgd(optax.constant_schedule(0.1), momentum=0.9, momentum_style=style,
                       weight_decay=0.01, bias_lr_mult=bias_lr_mult, trunk=TRUNK,
                       trunk_lr_mult=trunk_lr_mult)  # fmt: skip
        return traverse_util.flatten_dict(tx.update(grads, tx.init(params), params)[0])

    plain = first_update(1.0, 1.0)
    for trunk_mult, bias_mult in ((0.0, 1.0), (0.5, 1.0), (0.5, 4.0)):
        for path, update in first_update(trunk_mult, bias_mult).items():
            mult = (trunk_mult if "conv1" in path else 1) * (bias_mult if "bias" in path else 1)
            np.testing.assert_array_equal(update, mult * np.asarray(plain[path]))


# Whole runs


@pytest.mark.faults
def test_a_resumed_run_ends_as_the_unbroken_one_and_needs_the_checkpoint_no_more(
    trained: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    source = tmp_path / "source"
    shutil.copytree(trained, source)
    config = tiny.config(BATCH, f"--config.init_from={source}", "--config.model.frozen_through=3a",
                         "--config.optim.trunk_lr_mult=0.5")  # fmt: skip
    unbroken = train.run(config, str(tmp_path / "unbroken"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(UserError, match=r"step [1-6] of 6 is saved"):
            train.run(config, str(tmp_path / "broken"))
    capfd.readouterr()
    shutil.rmtree(source)
    resumed = train.run(config, str(tmp_path / "broken"))
    assert resumed["params_digest"] == unbroken["params_digest"]
    assert "fresh: " not in capfd.readouterr().err
    states = [
        checkpoint.Checkpoints(str(tmp_path / name), read_only=True).restore(None)
        for name in ("unbroken", "broken")
    ]
    assert checkpoint.digest(states[0]) == checkpoint.digest(states[1])


def test_a_checkpoint_that_was_trained_otherwise_names_the_flags_that_make_it_fit(
    trained: pathlib.Path, tmp_path: pathlib.Path, capfd
) -> None:
    args = train_args(
        tmp_path / "run", BATCH, f"--config.init_from={trained}", "--config.optim.epochs=1."
    )
    wrong = [
        "--config.model.norm=none",
        "--config.model.width=0.1",
        "--config.data.normalization=unit",
    ]
    line = fails(capfd, [*args, *wrong], status=1)
    assert line.endswith(
        f"config.init_from={trained} was trained otherwise: give --config.model.norm=batch "
        "--config.model.width=0.05 --config.data.normalization=symmetric"
    )
    flags = line.split(": give ")[1].split()
    mended = [*args[3:], *wrong, *flags]  # later flags win
    config = json.loads(load_config(tiny.EXPERIMENT, mended).to_json())
    write_config(config, str(tmp_path / "run"))  # not refused: that start never began
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["norm"] == "batch"
    begun = (tmp_path / "run").rename(tmp_path / "run [.1]")  # a name that is no pattern
    (begun / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(UserError, match="belongs to another config"):
        write_config(config | {"seed": 1}, str(begun))


def test_a_checkpoint_that_is_not_one(trained: pathlib.Path, tmp_path: pathlib.Path, capfd) -> None:
    nowhere = tmp_path / "nowhere"
    args = train_args(tmp_path / "run", BATCH, f"--config.init_from={nowhere}")
    assert f"config.init_from: {nowhere} is neither a run" in fails(capfd, args, status=1)
    assert not nowhere.exists()
    wider = pathlib.Path(shutil.copytree(trained, tmp_path / "wider"))
    change_config(wider, lambda config: config["model"].update(width=0.1))
    with tiny.refused("is not what its config.json says: take another checkpoint$"):
        start(wider, TINY.clone(width=0.1))


def test_another_number_of_classes_than_the_set_has(photos: pathlib.Path, tmp_path, capfd) -> None:
    for classes in (2, 4):
        args = train_args(tmp_path / "run", BATCH, "--config.data.source=folder", f"--config.data.path={photos}",
                          "--config.data.eval_split=val", f"--config.model.classes={classes}")  # fmt: skip
        line = fails(capfd, args, status=1)
        assert line.endswith("the set has 3 classes: give --config.model.classes=3")


@pytest.mark.faults
def test_the_recipe_on_a_folder_of_photos(
    trained: pathlib.Path, theirs, photos: pathlib.Path, tmp_path: pathlib.Path, capfd
) -> None:
    recipe = ["train", f"--config={FINETUNE}", f"--workdir={tmp_path / 'run'}"]
    line = fails(capfd, recipe, status=2)
    assert line.endswith(
        "leaves the choice to you: give --config.data.path=... --config.init_from=... "
        "--config.model.classes=..."
    )
    scratch = ["--config.init_from=", "--config.data.path=photos", "--config.model.classes=3"]
    assert load_config(FINETUNE, scratch).init_from == ""
    small = ["--config.model.width=0.05", "--config.model.norm=batch", "--config.data.normalization=symmetric",
             "--config.input_px=65", "--config.data.resize_px=65", "--config.optim.batch_size=8"]  # fmt: skip
    done = process(*recipe, *small, f"--config.init_from={trained}", f"--config.data.path={photos}",
                   "--config.model.classes=3", "--config.model.frozen_through=3a",
                   "--config.optim.trunk_lr_mult=0", "--config.optim.min_epoch_steps=4", "--config.optim.epochs=1", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fresh: classifier; " in done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] == 4 and result["count"] == 6
    learnt = load_trained(str(tmp_path / "run"))
    assert learnt.classes == ("ant", "bee", "cat")
    for path, array in traverse_util.flatten_dict(learnt.variables).items():
        still = path[1] in TRUNK and (path[0] == "params" or path[1] in TRUNK[:4])
        assert same(array, theirs[path]) == still, path
