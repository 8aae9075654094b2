"""Which images train, validate and test. Fixed whatever the trial's seed is: all seeds compare on the same test images."""

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Protocol

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from bioimg.config import TrialConfig, UserError
from bioimg.data.imageset import PARTS, TEST, TRAIN, VAL, Split

FRACTIONS = np.array([0.68, 0.16, 0.16])
FEWEST = 7
"""Images that a class needs, so that 16 % of them are at least one."""
DRAWS = 16
"""Random allotments of groups of which the best balanced one is taken."""


class Labelled(Protocol):
    """What a split depends on: an `ImageSet` or a `Listing`."""

    @property
    def labels(self) -> np.ndarray: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def groups(self) -> tuple[str, ...] | None: ...
    @property
    def parts(self) -> np.ndarray | None: ...


def split(images: Labelled, trial: TrialConfig) -> Split:
    """Divide the images as `trial.split` says.

    Raises:
        UserError: the images don't allow it; says which classes, groups or parts are missing.
    """
    part = {"stratified": _stratified, "grouped": _grouped, "folder": _folder}[trial.split](images)
    train, val, test = (np.flatnonzero(part == which) for which in (TRAIN, VAL, TEST))
    return Split(train=train, val=val, test=test, leaks_groups=_leaks(part, images.groups))


def _stratified(images: Labelled) -> np.ndarray:
    counts = np.bincount(images.labels, minlength=len(images.classes))
    if few := [f"{name} ({n})" for name, n in zip(images.classes, counts, strict=True) if n < FEWEST]:
        raise UserError(
            f"the value of `split` is 'stratified', which needs at least {FEWEST} images of each class; there are too few of: "
            f"{', '.join(few)}. Add images, or take these classes out of `data`."
        )
    held_out = round(FRACTIONS[TEST] * len(images.labels))
    rest, test = train_test_split(np.arange(len(images.labels)), test_size=held_out, stratify=images.labels, random_state=0)
    _, val = train_test_split(rest, test_size=held_out, stratify=images.labels[rest], random_state=0)
    part = np.full(len(images.labels), TRAIN)
    part[val], part[test] = VAL, TEST
    return part


def _folder(images: Labelled) -> np.ndarray:
    way_out = "Use --split stratified or --split grouped, or make such folders."
    if images.parts is None:
        raise UserError(f"the value of `split` is 'folder', but `data` has no folders train, val and test. {way_out}")
    if missing := [name for part, name in enumerate(PARTS) if part not in images.parts]:
        raise UserError(f"the value of `split` is 'folder', but `data` has no images in: {', '.join(missing)}. {way_out}")
    trained = np.unique(images.labels[images.parts == TRAIN])
    if unseen := [name for label, name in enumerate(images.classes) if label not in trained]:
        raise UserError(f"the value of `split` is 'folder', but classes have no image in train: {', '.join(unseen)}. {way_out}")
    return images.parts


def _grouped(images: Labelled) -> np.ndarray:
    """Of some random allotments, the one whose classes come closest to 68/16/16 % and none is missing anywhere."""
    groups = _groups(images)
    best = min(_allotments(images.labels, groups), key=lambda part: _imbalance(part, images.labels), default=None)
    if best is None or np.isinf(_imbalance(best, images.labels)):
        counts = [len(np.unique(groups[images.labels == label])) for label in range(len(images.classes))]
        listed = ", ".join(f"{name} ({n})" for name, n in zip(images.classes, counts, strict=True))
        raise UserError(
            "the value of `split` is 'grouped', which needs every class in train, val and test with no group in two of them; "
            f"these groups don't allow it. Groups that hold each class: {listed}. Add groups, or use --split stratified, "
            "whose results then are too good for new groups."
        )
    return best


def _groups(images: Labelled) -> np.ndarray:
    if images.groups is None:
        raise UserError(
            "the value of `split` is 'grouped', but no groups are known. Say with --group-pattern which part of an image's "
            "path names its group, as in --group-pattern 'HE-(\\d+)'."
        )
    groups = np.unique(images.groups, return_inverse=True)[1]
    if groups.max() < 2:
        names = ", ".join(sorted(set(images.groups)))
        raise UserError(
            f"the value of `split` is 'grouped', which needs at least three groups; there are only these: {names}. "
            "Check `group_pattern`, or use --split stratified."
        )
    return groups


def _allotments(labels: np.ndarray, groups: np.ndarray) -> Iterator[np.ndarray]:
    """Parts by sixths of the images (thirds or so where groups are few): one tests, one validates, the rest train."""
    folds = min(6, len(np.unique(groups)), np.bincount(labels).min())
    for draw in range(DRAWS if folds > 2 else 0):
        cut = StratifiedGroupKFold(folds, shuffle=True, random_state=draw).split(labels, labels, groups)
        fold = np.empty(len(labels), int)
        for number, (_, held_out) in enumerate(cut):
            fold[held_out] = number
        for val, test in permutations(range(folds), 2):
            yield np.select([fold == val, fold == test], [VAL, TEST], TRAIN)


def _imbalance(part: np.ndarray, labels: np.ndarray) -> float:
    """How far the classes' shares in the parts are from 68/16/16 %; infinite where a class is missing from one."""
    counts = np.zeros((labels.max() + 1, len(PARTS)))
    np.add.at(counts, (labels, part), 1)
    if not counts.all():
        return np.inf
    return float(np.abs(counts / counts.sum(axis=1, keepdims=True) - FRACTIONS).sum())


def _leaks(part: np.ndarray, groups: Sequence[str] | None) -> bool | None:
    if groups is None:
        return None
    return len(set(zip(groups, part.tolist(), strict=True))) > len(set(groups))
