"""The paper's protocol: every crop of every image once, averaged as it says, on real networks."""

import collections
import csv
import json
import math
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import launch
from inception import UserError, pixels
from inception.data import cropping, decoding, pipeline, sources
from inception.evaluation import results
from inception.evaluation.evaluator import Evaluation, Evaluator, _outcomes
from inception.evaluation.networks import Networks
from inception.knobs import KNOBS
from inception.model import GoogLeNet
from inception.runtime import sharding
from tests import tiny

pytestmark = pytest.mark.usefixtures("short_network")

PX = 33
SMALL = ("--config.data.resize_px=40", f"--config.input_px={PX}", "--config.model.heads=False")


def folder(photos: pathlib.Path, *overrides: str):
    return tiny.config(
        *SMALL, "--config.data.source=folder", f"--config.data.path={photos}",
        "--config.data.eval_split=val", *overrides,
    )  # fmt: skip


def by_hand(config, networks, crops: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean probabilities [n, classes] and labels, image after image, crop after crop."""
    source = pipeline.open_split(config, config.data.eval_split)
    views = cropping.Views((crops,), PX, config.data.resize_px, config.data.resize)
    means, labels = [], []
    for i in range(len(source)):
        record, label = source[i]
        crops_of_it = views.of(decoding.decode(record, "", max_megapixels=10.0))
        x = pixels.normalize(jax.numpy.asarray(crops_of_it), method=config.data.normalization)
        models = [
            jax.nn.softmax(tiny.logits(GoogLeNet(**config.model), v, x)).mean(0) for v in networks
        ]
        means.append(np.mean(models, 0))
        labels.append(label)
    return np.stack(means), np.asarray(labels)


@pytest.mark.slow
def test_every_crop_count_and_the_ensemble_in_one_pass(photos: pathlib.Path) -> None:
    """An image's 144 crops lie in several batches, and a batch has crops of two images."""
    config = folder(photos, "--config.run.eval_batch_size=56")
    networks = [tiny.variables(config, seed) for seed in (0, 1)]
    mesh = sharding.make_mesh()
    evaluator = Evaluator(config, mesh, split="val", crops=(144, 1, 10), networks=[config, config])
    table = evaluator.table([sharding.replicate(v, mesh) for v in networks])
    assert [(e.models, e.crops) for e in table] == [
        (1, 1), (1, 1), (2, 1), (1, 10), (1, 10), (2, 10), (1, 144), (1, 144), (2, 144)
    ]  # fmt: skip
    for evaluation, who in zip(table, [networks[:1], networks[1:], networks] * 3, strict=True):
        means, labels = by_hand(config, who, evaluation.crops)
        np.testing.assert_array_equal(evaluation.labels, labels)
        right = means[np.arange(len(labels)), labels]
        np.testing.assert_allclose(evaluation.losses, -np.log(right), rtol=1e-4)
        np.testing.assert_allclose(evaluation.probabilities, -np.sort(-means, axis=1), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("resize", KNOBS["data.resize"].allowed.choices)
def test_ten_crops_with_each_way_to_resize(photos: pathlib.Path, resize: str) -> None:
    config = folder(photos, f"--config.data.resize={resize}")
    weights = tiny.variables(config, 0)
    evaluator = Evaluator(config, sharding.make_mesh(), split="val", crops=(10,))
    means, labels = by_hand(config, [weights], 10)
    losses = evaluator(weights).losses
    np.testing.assert_allclose(losses, -np.log(means[np.arange(len(labels)), labels]), rtol=1e-4)


@pytest.mark.parametrize(("processes", "batch_size"), [(1, 8), (1, 300), (2, 36), (3, 6)])
def test_each_image_is_read_once_and_each_row_is_there_once(
    photos: pathlib.Path, processes: int, batch_size: int
) -> None:
    source = sources.open_source("folder", path=str(photos), split="val")
    reads: collections.Counter[int] = collections.Counter()

    class Counted:
        classes = source.classes
        name = source.name
        __len__ = source.__len__

        def __getitem__(self, index: int):
            reads[index] += 1
            return source[index]

    views = cropping.Views((1, 10, 144), 4, 5, "short")
    rows: collections.Counter[int] = collections.Counter()
    for process in range(processes):
        batches = pipeline.evaluation_batches(
            Counted(), views=views, batch_size=batch_size, classes=3, max_megapixels=10.0,
            workers=3, process=process, processes=processes,
        )  # fmt: skip
        sums = np.zeros((len(source), 3))
        for batch in batches:
            assert len(batch["index"]) == batch_size // processes
            rows.update(batch["index"][batch["index"] >= 0].tolist())
            np.add.at(sums, batch["index"], batch["crop_weights"] * (batch["index"] >= 0)[:, None])
        if processes == 1:
            assert (sums == (1, 10, 144)).all()
            assert set(reads.values()) == {1}
    assert rows == dict.fromkeys(range(len(source)), 144)


def test_rows_that_are_missing_are_an_error(photos: pathlib.Path) -> None:
    config = folder(photos, "--config.run.eval_batch_size=8")
    evaluator = Evaluator(config, sharding.make_mesh(), split="val", crops=(10,))
    weights = tiny.variables(config, 0)
    whole = list(evaluator._batches())
    for missing, message in ((3, "10 crops"), (-1, "lacks some of its 10 crops")):
        left = [b for i, b in enumerate(whole) if i != missing % len(whole)]
        evaluator._batches = lambda left=left: iter(left)
        with pytest.raises(RuntimeError, match=message):
            evaluator(weights)
    single = Evaluator(config, sharding.make_mesh(), split="train")
    left = list(single._batches())[1:]
    single._batches = lambda: iter(left)
    with pytest.raises(RuntimeError, match="evaluated 16 images of 24"):
        single(weights)
    single._batches = lambda: iter([*left, left[0]])
    with pytest.raises(RuntimeError, match="twice"):
        single(weights)


def test_outputs_that_are_not_finite_are_an_error(photos: pathlib.Path) -> None:
    config = folder(photos)
    weights = jax.tree.map(lambda x: x * np.nan, tiny.variables(config, 0))
    evaluator = Evaluator(config, sharding.make_mesh(), split="val")
    for call in (evaluator, evaluator.check_finite):
        with pytest.raises(UserError, match="not finite"):
            call(weights)


def test_a_hopeless_image_has_a_finite_loss() -> None:
    top, best, losses = _outcomes(np.array([[1.0, 0.0]]), np.array([1]))
    assert np.isfinite(losses[0]) and losses[0] > 700
    assert top.tolist() == [[0, 1]] and best.tolist() == [[1.0, 0.0]]


def evaluation(wrong: int, count: int, **changes) -> Evaluation:
    top = np.tile(np.arange(5, dtype=np.int32), (count, 1))
    labels = np.where(np.arange(count) < wrong, 9, 0).astype(np.int32)
    ones = np.ones((count, 5), np.float32)
    return Evaluation(labels, top, ones, ones[:, 0], **changes)


@pytest.mark.parametrize(("wrong", "count"), [(0, 40), (3, 40), (40, 40), (3335, 50_000)])
def test_intervals_are_wilsons(wrong: int, count: int) -> None:
    z, share = 1.959963984540054, wrong / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) * z / (1 + z**2 / count)
    got = results.error_interval(evaluation(wrong, count), 5)
    np.testing.assert_allclose(got, [100 * (middle - half), 100 * (middle + half)], atol=1e-9)


def test_table_3_stands_beside_the_papers() -> None:
    row = results.row(evaluation(3335, 50_000, crops=144, models=7), classes=1000)
    assert (row["cost"], row["top5_error_paper"]) == (1008, 6.67)
    assert row["difference"] == pytest.approx(0.0) and row["top5_error"] == pytest.approx(6.67)
    for classes, count in ((1000, 49_999), (10, 50_000)):  # another set than the paper's
        alone = results.row(evaluation(1, count), classes=classes)
        assert alone["top5_error_paper"] is None and alone["difference"] is None
        assert "paper" not in results.table_3([alone]).split("\n")[0]
    other = {**results.row(evaluation(1, 10, crops=10, models=2), classes=3), "name": "runs/a"}
    assert other["top5_error_paper"] is None and other["difference"] is None
    lines = results.table_3([row, other]).splitlines()
    assert lines[0].split()[:3] == ["models", "crops", "cost"]
    assert lines[1].split()[:6] == ["7", "144", "1008", "6.67", "6.45-6.89", "6.67"]
    assert lines[2].endswith("runs/a")
    assert {len(line) for line in lines[:2]} == {len(lines[1])}


def test_classes_of_unlike_size_have_their_own_column() -> None:
    """Nine in ten are of class 0 and right, the rest of class 9 and wrong: 90% of images, 50% by class."""
    some = evaluation(4, 40)
    assert some.result()["class_accuracy"] == pytest.approx(50)
    assert "by class %" in results.table_3([results.row(some, classes=10)])
    assert "by class %" not in results.table_3([results.row(evaluation(20, 40), classes=10)])


# The command


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three tiny networks, the third twice as wide."""
    root = tmp_path_factory.mktemp("runs")
    return [
        tiny.write_run(root / str(i), tiny.config(*SMALL, f"--config.model.width={w}"), seed=i)
        for i, w in enumerate((0.05, 0.05, 0.1))
    ]


@pytest.mark.slow
def test_eval_of_an_ensemble_writes_what_is_asked_for(runs, tmp_path, capfd) -> None:
    names = {"predictions": "p.jsonl", "per_class": "c.csv", "confusion": "m.csv"}
    files = [f"--{flag}={tmp_path}/{name}" for flag, name in names.items()]
    args = ["eval", f"--checkpoints={','.join(runs)}", "--crops=1,10", *files, "--json"]
    assert launch.main(args) == 0
    result = json.loads(capfd.readouterr().out)
    assert (result["crops"], result["models"], result["count"]) == (10, 3, 32)
    assert [row["name"] for row in result["table"]] == [*runs, "together"] * 2
    assert [row["cost"] for row in result["table"]] == [1, 1, 1, 3, 10, 10, 10, 30]
    assert not any((pathlib.Path(run) / "eval.json").exists() for run in runs)

    predictions = [json.loads(p) for p in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(predictions) == 32
    wrong = sum(p["class"] != p["top"][0][0] for p in predictions)
    assert 100 * wrong / 32 == pytest.approx(result["top1_error"])
    for p in predictions:
        assert sum(share for _, share in p["top"]) == pytest.approx(1, abs=1e-4)
    rows = list(csv.DictReader((tmp_path / "c.csv").read_text().splitlines()))
    assert [r["class"] for r in rows] == ["colour 0", "colour 1", "colour 2"]
    right = sum(int(r["count"]) * float(r["top1_accuracy"]) for r in rows) / 32
    assert right == pytest.approx(100 - result["top1_error"], abs=0.01)
    mean = np.mean([float(r["top1_accuracy"]) for r in rows])
    assert result["class_accuracy"] == pytest.approx(mean, abs=0.01)
    pairs = collections.Counter((p["class"], p["top"][0][0]) for p in predictions)
    of_class = {r["class"]: int(r["count"]) for r in rows}
    confusion = list(csv.DictReader((tmp_path / "m.csv").read_text().splitlines()))
    assert {(r["class"], r["predicted"]): int(r["count"]) for r in confusion} == pairs
    for r in confusion:
        assert float(r["share"]) == pytest.approx(
            100 * int(r["count"]) / of_class[r["class"]], abs=0.01
        )


@pytest.mark.slow
def test_eval_of_one_run_keeps_its_result_for_the_page(runs, capfd) -> None:
    written = pathlib.Path(runs[0]) / "eval.json"
    assert launch.main(["eval", f"--workdir={runs[0]}", "--crops=10", "--json"]) == 0
    assert launch.main(["eval", f"--workdir={runs[0]}", "--config.data.examples=8", "--json"]) == 0
    assert launch.main(["eval", f"--workdir={runs[0]}", "--config.input_px=36", "--json"]) == 0
    assert not written.exists()  # other crops, data, pixels: not the run's own
    assert launch.main(["eval", f"--workdir={runs[0]}", "--json"]) == 0
    assert json.loads(written.read_text())["count"] == 32
    capfd.readouterr()
    assert launch.main(["eval", f"--workdir={runs[0]}"]) == 0
    assert "top-5 error %" in capfd.readouterr().out
    written.unlink()


def fails(capfd, *args: str, status: int = 1) -> str:
    assert launch.main(["eval", *args]) == status
    out, err = capfd.readouterr()
    assert "Traceback" not in err and not out
    return err.strip().splitlines()[-1]


@pytest.mark.slow
def test_what_does_not_go_together_is_named(runs, tmp_path, capfd) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    (other / "classes.txt").write_text("colour 0\ncolour 2\ncolour 1\n")
    assert "is given twice" in fails(capfd, f"--checkpoints={runs[0]},{runs[1]},{runs[0]}/")
    both = f"--checkpoints={runs[0]},{other}"
    assert "have different classes, or a different order" in fails(capfd, both)
    more = tiny.write_run(tmp_path / "more", tiny.config(*SMALL, "--config.model.classes=4"))
    assert "has 3 classes and" in fails(capfd, f"--checkpoints={runs[0]},{more}")
    config = json.loads((other / "config.json").read_text())
    config["input_px"] = 37
    (other / "config.json").write_text(json.dumps(config))
    line = fails(capfd, both, f"--predictions={tmp_path}/p.jsonl")
    assert not (tmp_path / "p.jsonl").exists()
    assert "config.input_px is 33 in" in line and "37 in" in line
    (other / "classes.txt").unlink()
    assert "no readable classes.txt" in fails(capfd, both)
    (other / "config.json").write_text("{")
    assert "config.json cannot be read" in fails(capfd, both)
    assert "no config.json" in fails(capfd, f"--checkpoints={runs[0]},{tmp_path}/none")
    assert "give --workdir" in fails(capfd, status=2)
    assert "give --workdir" in fails(capfd, both, f"--workdir={runs[0]}", status=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["--predictions={}/no/p.jsonl"], "no/p.jsonl cannot be written: no such folder"),
        (["--per_class={}"], "cannot be written: a folder of that name"),
        (["--predictions=."], "cannot be written: a folder of that name"),
        (["--predictions={0}/x", "--per_class={0}/x"], "--predictions and --per_class are both"),
        (["--predictions={0}/x", "--per_class={0}/./x"], "--predictions and --per_class are both"),
    ],
)
def test_files_that_cannot_be_written_end_it_before_it_begins(
    runs, tmp_path, capfd, files: list[str], message: str
) -> None:
    files = [file.format(tmp_path) for file in files]
    assert message in fails(capfd, f"--workdir={runs[0]}", *files)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_files_of_others_stay_and_its_own_are_replaced(runs, tmp_path, capfd) -> None:
    notes, photo = tmp_path / "notes.csv", tmp_path / "photo.jpg"
    notes.write_text("class,count\nbird,3\n")
    Image.new("RGB", (9, 9)).save(photo)
    before = notes.read_bytes(), photo.read_bytes()
    for file in (f"--per_class={notes}", f"--predictions={photo}"):
        line = fails(capfd, f"--workdir={runs[0]}", file)
        assert "a file of another kind exists: name another, or remove it" in line
    assert before == (notes.read_bytes(), photo.read_bytes())
    files = [f"--predictions={tmp_path}/p.jsonl", f"--per_class={tmp_path}/c.csv"]
    (tmp_path / "p.jsonl").touch()  # an empty one is no loss
    for _ in range(2):
        assert (
            launch.main(["eval", f"--workdir={runs[0]}", "--config.data.examples=8", *files]) == 0
        )
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 8


def test_a_file_in_the_way_of_writing_shows_before_it_begins(runs, tmp_path, capfd) -> None:
    (tmp_path / ".p.jsonl.unfinished").mkdir()
    line = fails(capfd, f"--workdir={runs[0]}", f"--predictions={tmp_path}/p.jsonl")
    assert "p.jsonl cannot be written" in line


@pytest.mark.slow
def test_what_cannot_be_written_in_the_end_does_not_lose_the_result(
    runs, tmp_path, capfd, monkeypatch
) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(results.WRITERS, "predictions", results.Writer(full, b""))
    files = [f"--predictions={tmp_path}/p.jsonl", f"--per_class={tmp_path}/c.csv"]
    assert launch.main(["eval", f"--workdir={runs[0]}", "--crops=10", "--json", *files]) == 1
    out, err = capfd.readouterr()
    assert json.loads(out)["count"] == 32 and "top-5 error %" in err
    assert "p.jsonl cannot be written: No space left" in err.splitlines()[-1]
    assert (tmp_path / "c.csv").exists()
    pathlib.Path(runs[0], ".eval.json.unfinished").mkdir()  # epath removes it
    assert launch.main(["eval", f"--workdir={runs[0]}"]) == 0
    out, err = capfd.readouterr()
    assert "on 32 images" in out and "WARNING: eval.json is not written" in err


@pytest.mark.slow
def test_of_a_folder_without_splits_it_says_what_is_evaluated(runs, tmp_path, capfd) -> None:
    for i in range(30):
        (tmp_path / f"colour {i % 3}").mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (i, 9, 9)).save(tmp_path / f"colour {i % 3}" / f"{i}.png")
    args = ["eval", f"--workdir={runs[0]}", "--config.data.source=folder", "--config.data.eval_split=val",
            f"--config.data.path={tmp_path}", "--json"]  # fmt: skip
    for flags, count in (([], 6), (["--split=all"], 30)):
        assert launch.main([*args, *flags]) == 0
        out, err = capfd.readouterr()
        assert json.loads(out)["count"] == count
        assert ("evaluating 6 of 30 images" in err and "--split=all" in err) == (count == 6)


@pytest.mark.slow
def test_eval_names_what_is_passed_over_and_bits_not_in_use(runs, xrays, capfd) -> None:
    args = ["eval", f"--workdir={runs[0]}", "--config.data.source=folder", "--split=all",
            f"--config.data.path={xrays}", "--json"]  # fmt: skip
    results = []
    for flags, warnings in (([], 1), (["--config.data.bits=12"], 0)):
        assert launch.main([*args, *flags]) == 0
        out, err = capfd.readouterr()
        assert err.count("passed over, for they are no pictures: 3 .mp4") == 1
        assert err.count(f"WARNING: pictures of 16 bits in {xrays} use 12 of them") == warnings
        results.append(json.loads(out)["table"][0]["log_loss"])
    assert results[0] != results[1]


def test_softmax_is_averaged_not_logits() -> None:
    """Two crops of one image, logits (0, 10) and (4, 0): the mean of probabilities prefers 1."""

    class Fixed(Networks):
        def __init__(self) -> None: ...

        def outputs(self, _, batches, **_options):
            yield from batches

    rows = {"logits": np.array([[0.0, 10.0], [14.0, 0.0]]), "label": np.zeros(2, int),
            "index": np.zeros(2, int), "crop_weights": np.ones((2, 1), np.float32)}  # fmt: skip
    ((_, _, values),) = Fixed().averages([], [[rows]], crops=(2,))
    p = [1 / (1 + math.exp(10)), 1 / (1 + math.exp(-14))]
    np.testing.assert_allclose(values[0, 0, 0, 0], sum(p) / 2, rtol=1e-9)


def test_one_strange_image_is_as_many_crops_as_any(tmp_path: pathlib.Path) -> None:
    for i, size in enumerate([(1, 1), (1, 300), (500, 2), (40, 40)]):
        (tmp_path / "set" / "val" / "ant").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (i, 9, 9)).save(tmp_path / "set" / "val" / "ant" / f"{i}.png")
    config = folder(tmp_path / "set")
    evaluator = Evaluator(config, sharding.make_mesh(), split="val", crops=(1, 10, 144))
    assert evaluator(tiny.variables(config, 0)).count == 4
