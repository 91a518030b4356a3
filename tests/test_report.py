"""The run page; the whole of it is made in tests/test_train.py and tests/test_launch.py."""

from inception import report


def test_wordnet_ids_are_shown_as_words() -> None:
    classes = ["n01440764", *(f"class{i}" for i in range(report.MOST_CELLS))]  # a table, no figure
    page = report._confusion({"classes": classes, "confusion": [[0, 1, 3], [1, 1, 2]]})
    assert "tench" in page and "class0" in page and "n01440764" not in page
