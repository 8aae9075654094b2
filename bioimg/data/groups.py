"""Groups allotted to train, val and test, so that each class is spread as evenly as the groups allow."""

from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np

from bioimg.data.imageset import TEST, TRAIN, VAL

SIXTHS = 6
DRAWS = 16
"""Random allotments of which the most even one is taken."""
EVEN = 0.05
"""An unevenness at which no further allotment is drawn; with sixths in place of 68/16/16 % it is at least 0.027."""

Fractions = tuple[float, float, float]


class Allotment(NamedTuple):
    """The fold of each image, and the folds that validate and test, once for each fold of a cross-validation.

    unevenness: per class, how far its shares in the parts are from what they should be; infinite where a part lacks a class.
    """

    unevenness: float
    fold: np.ndarray
    turns: list[tuple[int, int]]


def allot(labels: np.ndarray, groups: np.ndarray, fractions: Fractions, folds: int, turn: int) -> np.ndarray | None:
    """The part of each image; None where some class can't be in every part.

    Without `folds`, one sixth of the images validates and one tests (thirds or so where groups are few), the best pair of them.
    With them, fold number `turn` tests and the next one validates.
    """
    possible = int(min(len(np.unique(groups)), np.bincount(labels).min()))
    number = folds or min(SIXTHS, possible)
    best = Allotment(np.inf, np.zeros(0), [])
    for fold in _draws(labels, groups, number) if 3 <= number <= possible else ():
        best = min(best, _turned(_counts(labels, fold, number), fold, folds, fractions), key=lambda one: one.unevenness)
        if best.unevenness <= EVEN:
            break
    if np.isinf(best.unevenness):
        return None
    val, test = best.turns[turn]
    return np.select([best.fold == val, best.fold == test], [VAL, TEST], TRAIN)


def _draws(labels: np.ndarray, groups: np.ndarray, folds: int) -> Iterator[np.ndarray]:
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second, for which decoding processes needn't wait

    for draw in range(DRAWS):
        fold = np.empty(len(labels), int)
        cutter = StratifiedGroupKFold(folds, shuffle=True, random_state=draw)
        for number, (_, held_out) in enumerate(cutter.split(labels, labels, groups)):
            fold[held_out] = number
        yield fold


def _counts(labels: np.ndarray, fold: np.ndarray, folds: int) -> np.ndarray:
    counts = np.zeros((labels.max() + 1, folds))
    np.add.at(counts, (labels, fold), 1)
    return counts


def _turned(counts: np.ndarray, fold: np.ndarray, folds: int, fractions: Fractions) -> Allotment:
    if folds:
        turns, aim = [((test + 1) % folds, test) for test in range(folds)], (1 - 2 / folds, 1 / folds, 1 / folds)
        return Allotment(max(_unevenness(counts, *turn, aim) for turn in turns), fold, turns)
    pairs = permutations(range(counts.shape[1]), 2)
    return min(
        (Allotment(_unevenness(counts, *pair, fractions), fold, [pair]) for pair in pairs), key=lambda one: one.unevenness
    )


def _unevenness(counts: np.ndarray, val: int, test: int, aim: Fractions) -> float:
    parts = np.stack([counts.sum(axis=1) - counts[:, val] - counts[:, test], counts[:, val], counts[:, test]], axis=1)
    if not parts.all():
        return np.inf
    return float(np.abs(parts / parts.sum(axis=1, keepdims=True) - aim).sum(axis=1).mean())
