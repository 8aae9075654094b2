"""Assign groups to train, val and test so that each class is spread as evenly as the groups allow."""

from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np

from bioimg.data.imageset import TEST, TRAIN, VAL

SIXTHS = 6
DRAWS = 16
"""At most this many random assignments are tried; the most even one is used."""
EVEN = 0.05
"""An unevenness that is good enough to stop trying. With sixths in place of 68/16/16 % it is at least 0.027."""

Fractions = tuple[float, float, float]


class Allotment(NamedTuple):
    """The fold of each image, and the folds (val, test) of each turn; a cross-validation has as many turns as folds.

    unevenness: how far a class's shares of the parts are from their target, mean over classes; infinite if a part lacks one.
    """

    unevenness: float
    fold: np.ndarray
    turns: list[tuple[int, int]]


def allot(labels: np.ndarray, groups: np.ndarray, fractions: Fractions, folds: int, turn: int) -> np.ndarray | None:
    """The part of each image; None if some class can't be in every part.

    Without `folds`, one sixth of the images validates and one tests (up to a third each if groups are few), the best pair.
    With `folds`, fold number `turn` tests and the next one validates.
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
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second, and decoding processes don't need it

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
