"""The run page; the whole of it is made in tests/test_train.py and tests/cli/test_cli.py."""

import os
import types

import numpy as np

from inception.reporting import figures, page, table


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
