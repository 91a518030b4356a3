"""Every command of the pages and experiments has flags and knobs that are; the pages' lines run.

On small networks and few images; trainings that differ in folders or seeds alone are copied, sweeps and
jobs elsewhere end with the plan. Lines with "..." are not looked at. `make test` runs this file where
requirements.txt alone is installed: there a line that needs an extra must end with the extra's name.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import shlex
import shutil
from collections.abc import Iterator

import jax
import pytest

import launch
from docs import generate
from inception.cli.flags import BASE_CONFIG
from inception.cli.main import COMMANDS, module
from inception.config import experiment, load_config
from inception.runtime import checkpoint
from inception.tools import inspect_sections
from tests import tiny
from tests.formats import test_pretrained, test_slim

ROOT = pathlib.Path(__file__).parents[1]
DOCS = sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)
PAGES = [ROOT / "README.md", *DOCS, *sorted((ROOT / "experiments").glob("[!_]*.py"))]
SMALL = [
    "--config.model.width=0.05", "--config.model.norm=none", "--config.model.heads=false", "--config.model.dtype=float32",
    "--config.input_px=33", "--config.data.resize_px=33", "--config.optim.batch_size=8", "--config.optim.warmup_epochs=0",
    "--config.run.eval_batch_size=8", "--config.run.workers=2", "--config.optim.learning_rate=1e-4",
    "--config.optim.min_epoch_steps=0", "--config.run.checkpoint_every_epochs=0.5",
]  # fmt: skip
FOLDER = [
    "--config.data.source=folder",
    "--config.data.path=PHOTOS",
    "--config.data.eval_split=val",
]


def commands(page: pathlib.Path, *, inline: bool = False) -> list[list[str]]:
    """What follows `python launch.py` in lines that are set as commands, or in words too; whole ones."""
    text = page.read_text().replace("--config=FILE", "--config=experiments/dead_trunk.py")
    text = re.sub(r"(?<=,)\\\n", "", text)
    text = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"^    python launch\.py (\S.*)$", text, re.MULTILINE)
    if inline:
        found += re.findall(r"`python launch\.py ([^`\n]+)`", text)
    split = [shlex.split(line, comments=True) for line in found if "..." not in line]
    return [argv for argv in split if argv]


def python(page: pathlib.Path) -> list[str]:
    """The page's blocks of Python."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.DOTALL)


def name(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT).with_suffix(""))


LONG = tuple(
    f"docs/how-to/{page}" for page in ("imagenet", "recipes", "speed", "variants")
)  # minutes each
RUN = [
    pytest.param(p, marks=pytest.mark.faults if name(p) in LONG else pytest.mark.slow)
    for p in PAGES
    if p.parent != ROOT / "experiments" and commands(p)
]


@pytest.mark.parametrize("page", [p for p in PAGES if p.suffix == ".md"], ids=name)
def test_pages_are_short_and_link_to_files(page: pathlib.Path) -> None:
    text = page.read_text()
    if page.parent.name != "notes":
        assert len(text.splitlines()) <= (130 if page.name == "README.md" else 200)
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link


def write_mine(folder: pathlib.Path) -> None:
    """mine/sized.py of docs/how-to/variants.md."""
    (folder / "mine").mkdir()
    blocks = python(ROOT / "docs/how-to/variants.md")
    (folder / "mine/sized.py").write_text(next(block for block in blocks if "size: str" in block))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_flag_and_knob_is_there(page: pathlib.Path, tmp_path, monkeypatch) -> None:
    write_mine(tmp_path)
    monkeypatch.chdir(tmp_path)

    def check(args, overrides: list[str]) -> dict:
        if args.takes_knobs:
            own = getattr(args, "config", None) or BASE_CONFIG
            if args.command == "plan" and args.images:
                overrides = [*overrides, "--config.data.path=x"]
            config = load_config(own, overrides)
            if args.command == "sweep":
                defined = experiment(own)
                name = f"sweep_{args.sweep}" if args.sweep else "sweep"
                assert name in defined or args.search, name
            if args.command == "train" and config.data.source == "digits":
                assert config.model.classes == 10, "base.py has no data of its own"
        return {"rejected": [], "unwritten": []}

    for name in COMMANDS:
        monkeypatch.setattr(module(name), "run", check)
    for argv in commands(page, inline=True):
        assert launch.main(argv) == 0, argv


@pytest.mark.parametrize("path", ["docs/reference/commands.md", "docs/reference/knobs.md"])
def test_generated_pages_are_current(path: str) -> None:
    assert (ROOT / path).read_text() == generate.pages()[path], "run: python docs/generate.py"


@pytest.fixture
def network(page: pathlib.Path) -> Iterator[None]:
    """A short one, except where a page audits it."""
    audits = page.stem in ("network", "variants")
    with contextlib.nullcontext() if audits else tiny.short_network(*tiny.WITH_POOLS):
        yield


