"""The run page; the whole of it is made in tests/test_train.py and tests/cli/test_cli.py."""

import os
import pathlib
import types

import numpy as np
import pytest

from inception.data import pipeline
from inception.reporting import figures, page, table
from tests import tiny


def test_wordnet_ids_are_shown_as_words() -> None:
    classes = ["n01440764", *(f"class{i}" for i in range(page.MOST_CELLS))]  # a table, no figure
    shown = page._confusion({"classes": classes, "confusion": [[0, 1, 3], [1, 1, 2]]})
    assert "tench" in shown and "class0" in shown and "n01440764" not in shown


def test_any_names_of_classes_and_runs_are_drawn() -> None:
    """Of a file system in Latin-1, of a locale without UTF-8, of a shop."""
    names = [os.fsdecode(b"ros\xe9"), "\udcc3\udca9pine", "$5_$10 {bill"]
    drawn = figures.confusion_matrix(np.eye(3, dtype=int), names)
    drawn += figures.curves([(name, lambda *_: ([1.0, 2.0], [1.0, 2.0])) for name in names])
    drawn += figures.bars([(name, 1.0) for name in names], "ms", "time")
    assert figures.drawable(names[1]) == "épine" and drawn.count("<svg") == 2 + len(figures.PANELS)
    drawn.encode()


def test_a_line_of_the_table_names_no_folder_of_this_machine() -> None:
    command = "python launch.py train --config experiments/finetune.py --workdir=/a/run"
    command += " --config.data.path=/a/photos --config.init_from=/a/bvlc/ --config.seed=1"
    start = {"command": command + " --config.optim.epochs=2"}
    assert table._flags(types.SimpleNamespace(kind=lambda _: [start])) == [
        "--config=experiments/finetune.py",
        "--config.data.path=DATA",
        "--config.init_from=bvlc/",
        "--config.optim.epochs=2",
    ]


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("inception train --config=digits --workdir=a", ["--config=digits"]),
        ("a script that calls inception.train.run", []),
        ("", []),
    ],
)
def test_flags_of_a_run_however_it_was_started(command: str, flags: list[str]) -> None:
    assert table._flags(types.SimpleNamespace(kind=lambda _: [{"command": command}])) == flags


def run_with(result: dict | None) -> types.SimpleNamespace:
    series = {"images_per_second": [80.0, 82.0, 81.0], "top1": [0.5]}
    start = {"kind": "start", "step": 0, "command": "python launch.py train --workdir=runs/a"}
    return types.SimpleNamespace(
        workdir="runs/my a", name="a", result=result, metrics=[start, {"kind": "train", "step": 9}],
        kind=lambda kind: [start] if kind == "start" else [],
        series=lambda _, key: ([1.0], series[key]),
    )  # fmt: skip


def test_the_first_lines_say_how_well_how_fast_and_what_next() -> None:
    result = {
        "top1_error": 1.25,
        "top5_error": 0.0,
        "count": 1360,
        "split": "test",
        "classes": ["0"] * 10,
    }
    shown = page._summary([run_with(result)])
    assert "<b>98.75%</b> top-1 accuracy, 100.00% top-5 on 1,360 images of split test" in shown
    assert "Finished: 9 steps, 81.0 images/s" in shown
    assert "predict --checkpoint=&#x27;runs/my a&#x27; --cam=maps PICTURE" in shown
    few = page._summary([run_with({**result, "classes": ["0"] * 3})])
    assert "top-5" not in few
    begun = page._summary([run_with(None)])
    assert "Not finished: step 9, 81.0 images/s (median); top-1 accuracy 50.00% so far" in begun
    assert "<pre>python launch.py train --workdir=runs/a</pre>" in begun


def test_a_panel_without_a_value_is_not_drawn() -> None:
    drawn = figures.curves(
        [("a", lambda _, key: ([1.0], [0.004 if key == "waiting_for_data" else 1.0]))]
    )
    at_chance = [("a", lambda *_: ([1.0], [0.001]))]
    assert "Accuracy per head" in figures.curves(at_chance)
    assert "Waiting for data" not in drawn and drawn.count("<svg") == len(figures.PANELS) - 1


def test_mistakes_stand_by_class_after_its_best_and_link_to_their_files(
    photos: pathlib.Path,
) -> None:
    config = tiny.config("--config.data.source=folder", f"--config.data.path={photos}")
    source = pipeline.open_split(config, "val")

    def described(index: int, guess: int) -> dict:
        guesses = [[guess, 0.9], [(guess + 1) % 3, 0.1]]
        return {"index": index, "name": source.name(index), "label": index // 2, "guesses": guesses}

    result = {
        "split": "val", "classes": list(source.classes), "best": [described(0, 0)],
        "mistakes": [described(3, 2), described(1, 2)],
    }  # fmt: skip
    shown = page._mistakes(config, result)
    rows = shown.split('<div class="mistakes">')[1:]
    assert ['class="best"' in row for row in rows] == [False, True]
    assert "bee: guessed cat 90%, ant 10%" in rows[0] and "ant: guessed ant 90%" in rows[1]
    assert pathlib.Path(source.name(3)).as_uri() in rows[0] and shown.count("<img") == 3
    without = {k: v for k, v in result.items() if k != "best"}  # an older run
    assert 'class="best"' not in page._mistakes(config, without)
