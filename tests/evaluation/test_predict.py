"""Pictures as people have them -> classes; where the network saw them."""

import functools
import itertools
import json
import pathlib
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import launch
from inception import UserError, pixels
from inception.data import cropping, imagenet
from inception.evaluation import cam, pictures, predict
from inception.evaluation.evaluator import Evaluator
from inception.model import GoogLeNet
from inception.runtime import sharding
from tests import tiny

pytestmark = pytest.mark.usefixtures("short_network")

PX = 33
CONFIG = (f"--config.input_px={PX}", "--config.data.resize_px=40", "--config.model.heads=False")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("runs")
    overrides = (("--config.model.width=0.05",), ("--config.data.normalization=unit",))
    return [
        tiny.write_run(root / str(i), tiny.config(*CONFIG, *o), seed=i)
        for i, o in enumerate(overrides)
    ]


@pytest.fixture
def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 6, 3)).astype(np.uint8))
    return coarse.resize((60, 48), Image.Resampling.BICUBIC)


def probabilities(prediction: dict) -> np.ndarray:
    by_id = {c["id"]: c["probability"] for c in prediction["classes"]}
    return np.asarray([by_id[i] for i in range(len(by_id))])


@pytest.mark.slow
def test_a_run_older_than_a_knob_predicts(runs, picture: Image.Image, tmp_path) -> None:
    shutil.copytree(runs[0], tmp_path / "old")
    config = json.loads((tmp_path / "old/config.json").read_text())
    del config["data"]["bits"]
    (tmp_path / "old/config.json").write_text(json.dumps(config))
    assert predict.Predictor(tmp_path / "old")([picture]) == predict.Predictor(runs[0])([picture])


@pytest.mark.slow
@pytest.mark.parametrize("crops", [1, 10, 144])
def test_a_prediction_is_the_mean_of_softmax(runs, picture: Image.Image, crops: int) -> None:
    (got,) = predict.Predictor(*runs)([picture], crops=crops)
    view = cropping.Views((crops,), PX, 40, "short").of(picture)
    means = []
    for i, normalization in enumerate(("symmetric", "unit")):
        config = tiny.config(*CONFIG)
        x = pixels.normalize(jnp.asarray(view), method=normalization)
        logits = tiny.logits(GoogLeNet(**config.model), tiny.variables(config, i), x)
        means.append(jax.nn.softmax(logits).mean(0))
    np.testing.assert_allclose(probabilities(got), np.mean(means, 0), rtol=1e-4)
    assert [c["probability"] for c in got["classes"]] == sorted(probabilities(got))[::-1]
    assert {c["name"] for c in got["classes"]} == {"colour 0", "colour 1", "colour 2"}


def test_predictions_are_those_of_evaluation(runs, photos: pathlib.Path) -> None:
    config = tiny.config(*CONFIG, "--config.data.source=folder", f"--config.data.path={photos}")
    evaluator = Evaluator(config, sharding.make_mesh(), split="val", crops=(10,))
    evaluation = evaluator(tiny.variables(config, 0))
    files = [evaluator.source.name(i) for i in range(6)]
    for got, top, p in zip(
        predict.Predictor(runs[0])(files, crops=10),
        evaluation.top,
        evaluation.probabilities,
        strict=True,
    ):
        assert [c["id"] for c in got["classes"]] == top.tolist()
        np.testing.assert_allclose([c["probability"] for c in got["classes"]], p, rtol=1e-4)


@pytest.mark.slow
def test_paths_pictures_and_arrays(runs, picture: Image.Image, tmp_path: pathlib.Path) -> None:
    predictor = predict.Predictor(runs[0])
    path = tmp_path / "a.png"
    picture.save(path)
    got = predictor([path, str(path), picture, np.asarray(picture)], topk=1)
    assert [g["image"] for g in got] == [str(path), str(path), "picture 2", "picture 3"]
    assert len({json.dumps(g["classes"]) for g in got}) == 1 and len(got[0]["classes"]) == 1
    for wrong in (
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((0, 0, 3), np.uint8),
    ):
        with pytest.raises(UserError, match=r"picture 0: .* is no uint8 \[h, w\]"):
            predictor([wrong])
    for one in (str(path), picture, np.asarray(picture)):
        with pytest.raises(UserError, match="give a list of pictures"):
            predictor(one)
    for wrong, message in (({"topk": 0}, "--topk=0"), ({"crops": 3}, "--crops=3: choose from")):
        with tiny.refused(message, "topk", "crops"):
            predictor([picture], **wrong)
    assert predictor([]) == []
    again = predict.Predictor(pathlib.Path(runs[0]))
    pictures = (path, str(path))
    assert again(pictures, topk=1) == again((p for p in pictures), topk=1) == got[:2]
    for wrong in ((), (runs,), (runs[0], None)):
        with pytest.raises(UserError, match="name the folders one by one"):
            predict.Predictor(*wrong)
    with pytest.raises(UserError, match="is given twice"):
        predict.Predictor(runs[0], runs[0])


