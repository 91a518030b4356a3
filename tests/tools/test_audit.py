"""The audit's numbers against the paper's and those computed by hand from its table."""

import pytest

from inception.model import GoogLeNet
from inception.tools import audit
from inception.tools.text import to_text

PARAMS = {
    "conv1": 9_472, "conv2": 114_944, "3a": 163_696, "3b": 388_736, "4a": 376_176, "4b": 449_160,
    "4c": 510_104, "4d": 605_376, "4e": 868_352, "5a": 1_043_456, "5b": 1_444_080,
    "linear": 1_025_000, "head 4a": 3_188_840, "head 4d": 3_190_888,
}  # fmt: skip
MACS_M = {
    "conv1": 118.0, "conv2": 359.7, "3a": 128.0, "3b": 304.3, "4a": 73.6, "4b": 87.9, "4c": 99.9,
    "4d": 118.5, "4e": 170.0, "5a": 51.1, "5b": 70.7, "linear": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def result() -> dict:
    return audit.audit(GoogLeNet(), input_px=224)


def test_rows(result: dict) -> None:
    assert {row["name"]: row["params"] for row in result["rows"]} == PARAMS
    macs = {row["name"]: round(row["macs"] / 1e6, 1) for row in result["rows"]}
    assert {name: macs[name] for name in MACS_M} == MACS_M


def test_rows_have_the_papers_output_sizes(result: dict) -> None:
    outputs = {row["name"]: row["output"] for row in result["rows"]}
    paper = "112x112x64 56x56x192 28x28x256 28x28x480 14x14x512 14x14x512 14x14x512 14x14x528 "
    paper += "14x14x832 7x7x832 7x7x1024 1000"
    assert list(outputs.values())[:12] == paper.split()


def test_totals(result: dict) -> None:
    total = result["total"]
    assert total["params"] == 6_998_552
    assert total["params_with_heads"] == 13_378_280
    assert total["params_without_biases"] == 6_991_272
    assert round(total["macs"] / 1e9, 3) == 1.583
    assert total["params_paper"] == 6_797_700


def test_every_large_difference_from_the_paper_is_explained(result: dict) -> None:
    for row in result["rows"]:
        if row["params_paper"] is None:
            continue
        # The paper counts in units of 1024, without biases, and rounds.
        biases = {"conv1": 64, "conv2": 256, "linear": 1000}.get(row["name"])
        params = row["params"] / 1024 * 1e3 if biases is None else (row["params"] - biases) / 1.024
        off = abs(params - row["params_paper"]) > 0.025 * row["params_paper"]
        off |= abs(row["macs"] - row["macs_paper"]) > 0.025 * row["macs_paper"]
        off &= row["name"] != "linear"  # 1M is rounded from 1.02M
        assert off <= bool(row["note"]), row


def test_worked_examples(result: dict) -> None:
    first, second = result["examples"]
    assert first["macs"] == 28 * 28 * 32 * 25 * 192  # 120.4M
    assert round(first["macs_reduced"] / 1e6, 1) == 12.4
    assert (second["weights"], second["weights_reduced"]) == (819_200, 208_896)


def test_naive_modules_cost_more_everywhere(result: dict) -> None:
    naive = {m["name"]: m for m in result["modules"]}
    assert list(naive) == ["3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]
    by_hand = 28 * 28 * 192 * (64 + 9 * 128 + 25 * 32)
    assert naive["3a"]["macs_naive"] == by_hand
    assert all(m["macs_naive"] > 2 * m["macs"] for m in naive.values())


def test_text_has_every_number(result: dict) -> None:
    text = to_text(result)
    for number in ("6,998,552", "13,378,280", "6,991,272", "1,043,456", "120,422,400", "208,896"):
        assert number in text
    assert "separable 7x7" in text


@pytest.mark.slow
def test_other_networks_are_counted_too() -> None:
    wide = audit.audit(GoogLeNet(width=1.2, heads=False, norm="batch"), input_px=128)
    assert wide["total"]["params"] == wide["total"]["params_with_heads"] > 6_998_552 * 1.3
    assert not any(row["name"].startswith("head") for row in wide["rows"])


def test_a_fully_connected_layer_is_of_the_linear_row() -> None:
    found = audit.audit(GoogLeNet(top="fc", heads_on="4a"), input_px=224)
    rows = {row["name"]: row["params"] for row in found["rows"]}
    assert rows["linear"] == 1_025_000 + 7 * 7 * 1024 * 1024 + 1024 and "head 4d" not in rows
    total = found["total"]
    assert total["params"] - total["params_without_biases"] == 6_998_552 - 6_991_272


@pytest.mark.slow
def test_torchvisions_network_has_its_published_counts() -> None:
    """6,624,904 parameters and 1.498 GMACs in its own documentation."""
    total = audit.audit(GoogLeNet(norm="batch", conv5x5_px=3, pool4_px=2), input_px=224)["total"]
    assert total["params"] == 6_624_904
    assert round(total["macs"] / 1e9, 3) == 1.498
