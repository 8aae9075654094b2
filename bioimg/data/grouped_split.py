"""Assign groups to train, val and test, each class as evenly as the groups allow."""

from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np

from bioimg.data.image_set import TEST, TRAIN, VAL

DEFAULT_FOLDS = 6
MAX_DRAWS = 16
"""At most this many random assignments are tried. The most even one is used."""
ACCEPTED_UNEVENNESS = 0.05
"""An unevenness that is good enough to stop trying.

With sixths instead of 68/16/16 % it is at least 0.027.
"""

SubsetFractions = tuple[float, float, float]


class FoldAssignment(NamedTuple):
    """The fold of each image, and the folds (val, test) of each turn.

    A cross-validation has as many turns as folds, a single split has one.
    """

    unevenness: float
    """How far a class's shares of the subsets are from their target, mean over classes.

    Infinite if a subset lacks a class.
    """
    fold_by_image: np.ndarray
    val_test_folds: list[tuple[int, int]]


def assign_groups(
    labels: np.ndarray, groups: np.ndarray, fractions: SubsetFractions, folds: int, turn: int
) -> np.ndarray | None:
    """Return the subset of each image, or None if some class can't be in every subset.

    Without `folds`, one sixth of the images validates and one tests (up to a third each if groups
    are few). The best pair of sixths is chosen. With `folds`, fold number `turn` tests and the next
    one validates.
    """
    possible_folds = int(min(len(np.unique(groups)), np.bincount(labels).min()))
    fold_count = folds or min(DEFAULT_FOLDS, possible_folds)
    if not 3 <= fold_count <= possible_folds:
        return None
    best = None
    for fold_by_image in _draw_folds(labels, groups, fold_count):
        counts = _class_counts_by_fold(labels, fold_by_image, fold_count)
        if folds:
            assignment = _cross_validation(counts, fold_by_image)
        else:
            assignment = _best_single_split(counts, fold_by_image, fractions)
        if best is None or assignment.unevenness < best.unevenness:
            best = assignment
        if best.unevenness <= ACCEPTED_UNEVENNESS:
            break
    if best is None or np.isinf(best.unevenness):
        return None
    val, test = best.val_test_folds[turn]
    fold_by_image = best.fold_by_image
    return np.select([fold_by_image == val, fold_by_image == test], [VAL, TEST], TRAIN)


def draw_groups(labels: np.ndarray, groups: np.ndarray, share: float) -> np.ndarray | None:
    """Return the rows of whole groups with about this share of each class, as evenly as possible.

    Return None if some class can't be both among these rows and among the others.
    """
    possible_folds = int(
        min(len(np.unique(groups)), np.unique(labels, return_counts=True)[1].min())
    )
    for fold_count in range(min(round(1 / share), possible_folds), 1, -1):
        best_unevenness, best_rows = np.inf, None
        for fold_by_image in _draw_folds(labels, groups, fold_count):
            counts = _class_counts_by_fold(labels, fold_by_image, fold_count)
            counts = counts[counts.any(axis=1)]
            shares = counts / counts.sum(axis=1, keepdims=True)
            is_possible = (shares > 0).all(axis=0) & (shares < 1).all(axis=0)
            unevenness = np.where(is_possible, np.abs(shares - share).mean(axis=0), np.inf)
            fold = int(unevenness.argmin())
            if unevenness[fold] < best_unevenness:
                best_unevenness = unevenness[fold]
                best_rows = np.flatnonzero(fold_by_image == fold)
            if best_unevenness <= ACCEPTED_UNEVENNESS:
                break
        if best_rows is not None:
            return best_rows
    return None


def _draw_folds(labels: np.ndarray, groups: np.ndarray, folds: int) -> Iterator[np.ndarray]:
    # takes a second to import, and decoding processes don't need it
    from sklearn.model_selection import StratifiedGroupKFold

    for seed in range(MAX_DRAWS):
        fold_by_image = np.empty(len(labels), int)
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        for fold, (_, held_out) in enumerate(splitter.split(labels, labels, groups)):
            fold_by_image[held_out] = fold
        yield fold_by_image


def _class_counts_by_fold(labels: np.ndarray, fold_by_image: np.ndarray, folds: int) -> np.ndarray:
    """Return the number of images [classes, folds]."""
    counts = np.zeros((labels.max() + 1, folds))
    np.add.at(counts, (labels, fold_by_image), 1)
    return counts


def _cross_validation(counts: np.ndarray, fold_by_image: np.ndarray) -> FoldAssignment:
    """Let each fold test once, while the next one validates. The worst turn counts."""
    folds = counts.shape[1]
    targets = (1 - 2 / folds, 1 / folds, 1 / folds)
    turns = [((test + 1) % folds, test) for test in range(folds)]
    unevenness = max(_subset_unevenness(counts, val, test, targets) for val, test in turns)
    return FoldAssignment(unevenness, fold_by_image, turns)


def _best_single_split(
    counts: np.ndarray, fold_by_image: np.ndarray, fractions: SubsetFractions
) -> FoldAssignment:
    """Choose the two folds that validate and test so that classes are spread most evenly."""
    best = FoldAssignment(np.inf, fold_by_image, [])
    for val, test in permutations(range(counts.shape[1]), 2):
        unevenness = _subset_unevenness(counts, val, test, fractions)
        if unevenness < best.unevenness:
            best = FoldAssignment(unevenness, fold_by_image, [(val, test)])
    return best


def _subset_unevenness(counts: np.ndarray, val: int, test: int, targets: SubsetFractions) -> float:
    in_val = counts[:, val]
    in_test = counts[:, test]
    in_train = counts.sum(axis=1) - in_val - in_test
    by_subset = np.stack([in_train, in_val, in_test], axis=1)
    if not by_subset.all():
        return np.inf
    shares = by_subset / by_subset.sum(axis=1, keepdims=True)
    return float(np.abs(shares - targets).sum(axis=1).mean())