# Odd pictures


def odd(tmp_path: pathlib.Path, picture: Image.Image) -> dict[str, Image.Image]:
    """Files as people have them -> how they should look."""
    looks = {}

    def save(name: str, image: Image.Image, expected: Image.Image, **how) -> None:
        image.save(tmp_path / name, **how)
        looks[name] = expected

    grey = picture.convert("L")
    save("grey.png", grey, grey)
    save("cmyk.tif", picture.convert("CMYK"), picture)
    save("palette.png", picture.quantize(256), picture.quantize(256))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    save("sixteen.png", deep, grey)
    save("alpha.png", picture.convert("RGBA"), picture)
    other = Image.new("RGB", picture.size)
    save("animated.webp", picture, picture, save_all=True, append_images=[other], lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to look at it
    lying = picture.transpose(Image.Transpose.ROTATE_90)
    save("turned.png", lying, picture, exif=exif)
    return looks


def test_odd_pictures_are_seen_as_a_person_sees_them(runs, picture, tmp_path) -> None:
    predictor = predict.Predictor(runs[0])
    for name, looks in odd(tmp_path, picture).items():
        with Image.open(tmp_path / name) as opened:
            *got, expected = predictor([tmp_path / name, opened, looks.convert("RGB")])
        for one in got:
            np.testing.assert_allclose(
                probabilities(one), probabilities(expected), atol=1e-5, err_msg=name
            )
    lying = predictor([picture.transpose(Image.Transpose.ROTATE_90)])[0]
    assert np.abs(probabilities(lying) - probabilities(predictor([picture])[0])).max() > 1e-4
    cmyk = tmp_path / "cmyk.jpg"
    picture.convert("CMYK").save(cmyk, quality=95)
    seen, _ = pictures.Pictures([cmyk], max_megapixels=1.0)[0]
    assert np.abs(seen.astype(int) - np.asarray(picture)).mean() < 5  # 131 if read inverted


def command(capfd, *args: str) -> tuple[int, str, str]:
    status = launch.main(["predict", *args])
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    return status, out, err


@pytest.mark.slow
def test_files_folders_and_lists(runs, photos: pathlib.Path, tmp_path, capfd) -> None:
    files = sorted(str(p) for p in photos.rglob("*") if p.is_file())
    (photos / "bee" / "._0.jpg").write_bytes(b"macOS")
    (photos / "bee" / ".cache").mkdir()
    (photos / "bee" / ".cache" / "1.png").write_bytes(b"")
    listed = tmp_path / "list.TXT"
    listed.write_text("\n".join([files[3], "", files[1]]) + "\n")
    args = [f"--checkpoint={runs[0]}", "--topk=2", "--json"]
    status, out, _ = command(capfd, *args, files[0], str(photos / "bee"), str(listed))
    assert status == 0
    result = json.loads(out)
    assert result["rejected"] == []
    names = [p["image"] for p in result["predictions"]]
    bees = [f for f in files if "/bee/" in f]
    assert names == [files[0], *bees, files[3], files[1]]
    for p in result["predictions"]:
        assert [c.keys() for c in p["classes"]] == [{"id", "name", "probability"}] * 2
    status, out, _ = command(capfd, files[0], *args, files[1], "--crops=10", files[2])
    assert status == 0
    assert [p["image"] for p in json.loads(out)["predictions"]] == files[:3]
    status, out, _ = command(capfd, f"--checkpoint={','.join(runs)}", "--crops=10", files[0])
    lines = out.splitlines()
    assert status == 0 and lines[0] == files[0] and len(lines) == 4
    assert lines[1].split()[0].endswith("%") and "colour" in lines[1]


def test_what_cannot_be_read_is_named_and_the_rest_is_done(runs, photos, tmp_path, capfd) -> None:
    good = next(str(p) for p in sorted(photos.rglob("*")) if p.is_file())
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "half.png").write_bytes(pathlib.Path(good).read_bytes()[:300])
    Image.new("1", (10_001, 10_000)).save(tmp_path / "huge.png")
    Image.new("F", (20, 20)).save(tmp_path / "float.tif")
    bad = {"float.tif": "floating-point numbers", "text.jpg": "not an image", "empty.jpg": "an empty file", "half.png": "half.png",
           "huge.png": "config.data.max_megapixels=100", "none.jpg": "No such file", "\0": "null byte"}  # fmt: skip
    paths = [str(tmp_path / name) for name in bad]
    args = [f"--checkpoint={runs[0]}", "--json", *paths, good]
    status, out, err = command(capfd, *args)
    result = json.loads(out)
    assert status == 1 and [p["image"] for p in result["predictions"]] == [good]
    assert len(result["rejected"]) == 7
    for line, (name, why) in zip(result["rejected"], bad.items(), strict=True):
        assert name in line and why in line and line in err and "\n" not in line


