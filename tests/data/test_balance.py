"""Balanced sampling and class weights: shares, coverage, resuming."""

import collections

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from inception.data import balance, pipeline, sources
from tests import tiny


def imbalanced(*counts: int) -> sources.Examples:
    """So many examples of each class; example i is the number i."""
    labels = np.repeat(np.arange(len(counts)), counts)
    names = tuple(f"class {i}" for i in range(len(counts)))
    return sources.Examples(
        names,
        len(labels),
        lambda i: (np.full((40, 40), i, np.uint8), int(labels[i])),
        str,
        labels=labels,
    )


SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any)


@hypothesis.given(counts=SIZES, share=st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_an_epoch_has_as_many_examples_as_the_set(counts: list[int], share: float) -> None:
    visits = balance.visits(np.array(counts), share)
    assert visits.sum() == sum(counts) and not visits[np.array(counts) == 0].any()
    present = visits[np.array(counts) > 0]
    if share == 0:
        np.testing.assert_array_equal(visits, counts)
    if share == 1:
        assert np.ptp(present) <= 1


@hypothesis.given(counts=SIZES, seed=st.integers(0, 3))
def test_no_example_comes_again_before_all_of_its_class_came(counts: list[int], seed: int) -> None:
    source = imbalanced(*counts)
    order = balance.orders(source, seed, 1.0)
    visits = np.concatenate([order(epoch) for epoch in range(4)])
    for label, count in enumerate(counts):
        often = collections.Counter(visits[source.labels[visits] == label].tolist())
        assert (
            len(often) <= count
            and max(often.values(), default=0) - min(often.values(), default=0) <= 1
        )


def test_batches_are_a_function_of_seed_and_step() -> None:
    """Half the batch is of the rare class; a run that starts at step 3 sees what one from 0 sees."""
    config = tiny.config(
        "--config.model.classes=2", "--config.data.balance=1.", "--config.optim.batch_size=8",
        "--config.model.heads=False", "--config.input_px=33", "--config.data.resize_px=33",
        "--config.data.mirror=False",
    )  # fmt: skip
    source = imbalanced(60, 4)
    read = {
        start: [
            b for b, _ in pipeline.training_batches(config, source, start_step=start, total_steps=8)
        ]
        for start in (0, 3)
    }
    labels = np.concatenate([batch["label"] for batch in read[0]])
    assert labels.sum() == 32 and len(labels) == 64
    for whole, resumed in zip(read[0][3:], read[3], strict=True):
        np.testing.assert_array_equal(whole["image"], resumed["image"])
    config.data.seed = 1
    other, _ = next(pipeline.training_batches(config, source, start_step=0, total_steps=1))
    assert (other["image"] != read[0][0]["image"]).any()


def test_class_weights_have_mean_1_over_the_examples() -> None:
    weights = balance.class_weights(imbalanced(90, 9, 0, 1), 1.0)
    counts = np.array([90, 9, 0, 1])
    assert weights @ counts / counts.sum() == pytest.approx(1)
    np.testing.assert_allclose(np.multiply(weights, counts), [100 / 3, 100 / 3, 0, 100 / 3])
    root = balance.class_weights(imbalanced(100, 1), 0.5)
    assert root[1] / root[0] == pytest.approx(10)


def test_a_set_without_a_list_of_labels_is_refused() -> None:
    source = sources.Examples(("a",), 1, lambda _: (np.zeros((4, 4), np.uint8), 0), str)
    with tiny.refused(
        r"config\.data\.balance needs the labels .*: write a store .* --config\.data\.balance=0$"
    ):
        balance.orders(source, 0, 1.0)
    with tiny.refused(r"config\.loss\.class_balance needs the labels"):
        balance.class_weights(source, 1.0)
