"""Imbalanced sets: how often a run sees each class, and how much each class counts in the loss."""

import functools
from collections.abc import Callable

import numpy as np

from inception import UserError
from inception.data.sources import Source


def labels_of(source: Source, knob: str) -> np.ndarray:
    """The label of every example, int [n]; UserError if the source does not list its labels."""
    labels = getattr(source, "labels", None)
    if labels is None:
        raise UserError(
            f"`{knob}` needs the labels of all images, which this set does not list: write a store "
            f"with launch.py prepare, or give `{knob}=0`"
        )
    return np.asarray(labels)


def visits(counts: np.ndarray, balance: float) -> np.ndarray:
    """How often an epoch of counts.sum() examples visits each class, int64 [classes].

    In proportion to n ** (1 - balance) for a class of n examples, rounded by largest remainders.
    """
    exact = np.where(counts > 0, np.maximum(counts, 1.0) ** (1 - balance), 0.0)
    exact *= counts.sum() / exact.sum()
    rounded = np.floor(exact).astype(np.int64)
    short = counts.sum() - rounded.sum()
    rounded[np.argsort(rounded - exact, kind="stable")[:short]] += 1
    return rounded


def orders(source: Source, seed: int, balance: float) -> Callable[[int], np.ndarray]:
    """Returns the function epoch -> the examples in the order of the epoch, int64 [n].

    Each class continues, from epoch to epoch, through permutations of its examples: none comes a
    second time before all came once.
    """
    labels = labels_of(source, "data.balance")
    counts = np.bincount(labels)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    quotas = visits(counts, balance)

    def visited(label: int, epoch: int) -> np.ndarray:
        """The examples of a class that an epoch visits."""
        first, last = epoch * quotas[label], (epoch + 1) * quotas[label]
        n = counts[label]
        rounds = [
            np.random.default_rng((seed, 2, label, r)).permutation(members[label])
            for r in range(first // n, -(-last // n))
        ]
        return np.concatenate(rounds)[first % n : first % n + quotas[label]]

    @functools.lru_cache(maxsize=4)
    def order(epoch: int) -> np.ndarray:
        examples = np.concatenate(
            [visited(label, epoch) for label in np.flatnonzero(quotas).tolist()]
        )
        return np.random.default_rng((seed, 0, epoch)).permutation(examples)

    return order


def class_weights(source: Source, balance: float) -> tuple[float, ...]:
    """Each class's weight in the loss, in proportion to n ** -balance for n examples.

    The mean weight over the examples is 1; a class without examples has weight 0.
    """
    counts = np.bincount(labels_of(source, "loss.class_balance"), minlength=len(source.classes))
    weights = np.where(counts > 0, np.maximum(counts, 1.0) ** -balance, 0.0)
    return tuple((weights * counts.sum() / (weights @ counts)).tolist())
