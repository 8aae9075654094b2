"""Assign groups to train, val and test so that each class is spread as evenly as the groups allow."""

from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np

from bioimg.data.image_set import TEST, TRAIN, VAL

DEFAULT_FOLDS = 6
MAX_DRAWS = 16
"""At most this many random assignments are tried; the most even one is used."""
ACCEPTED_UNEVENNESS = 0.05
"""An unevenness that is good enough to stop trying. With sixths in place of 68/16/16 % it is at least 0.027."""

SubsetFractions = tuple[float, float, float]


class FoldAssignment(NamedTuple):
    """The fold of each image, and the folds (val, test) of each turn; a cross-validation has as many turns as folds.

    unevenness: how far a class's shares of the parts are from their target, mean over classes; infinite if a part lacks one.
    """

    unevenness: float
    fold_by_image: np.ndarray
    val_test_folds: list[tuple[int, int]]


def assign_groups(
    labels: np.ndarray, groups: np.ndarray, fractions: SubsetFractions, folds: int, turn: int
) -> np.ndarray | None:
    """The part of each image; None if some class can't be in every part.

    Without `folds`, one sixth of the images validates and one tests (up to a third each if groups are few), the best pair.
    With `folds`, fold number `turn` tests and the next one validates.
    """
    possible = int(min(len(np.unique(groups)), np.bincount(labels).min()))
    number = folds or min(DEFAULT_FOLDS, possible)
    best = FoldAssignment(np.inf, np.zeros(0), [])
    for fold in _draw_folds(labels, groups, number) if 3 <= number <= possible else ():
        best = min(
            best,
            _best_assignment(_class_counts_by_fold(labels, fold, number), fold, folds, fractions),
            key=lambda one: one.unevenness,
        )
        if best.unevenness <= ACCEPTED_UNEVENNESS:
            break
    if np.isinf(best.unevenness):
        return None
    val, test = best.val_test_folds[turn]
    return np.select([best.fold_by_image == val, best.fold_by_image == test], [VAL, TEST], TRAIN)


def _draw_folds(labels: np.ndarray, groups: np.ndarray, folds: int) -> Iterator[np.ndarray]:
    from sklearn.model_selection import (
        StratifiedGroupKFold,  # takes a second, and decoding processes don't need it
    )

    for draw in range(MAX_DRAWS):
        fold = np.empty(len(labels), int)
        cutter = StratifiedGroupKFold(folds, shuffle=True, random_state=draw)
        for number, (_, held_out) in enumerate(cutter.split(labels, labels, groups)):
            fold[held_out] = number
        yield fold


def _class_counts_by_fold(labels: np.ndarray, fold: np.ndarray, folds: int) -> np.ndarray:
    counts = np.zeros((labels.max() + 1, folds))
    np.add.at(counts, (labels, fold), 1)
    return counts


def _best_assignment(
    counts: np.ndarray, fold: np.ndarray, folds: int, fractions: SubsetFractions
) -> FoldAssignment:
    if folds:
        turns, aim = (
            [((test + 1) % folds, test) for test in range(folds)],
            (1 - 2 / folds, 1 / folds, 1 / folds),
        )
        return FoldAssignment(
            max(_subset_unevenness(counts, *turn, aim) for turn in turns), fold, turns
        )
    pairs = permutations(range(counts.shape[1]), 2)
    return min(
        (
            FoldAssignment(_subset_unevenness(counts, *pair, fractions), fold, [pair])
            for pair in pairs
        ),
        key=lambda one: one.unevenness,
    )


def _subset_unevenness(counts: np.ndarray, val: int, test: int, aim: SubsetFractions) -> float:
    parts = np.stack(
        [counts.sum(axis=1) - counts[:, val] - counts[:, test], counts[:, val], counts[:, test]],
        axis=1,
    )
    if not parts.all():
        return np.inf
    return float(np.abs(parts / parts.sum(axis=1, keepdims=True) - aim).sum(axis=1).mean())