@pytest.mark.slow
def test_pictures_have_the_bits_that_the_checkpoint_was_trained_with(
    xrays, tmp_path, capfd
) -> None:
    config = tiny.config(*CONFIG, "--config.data.bits=12")
    run = tiny.write_run(tmp_path / "run", config)
    picture = next(iter(sorted(xrays.rglob("*.png"))))
    (got,) = predict.Predictor(run)([picture])
    pixels = (np.asarray(Image.open(picture)) // 16).astype(np.uint8)
    (wanted,) = predict.Predictor(run)([pixels])
    np.testing.assert_allclose(probabilities(got), probabilities(wanted), atol=1e-6)
    for bits, warnings in ((12, 0), (0, 1), (16, 0)):
        args = [f"--checkpoint={run}", f"--config.data.bits={bits}", str(xrays)]
        status, _, err = command(capfd, *args)
        assert status == 0 and err.count("WARNING: pictures of 16 bits use 12") == warnings
        assert err.count("passed over, for they are no pictures: 3 .mp4") == 1


def test_maps_in_the_home_folder(runs, picture, tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    picture.save(tmp_path / "a.png")
    status, _, _ = command(capfd, f"--checkpoint={runs[0]}", "--cam=~/maps", "a.png")
    assert status == 0 and (tmp_path / "maps" / "a.png").is_file()
    assert not (tmp_path / "~").exists()


def test_wrong_arguments_are_one_line(runs, tmp_path, capfd) -> None:
    (tmp_path / "list.txt").write_text("\n")
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (99, 99)).save(tmp_path / "a.png")
    checkpoint = f"--checkpoint={runs[0]}"
    for args, message in (
        ([checkpoint, str(tmp_path / "folder")], "no picture in this folder"),
        ([checkpoint, str(tmp_path / "list.txt")], "an empty list"),
        ([checkpoint, str(tmp_path / "no.txt")], "cannot be read as a list"),
        ([checkpoint, "gs://bucket/a.png"], "gs://bucket/a.png: pictures are read from local"),
        ([f"--checkpoint={tmp_path}", "x.jpg"], "no config.json"),
        ([checkpoint, "--config.run.eval_batch_size=0", "x.jpg"], "eval_batch_size=0: must be"),
        ([checkpoint, "--config.data.resize=squash", "--crops=144", "x.jpg"], "not squash"),
        ([checkpoint, "--config.data.max_megapixels=0.001", str(tmp_path / "a.png")], "a.png"),
    ):
        status, out, err = command(capfd, *args)
        assert status == 1 and not out and message in err and len(err.splitlines()) == 1
    status, _, err = command(capfd, checkpoint, "--cam=gs://bucket/maps", "x.jpg")
    assert status == 2 and "--cam=gs://bucket/maps: draw into a local folder" in err


# Where


def test_the_mean_of_a_map_is_the_logit(picture: Image.Image) -> None:
    config = tiny.config(*CONFIG)
    weights = tiny.variables(config, 0)
    crops = cropping.Views((10,), PX, 40, "short").of(picture)
    maps = cam.maps(config.model, weights, crops, normalization="unit")
    assert maps.shape == (10, 3, 3, 3)
    x = pixels.normalize(jnp.asarray(crops), method="unit")
    logits = tiny.logits(GoogLeNet(**config.model), weights, x)
    np.testing.assert_allclose(maps.mean((1, 2)), logits, rtol=1e-4, atol=1e-5)


def test_an_int_is_an_output_and_a_text_first_a_name() -> None:
    predictor = object.__new__(predict.Predictor)
    predictor.classes = predictor.names = ("1", "2", "3")
    assert predictor.ids("2,3") == [1, 2] and predictor.ids([2, 0]) == [2, 0]
    assert predictor.ids(["2", 2]) == [1, 2] and predictor.ids("0") == [0]
    with tiny.refused("--class=3: neither a class nor a number from 0 to 2", "class"):
        predictor.ids([3])


def test_without_the_average_there_is_no_map(picture: Image.Image) -> None:
    config = tiny.config(*CONFIG, "--config.model.top=fc")
    with tiny.refused(r"--cam: config\.model\.top=fc loses the positions", "cam"):
        cam.maps(config.model, {}, np.zeros((1, PX, PX, 3), np.uint8), normalization="unit")


@pytest.mark.slow
def test_a_map_points_at_what_is_there(rng: np.random.Generator) -> None:
    """Something in one corner of an empty scene changes the maps in that corner."""
    config = tiny.config(
        "--config.model.norm=none", "--config.model.width=0.2", "--config.input_px=160",
        "--config.data.resize_px=160",
    )  # fmt: skip
    weights = tiny.variables(config, 2)
    scenes = np.full((2, 160, 160, 3), 128, np.uint8)
    scenes[1, :30, -30:] = rng.integers(0, 256, (30, 30, 3))
    empty, corner = cam.maps(config.model, weights, scenes, normalization="unit")  # [10, 10, 3]
    change = np.abs(corner - empty).sum(-1)
    assert change[:, 6:].sum() > 2 * change[:, :4].sum()  # right, not left
    assert change[:4].sum() > 2 * change[6:].sum()  # above, not below


def test_classes_by_name_by_words_and_by_number() -> None:
    network = types.SimpleNamespace(
        classes=imagenet.CLASSES, names=imagenet.names(imagenet.CLASSES)
    )
    ids = functools.partial(predict.Predictor.ids, network)
    assert ids("tench,maillot, tank suit,n03126707,7") == [0, 639, 517, 7]
    assert ids(["maillot", 999, "n02012849"]) == [638, 999, 134] and ids("maillot") == [638]
    assert ids([]) == []
    for wrong, message in (
        ("tensh", r"--class=tensh: neither .* from 0 to 999; the nearest are tench, "),
        ("1000", "--class=1000: neither a class nor a number from 0 to 999"),
        ("crane", r"--class=crane: these are 134 \(n02012849\) and 517 \(n03126707\): give"),
        ("tench,", "--class=: neither"),
    ):
        with tiny.refused(message, "class"):
            ids(wrong)
    digits = types.SimpleNamespace(classes=("1", "0"), names=["1", "0"])
    assert predict.Predictor.ids(digits, "0,1") == [1, 0]  # a name comes before a number


@pytest.mark.slow
def test_maps_of_chosen_classes(runs, picture: Image.Image) -> None:
    predictor = predict.Predictor(*runs)
    maps = predictor.maps([picture, np.asarray(picture)[:, ::-1]])
    assert maps.shape == (2, 3, 3, 3) and maps.dtype == np.float32
    logits = []
    for i, normalization in enumerate(("symmetric", "unit")):
        config = tiny.config(*CONFIG)
        view = jnp.asarray(cropping.Views((1,), PX, 40, "short").of(picture))
        x = pixels.normalize(view, method=normalization)
        logits.append(tiny.logits(GoogLeNet(**config.model), tiny.variables(config, i), x)[0])
    np.testing.assert_allclose(maps[0].mean((1, 2)), np.mean(logits, 0), rtol=1e-4, atol=1e-5)
    chosen = predictor.maps([picture], classes=["colour 2", 0])
    np.testing.assert_array_equal(chosen[0], maps[0, [2, 0]])
    with pytest.raises(UserError, match="give a list of pictures"):
        predictor.maps(picture)
    (listed,) = predictor([picture], classes="2,colour 1")
    (ranked,) = predictor([picture])
    assert [c["id"] for c in listed["classes"]] == [2, 1]
    assert all(c in ranked["classes"] for c in listed["classes"])


@pytest.mark.slow
def test_maps_of_chosen_classes_as_files(runs, picture: Image.Image, tmp_path, capfd) -> None:
    picture.save(tmp_path / "one.png")
    (tmp_path / "cam").mkdir()
    (tmp_path / "cam/one.npy").touch()  # kept
    args = [f"--checkpoint={runs[0]}", f"--cam={tmp_path}/cam", "--class=2,colour 0", "--raw"]
    status, out, err = command(capfd, *args, "--json", str(tmp_path / "one.png"))
    (prediction,) = json.loads(out)["predictions"]
    assert status == 0 and f"1 maps: {tmp_path}/cam" in err
    assert [c["name"] for c in prediction["classes"]] == ["colour 2", "colour 0"]
    assert prediction["cam"] == f"{tmp_path}/cam/one-2.png"
    assert prediction["raw"] == f"{tmp_path}/cam/one-2.npy"
    sheet = Image.open(prediction["cam"])
    assert sheet.size == (3 * 224 + 2 * 4, 224 + cam.CAPTION_PX)
    maps = np.load(prediction["raw"])
    np.testing.assert_array_equal(
        maps, predict.Predictor(runs[0]).maps([picture], classes=[2, 0])[0]
    )
    assert maps.dtype == np.float32
    for wrong, message in (
        (["--class=color 2"], "--class=color 2: neither a class nor a number from 0 to 2"),
        (["--cam=", "--class=2"], "--raw goes with --cam=DIR"),
    ):
        status, _, err = command(capfd, *args, *wrong, str(tmp_path / "one.png"))
        assert status and message in err and len(err.splitlines()) == 1


@pytest.mark.slow
def test_drawn_maps(runs, picture: Image.Image, tmp_path, capfd) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        picture.save(tmp_path / folder / "one.png")
    picture.save(tmp_path / "b" / "one-2.png")
    args = [f"--checkpoint={','.join(runs)}", f"--cam={tmp_path}/cam", "--topk=2", "--json"]
    status, out, _ = command(capfd, *args, str(tmp_path / "a"), str(tmp_path / "b"))
    drawn = [pathlib.Path(p["cam"]) for p in json.loads(out)["predictions"]]
    assert status == 0 and len(set(drawn)) == 3 and drawn[0].name == "one.png"
    sheet = Image.open(drawn[0])
    assert sheet.size == (3 * 224 + 2 * 4, 224 + cam.CAPTION_PX)
    tiles = [np.asarray(sheet)[:224, i * 228 : i * 228 + 224] for i in range(3)]
    assert all((a != b).any() for a, b in itertools.pairwise(tiles))
    # Once more, and among the pictures themselves: nothing that is there is drawn over.
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    for cams in (tmp_path / "cam", tmp_path / "b"):
        status, out, err = command(capfd, *args, f"--cam={cams}", str(tmp_path / "b"))
        assert status == 0 and f"2 maps: {cams}" in err
        again = {pathlib.Path(p["cam"]) for p in json.loads(out)["predictions"]}
        assert len(again) == 2 and not again & before.keys()
    assert all(path.read_bytes() == data for path, data in before.items())


def test_a_picture_that_went_is_not_drawn(runs, picture: Image.Image, tmp_path) -> None:
    predictor = predict.Predictor(runs[0])
    picture.save(tmp_path / "one.png")
    (prediction,) = predictor([tmp_path / "one.png"])
    (tmp_path / "one.png").unlink()
    with pytest.raises(UserError, match=r"one\.png: No such file"):
        predictor.draw(prediction)


def test_heat_is_blue_where_low_and_red_where_high() -> None:
    sheet = cam.draw(np.zeros((224, 224, 3), np.uint8), np.array([[[0.0, 1.0]]]), ["x" * 99, "y"])
    left, right = (np.asarray(sheet)[100, 228 + x].astype(int) for x in (3, 220))
    assert left[2] > left[0] and right[0] > right[2]


def test_maps_of_a_picture_share_one_range() -> None:
    """A class that was hardly seen is not as red as the winner."""
    maps = np.stack([np.linspace(0, 1, 9).reshape(3, 3), np.full((3, 3), 0.1)])
    sheet = np.asarray(cam.draw(np.zeros((224, 224, 3), np.uint8), maps, ["", "a", "b"])).astype(
        int
    )
    winner, other = sheet[:224, 228:452], sheet[:224, 456:]
    assert (winner[..., 0] - winner[..., 2]).max() > 50 > (other[..., 0] - other[..., 2]).max()


def test_names_are_words_for_wordnet_ids_alone() -> None:
    assert imagenet.names(("n01440764", "bee")) == ["tench", "bee"]