def make_sets(photos: pathlib.Path, root: pathlib.Path) -> None:
    """What docs/how-to/sets.md names: small sets of pictures in which check-data finds nothing."""
    files = [
        p for p in sorted(photos.glob("*/*")) if p.name not in ("2.jpeg", "5.png")
    ]  # CMYK, 16 bits
    val, kaggle = root / "ILSVRC2012_img_val", root / "ILSVRC/Data/CLS-LOC"
    for folder in (val, kaggle):
        folder.mkdir(parents=True)
    for file in files:
        shutil.copy(file, val / f"{file.parent.name}_{file.name}")
    for copy in (root / "PICTURES", kaggle / "val"):
        shutil.copytree(val, copy)
    shutil.copytree(photos, kaggle / "train")
    shutil.copytree(photos, root / "imagenet-r", ignore=lambda *_: ["bee"])
    names = [(f"{p.parent.name}_{p.name}", p.parent.name) for p in files]
    number = {"ant": 0, "bee": 1, "cat": 2}
    for name, i in number.items():
        shutil.copytree(photos / name, root / f"imagenetv2-matched-frequency-format-val/{i}")
    texts = {
        "LOC_val_solution.csv": ["ImageId,PredictionString"]
        + [f"{n[:5]},{c} 1 2 3 4" for n, c in names],
        "val.txt": [f"{n} {number[c]}" for n, c in names],
        "labels.csv": ["file,label"] + [f"{n},{c}" for n, c in names],
        "real.json": [json.dumps([[number[c], 2] for _, c in names])],
    }
    for name, lines in texts.items():
        (root / name).write_text("\n".join(lines))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the files of weights that the pages name, and weights/bvlc, random ones."""
    root = tmp_path_factory.mktemp("files")
    with tiny.short_network(*tiny.WITH_POOLS):
        test_pretrained.caffemodel(root / "bvlc_googlenet.caffemodel", heads=False)
        weights = test_pretrained.state_dict(heads=False)
        test_pretrained.save(weights, root / "googlenet-1378be20.safetensors")
        test_pretrained.zoo_file(root / "googlenet-12.onnx")
        test_slim.v1(root / "inception_v1.ckpt", test_slim.variables())
        (root / "weights").mkdir()
        published = load_config(str(ROOT / BASE_CONFIG), [*SMALL, *FOLDER])
        published.model.update(heads=False, classes=5)
        published.data.normalization = "mean"
        bvlc = tiny.write_run(root / "weights/bvlc", published)
        checkpoint.write_classes(bvlc, ("ant", "bee", "cat", "dog", "eel"))
    return root


@pytest.fixture
def world(
    files: pathlib.Path,
    network,
    page: pathlib.Path,
    photos: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[pathlib.Path]:
    """A folder with `files`, and the photos and pictures that the pages name."""
    photos.rename(tmp_path / "PHOTOS")
    for name in ("FLOWERS", "PHOTOS500"):
        (tmp_path / name).symlink_to("PHOTOS")
    if page.stem == "sets":
        make_sets(tmp_path / "PHOTOS", tmp_path)
    (tmp_path / "holiday").mkdir()
    for name in ("PICTURE", "cat.jpg", "holiday/1.jpg"):
        shutil.copy(tmp_path / "PHOTOS/ant/0.jpeg", tmp_path / name)
    for file in filter(pathlib.Path.is_file, files.iterdir()):
        (tmp_path / file.name).symlink_to(file)
    shutil.copytree(files / "weights", tmp_path / "weights")
    (tmp_path / "list.txt").write_text("cat.jpg\n")
    write_mine(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, few in {"FEATURE_PX": 32, "FEATURE_STEPS": 2, "MAPPED": 1}.items():
        monkeypatch.setattr(inspect_sections, name, few)
    monkeypatch.setattr("inception.inspection.passes.BATCH", 30)  # one shape, one program
    before = jax.config.values["jax_numpy_dtype_promotion"]
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # as users have it
    yield tmp_path
    jax.config.update("jax_numpy_dtype_promotion", before)


def small(argv: list[str]) -> list[str]:
    """The same on few images; of sweeps and of jobs elsewhere the plan."""
    replaced = {
        "--source=DATA": "--source=PHOTOS",
        "--output=weights/bvlc": "--output=weights/caffe",
        "--last=5": "--last=2",
    }
    argv = [replaced.get(a, a).replace(".pth", ".safetensors") for a in argv]
    argv = ["--config.model.classes=3" if "model.classes=" in a else a for a in argv]
    if argv[0] in ("train", "plan", "bench"):
        argv += [a for a in SMALL if argv[0] == "train" or "batch_size" not in a]
    if argv[0] == "train":
        digits = any("digits" in a for a in argv)
        argv += [f"--config.optim.epochs={0.02 if digits else 1}"]
    if "--config.data.path=DATA" in argv:
        argv += [*FOLDER, "--config.model.classes=3"][: 4 if argv[0] in ("train", "bench") else 3]
    if "--config.data.source=store" in argv and argv[0] in ("train", "bench"):
        argv += ["--config.data.eval_split=val", "--config.model.classes=3"]
    if argv[0] == "inspect":
        argv.append("--layers=4a")
    if argv[0] == "sweep" or any(a.startswith("--on=") for a in argv):
        argv.append("--dry_run")
    return argv


TRAINED: dict[frozenset[str], pathlib.Path] = {}  # by what a run depends on
ONCE: set[tuple[str, ...]] = set()  # lines that read and write nothing, and stand on several pages


def train(argv: list[str]) -> int:
    """Runs it, or copies the run that differs from it in folders and seeds alone."""
    (workdir,) = (pathlib.Path(a[10:]) for a in argv if a.startswith("--workdir="))
    same = frozenset(a for a in argv if not re.search(r"workdir|seed|data\.path", a))
    if same in TRAINED and not workdir.exists():
        shutil.copytree(TRAINED[same], workdir)
        return 0
    if not (status := launch.main(argv)):
        TRAINED[same] = workdir.resolve()
    return status


def supply(argv: list[str]) -> None:
    """The runs and studies that a command reads and the page did not make: copies of its last, or of weights/bvlc."""
    paths = [name for a in argv if a.startswith("runs/") for name in a.split(",")]
    for a in argv:
        if a.startswith(("--checkpoints=", "--config.distill.teacher=")):
            paths += a.split("=", 1)[1].split(",")
    paths += [
        a.removeprefix("--workdir=")
        for a in argv
        if a.startswith("--workdir=runs/") and argv[0] == "eval"
    ]
    runs = sorted(pathlib.Path("runs").glob("*/config.json"), key=os.path.getmtime)
    made = [pathlib.Path("weights/bvlc/config.json"), *runs]
    if argv[0] == "report" and not runs:
        assert launch.main(["eval", "--workdir=weights/bvlc"]) == 0  # a report is of evaluated ones
    for path in map(pathlib.Path, paths):
        if not path.exists():
            point = path / "0" if argv[0] == "report" else path
            shutil.copytree(made[-1].parent, point)
            (point.parent / "study.json").touch()
            (point.parent / "worker").mkdir(exist_ok=True)


NEEDING = (
    "--search=",
    "--workdir=gs://BUCKET/runs/ensemble",
)  # tested in test_study.py, test_sky.py
EXTRAS = {
    "--output=googlenet.onnx": "export",
    "--int8": "export",
    "--tars=TARS": "prepare",
    "--topology": "compile",
}
MODULES = {"export": "onnx", "prepare": "tensorflow", "compile": "libtpu"}


def extra_of(argv: list[str]) -> str:
    """The extra that a line needs."""
    return next((e for flag, e in EXTRAS.items() if any(a.startswith(flag) for a in argv)), "")


@pytest.mark.parametrize("page", RUN, ids=name)
def test_the_commands(page: pathlib.Path, world: pathlib.Path, capfd) -> None:
    """First what makes stores and runs, then what reads them; then the page's Python."""
    if page.stem == "export":
        shutil.copytree("weights/bvlc", "runs/imagenet")
    makes, printed = ("prepare", "train"), ""
    for argv in sorted(commands(page), key=lambda argv: (*makes, argv[0]).index(argv[0])):
        if any(a.startswith(NEEDING) for a in argv):
            continue
        supply(argv)
        argv, extra = small(argv), extra_of(argv)
        if tuple(argv) in ONCE:
            continue
        if argv[0] in ("audit", "bench", "plan"):
            ONCE.add(tuple(argv))
        run = train if argv[0] == "train" and "--dry_run" not in argv else launch.main
        status, (out, error) = run(argv), capfd.readouterr()
        printed += out
        if extra and not importlib.util.find_spec(MODULES[extra]):
            assert status == 1 and f"pip install -c requirements.txt -e '.[{extra}]'" in error
        else:
            assert status == 0, error
    if page.stem != "export":  # whose file test_export.py reads
        for block in python(page):
            exec(block, {})
    if page.stem == "sweeps":
        assert len(pathlib.Path("heads.csv").read_text().splitlines()) == 2
    if page.stem == "evaluate":
        assert len(pathlib.Path("top5.jsonl").read_text().splitlines()) == 6
    if page.stem == "prepare":
        assert json.loads(pathlib.Path("runs/stored/result.json").read_text())["steps"] == 3
    if page.stem == "imagenet":
        assert re.search(r"^\W*7 +144 ", printed, re.MULTILINE), printed
