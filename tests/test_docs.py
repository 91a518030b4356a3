"""Every command of the pages and experiments has flags and knobs that are; the guides' run."""

import functools
import json
import pathlib
import re
import shlex
import shutil
from collections.abc import Iterator

import jax
import pytest

import launch
from inception import configs
from tests import tiny

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "experiments").glob("[!_]*.py"))
ELSEWHERE = ("convert", "bench", "plan")  # test_pretrained.py, test_bench.py, test_cost.py
SMALL = [
    "--config.model.width=0.05", "--config.model.dtype=float32", "--config.input_px=65",
    "--config.data.resize_px=65", "--config.optim.batch_size=8", "--config.optim.warmup_epochs=0",
    "--config.run.eval_batch_size=8", "--config.run.workers=2", "--config.optim.learning_rate=1e-4",
]  # fmt: skip
FOLDER = [
    "--config.data.source=folder",
    "--config.data.path=PHOTOS",
    "--config.data.eval_split=val",
]


def commands(page: pathlib.Path) -> list[list[str]]:
    """What follows `python launch.py` in lines, or in words, that are set as commands, whole ones."""
    text = re.sub(r"(?<=,)\\\n", "", page.read_text())
    text = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"^    python launch\.py (\S.*)$", text, re.MULTILINE)
    found += re.findall(r"`python launch\.py ([^`\n]+)`", text)
    split = [shlex.split(line, comments=True) for line in found if "..." not in line]
    return [argv for argv in split if argv and "--config=FILE" not in argv]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_flag_and_knob_is_there(page: pathlib.Path, monkeypatch) -> None:
    def check(args, overrides: list[str]) -> dict:
        if args.takes_config:
            own = getattr(args, "config", None) or launch.BASE_CONFIG
            if args.command == "plan" and args.images:
                overrides = [*overrides, "--config.data.path=x"]
            config = configs.load_config(own, overrides)
            if args.command == "sweep":
                defined = configs.experiment(own)
                name = f"sweep_{args.sweep}" if args.sweep else "sweep"
                assert name in defined or args.search, name
            if args.command == "train" and config.data.source == "digits":
                assert config.model.classes == 10, "base.py has no data of its own"
        return {"rejected": [], "unwritten": []}

    names = {"train", "eval", "predict", "sweep", "prepare", "convert", "export", "report"}
    for name in names | {"audit", "bench", "plan"}:
        attribute = "evaluate" if name == "eval" else name
        monkeypatch.setattr(launch, attribute, functools.partial(check))
    for argv in commands(page):
        assert launch.main(argv) == 0, argv


@pytest.fixture
def world(
    photos: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pathlib.Path]:
    """A folder with PHOTOS, a PICTURE, and in weights/bvlc a network of random weights."""
    photos.rename(tmp_path / "PHOTOS")
    shutil.copy(tmp_path / "PHOTOS/ant/0.jpeg", tmp_path / "PICTURE")
    (tmp_path / "weights").mkdir()
    published = configs.load_config(str(ROOT / launch.BASE_CONFIG), [*SMALL, *FOLDER])
    published.model.update(heads=False, classes=5)
    published.data.normalization = "mean"
    tiny.write_run(tmp_path / "weights/bvlc", published)
    monkeypatch.chdir(tmp_path)
    before = jax.config.values["jax_numpy_dtype_promotion"]
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # as users have it
    yield tmp_path
    jax.config.update("jax_numpy_dtype_promotion", before)


def small(argv: list[str]) -> list[str]:
    """The same on few images; of sweeps and of jobs elsewhere the plan."""
    argv = ["--config.model.classes=3" if "model.classes=" in a else a for a in argv]
    if argv[0] == "train":
        digits = any("digits" in a for a in argv)
        argv += [*SMALL, f"--config.optim.epochs={0.02 if digits else 1}"]
        if "--config.data.path=DATA" in argv:
            argv += [*FOLDER, "--config.model.classes=3"]
        if "--config.data.source=store" in argv:
            argv += ["--config.data.eval_split=val", "--config.model.classes=3"]
    if argv[0] == "eval" and "--config.data.path=DATA" in argv:
        argv += FOLDER
    if argv[0] == "sweep" or any(a.startswith("--on=") for a in argv):
        argv.append("--dry_run")
    return argv


def study_of(run: str, folder: str, points: int) -> None:
    """What a sweep leaves, the same run for each of its points."""
    for point in range(points):
        shutil.copytree(run, f"{folder}/{point}")
    (pathlib.Path(folder) / "study.json").touch()
    (pathlib.Path(folder) / "worker").mkdir()


@pytest.mark.slow
def test_the_guide(world: pathlib.Path, capfd) -> None:
    for argv in commands(ROOT / "docs/guide.md"):
        if argv[0] in ELSEWHERE:
            continue
        if "--workdir=runs/photos2" in argv:  # of another seed: another half a minute
            shutil.copytree("runs/photos", "runs/photos2")
            continue
        if argv[0] == "report" and "runs/heads" in argv:
            study_of("runs/photos", "runs/heads", 1)
        assert launch.main(small(argv)) == 0, capfd.readouterr().err
    page = (ROOT / "docs/guide.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(example, {})
    assert len(pathlib.Path("heads.csv").read_text().splitlines()) == 2
    assert len(pathlib.Path("top5.jsonl").read_text().splitlines()) == 6
    assert json.loads(pathlib.Path("runs/stored/result.json").read_text())["steps"] == 3


@pytest.mark.slow
def test_the_way_to_table_3(world: pathlib.Path, capfd) -> None:
    store = ["--source=PHOTOS", "--output=STORE", "--short_side=256"]
    assert launch.main(["prepare", *store]) == 0
    for argv in commands(ROOT / "docs/reproduce.md"):
        if argv[0] in (*ELSEWHERE, "prepare"):  # of tars: tests/test_prepare.py
            continue
        if argv[:2] == ["sweep", "--on=sky"]:  # looks into the bucket: tests/test_sky.py
            continue
        if argv[0] == "eval" and any("runs/ensemble" in a for a in argv):
            study_of("runs/paper", "runs/ensemble", 7)
        assert launch.main(small(argv)) == 0, capfd.readouterr().err
    out = capfd.readouterr().out
    assert re.search(r"^\W*7 +144 ", out, re.MULTILINE), out
