"""Every command of the pages and experiments has flags and knobs that are; those of the pages run."""

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
from inception import checkpoint, configs
from tests import tiny
from tests.conftest import write_photos

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "experiments").glob("[!_]*.py"))
# With tests of their own, as `prepare` from tars and searches have: test_prepare.py, test_study.py.
ELSEWHERE = ("convert", "bench", "plan", "export")
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """With the photos and pictures that the pages name, and random weights in weights/bvlc."""
    root = tmp_path_factory.mktemp("world")
    write_photos(root / "PHOTOS")
    for name in ("FLOWERS", "PHOTOS500"):
        (root / name).symlink_to("PHOTOS")
    (root / "holiday").mkdir()
    for name in ("PICTURE", "cat.jpg", "holiday/1.jpg"):
        shutil.copy(root / "PHOTOS/ant/0.jpeg", root / name)
    (root / "list.txt").write_text("cat.jpg\n")
    (root / "weights").mkdir()
    published = configs.load_config(str(ROOT / launch.BASE_CONFIG), [*SMALL, *FOLDER])
    published.model.update(heads=False, classes=5)
    published.data.update(normalization="mean", path="PHOTOS")
    bvlc = tiny.write_run(root / "weights/bvlc", published)
    checkpoint.write_classes(bvlc, ("ant", "bee", "cat", "dog", "eel"))
    return root


@pytest.fixture
def world(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """Inside it, and with the promotion of types that users have."""
    monkeypatch.chdir(folder)
    before = jax.config.values["jax_numpy_dtype_promotion"]
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield folder
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


FIRST = "train --config=experiments/photos.py --workdir=runs/photos --config.data.path=PHOTOS"


def supply(argv: list[str]) -> None:
    """The runs and studies that a command reads and the page has not made: copies of one."""
    paths = [a for a in argv if a.startswith("runs/")]
    for a in argv:
        if a.startswith("--checkpoints="):
            paths += a.removeprefix("--checkpoints=").split(",")
    for path in map(pathlib.Path, paths):
        if path.exists():
            continue
        if not pathlib.Path("runs/photos").exists():
            assert launch.main(small([*FIRST.split(), "--config.model.classes=3"])) == 0
        is_study = argv[0] == "report"
        shutil.copytree("runs/photos", path / "0" if is_study else path)
        study = path if is_study else path.parent
        (study / "study.json").touch()
        (study / "worker").mkdir(exist_ok=True)


TRAINED: dict[frozenset[str], str] = {}


def is_trained(argv: list[str]) -> bool:
    """Whether a run is there, or one that differs in its folders and seeds, which is copied."""
    (workdir,) = (a.removeprefix("--workdir=") for a in argv if a.startswith("--workdir="))
    same = frozenset(a for a in argv if not re.search("workdir|seed|data.path", a))
    first = TRAINED.setdefault(same, workdir)
    if first != workdir:
        shutil.copytree(first, workdir)
    return first != workdir


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/guide", "README", "docs/launching", "docs/dead_trunk"])
def test_the_commands_of(page: str, world: pathlib.Path, capfd) -> None:
    for argv in commands(ROOT / f"{page}.md"):
        if argv[0] in ELSEWHERE or {"--output=DATA", "--source=DATA", "--search=50"} & {*argv}:
            continue
        supply(argv)
        argv = small(argv)
        if argv[0] != "train" or "--dry_run" in argv or not is_trained(argv):
            assert launch.main(argv) == 0, capfd.readouterr().err
    if page == "docs/guide":
        text = (ROOT / "docs/guide.md").read_text()
        (example,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        exec(example, {})
        assert len(pathlib.Path("heads.csv").read_text().splitlines()) == 2
        assert len(pathlib.Path("top5.jsonl").read_text().splitlines()) == 6
        assert json.loads(pathlib.Path("runs/stored/result.json").read_text())["steps"] == 3


@pytest.mark.slow
def test_the_way_to_table_3(world: pathlib.Path, capfd) -> None:
    if not pathlib.Path("STORE").exists():
        store = ["--source=PHOTOS", "--output=STORE", "--short_side=256"]
        assert launch.main(["prepare", *store]) == 0
    for argv in commands(ROOT / "docs/reproduce.md"):
        if argv[0] in (*ELSEWHERE, "prepare"):
            continue
        if argv[:2] == ["sweep", "--on=sky"]:  # looks into the bucket: tests/test_sky.py
            continue
        supply(argv)
        assert launch.main(small(argv)) == 0, capfd.readouterr().err
    out = capfd.readouterr().out
    assert re.search(r"^\W*7 +144 ", out, re.MULTILINE), out
