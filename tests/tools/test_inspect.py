"""launch.py inspect: its page, its files and its refusals, on a tiny network."""

import json
import pathlib
from collections.abc import Iterator

import pytest

import launch
from inception.tools import inspect, inspect_sections
from tests import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tiny.short_network("3b", "4b", "4c", "4e", "5a"):
        yield tiny.write_run(tmp_path_factory.mktemp("runs") / "run", tiny.config())


def call(run: str, output: pathlib.Path, *flags: str) -> list[str]:
    return ["inspect", f"--checkpoint={run}", f"--output={output}", *flags, "--json"]


@pytest.mark.slow
def test_the_page_has_every_section_and_its_figures_are_files(
    run: str, photos: pathlib.Path, tmp_path: pathlib.Path, capfd, monkeypatch
) -> None:
    monkeypatch.setattr(inspect_sections, "FEATURE_PX", 32)
    monkeypatch.setattr(inspect_sections, "FEATURE_STEPS", 4)
    monkeypatch.setattr(inspect_sections, "MAPPED", 1)
    monkeypatch.setattr("inception.inspection.passes.BATCH", 30)  # one shape, one program
    for i, name in enumerate(("ant", "bee", "cat")):
        (photos / name).rename(photos / f"colour {i}")
    flags = (
        f"--figures={tmp_path}/figures",
        "--layers=4a",
        "--channels=2",
        "--images",
        str(photos),
    )
    assert launch.main(call(run, tmp_path / "page.html", *flags)) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert result["left_out"] == [] and result["rejected"] == []
    page = (tmp_path / "page.html").read_text()
    for title in ("Features", "Receptive fields", "Scales", "Redundancy", "Gradients",
                  "Where and why", "Sparsity"):  # fmt: skip
        assert f"<h2>{title}</h2>" in page
    assert "agreement" not in page  # folders name the classes
    assert sorted(result["figures"]) == sorted(map(str, (tmp_path / "figures").iterdir()))
    names = {pathlib.Path(file).name for file in result["figures"]}
    assert names >= {"features_4a.png", "energy.svg", "ranks.svg", "gradients_now.svg", "map_0.png"}


@pytest.mark.slow
def test_without_pictures_it_says_what_is_left_out(
    run: str, tmp_path: pathlib.Path, capfd, monkeypatch
) -> None:
    monkeypatch.setattr(inspect_sections, "FEATURE_PX", 32)
    monkeypatch.setattr(inspect_sections, "FEATURE_STEPS", 2)
    page = tmp_path / "page.html"
    assert launch.main(call(run, page, "--layers=conv2", "--channels=1")) == 0
    (line,) = json.loads(capfd.readouterr().out)["left_out"]
    assert "without pictures there are no branches, reductions" in line and "--images=PATH" in line
    assert "<h2>Receptive fields</h2>" in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--layers=4a/3X3"], "--layers=4a/3X3: there is no such layer; the nearest is 4a/3x3"),
        (["--layers=classifier"], "--layers=classifier has no positions"),
        (["--images", "nowhere.jpg"], "nowhere.jpg"),
        (["--figures=."], "--figures=. is not empty"),
    ],
)
def test_wrong_arguments_end_in_one_line(
    run: str, tmp_path: pathlib.Path, capfd, monkeypatch, flags: list[str], said: str
) -> None:
    monkeypatch.setattr(inspect_sections, "FEATURE_STEPS", 1)
    monkeypatch.setattr(inspect, "features", lambda _: pytest.fail("work before the check"))
    (tmp_path / "mine.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert launch.main(call(run, tmp_path / "page.html", *flags)) in (1, 2)
    assert said in capfd.readouterr().err.splitlines()[-1]


def test_a_page_of_another_kind_is_not_replaced(run: str, tmp_path: pathlib.Path, capfd) -> None:
    (tmp_path / "page.html").write_text("mine")
    assert launch.main(call(run, tmp_path / "page.html", "--layers=4a")) == 1
    assert "a file of another kind exists" in capfd.readouterr().err
    assert (tmp_path / "page.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("path", "label"),
    [("x/bee/1.png", 1), ("x/cat_3.JPEG", 2), ("bee.png", None), ("ant/cat_1.png", 0)],
)
def test_a_pictures_class_is_its_folders_or_the_beginning_of_its_name(path: str, label) -> None:
    assert inspect.label_of(path, ("ant", "bee", "cat")) == label
