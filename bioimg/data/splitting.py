"""Which images train, validate and test: the same for all seeds of a trial, so that they compare on the same test images."""

from typing import Protocol

import numpy as np

from bioimg.config import MIN_TEST_GROUPS, TrialConfig
from bioimg.data.grouped_split import assign_groups
from bioimg.data.image_index import describe_largest_group
from bioimg.data.image_set import SUBSETS, TEST, TRAIN, VAL, ImageSet, Split
from bioimg.errors import UserError
from bioimg.text import join_first

SUBSET_FRACTIONS = (0.68, 0.16, 0.16)
MIN_CLASS_IMAGES = 7
"""Images that a class needs, so that 16 % of them are at least one."""


class HasLabels(Protocol):
    """What a split depends on: an `ImageSet` or a `Listing`."""

    @property
    def paths(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def groups(self) -> tuple[str, ...] | None: ...
    @property
    def subsets(self) -> np.ndarray | None: ...


def split_images(images: HasLabels, trial: TrialConfig) -> Split:
    """Divide the images as `trial.split`, `trial.folds` and `trial.fold` say.

    Raises:
        UserError: the images don't allow it; lists the classes, groups or parts that are missing.
    """
    cut = {"stratified": _split_stratified, "grouped": _split_grouped, "folder": _split_by_folder}[
        trial.split
    ]
    part = cut(images, trial)
    train, val, test = (np.flatnonzero(part == which) for which in (TRAIN, VAL, TEST))
    decoded = images if isinstance(images, ImageSet) else None
    duplicates = _indices_in_several_subsets(part, decoded.digests) if decoded else np.empty(0, int)
    return Split(
        train=train,
        val=val,
        test=test,
        leaks_groups=bool(len(_indices_in_several_subsets(part, images.groups)))
        if images.groups is not None
        else None,
        duplicate_count=int(np.count_nonzero(part[duplicates] != TRAIN)),
        fingerprint=decoded.split_fingerprint(part) if decoded else None,
    )


def split_warnings(images: ImageSet, trial: TrialConfig) -> list[str]:
    """Sentences for the console: what makes results on this split too good, or uncertain."""
    cut = split_images(images, trial)
    texts = []
    tested = (
        len({images.groups[image] for image in cut.test}) if images.groups is not None else None
    )
    if cut.leaks_groups:
        texts.append(
            f"images of one group are in more than one part, since `split` is {trial.split!r}: results are too good for new "
            "groups. Use --split grouped."
        )
    if tested is not None and tested < MIN_TEST_GROUPS:
        texts.append(
            f"the test images come from few groups ({tested}): with fewer than {MIN_TEST_GROUPS}, intervals and differences say "
            "little about new groups."
        )
    if cut.duplicate_count:
        have = "has" if cut.duplicate_count == 1 else "have"
        texts.append(
            f"{cut.duplicate_count} of the {len(cut.val) + len(cut.test)} validation and test images {have} an exact copy in "
            "another part: results are too good. Remove copies; `bioimg data` lists them."
        )
    if images.unreadable_skipped:
        were = "image was" if images.unreadable_skipped == 1 else "images were"
        texts.append(f"{images.unreadable_skipped} unreadable {were} left out.")
    return texts


def _split_stratified(images: HasLabels, trial: TrialConfig) -> np.ndarray:
    counts = np.bincount(images.labels, minlength=len(images.classes))
    fewest = trial.folds or MIN_CLASS_IMAGES
    if few := [
        f"{name} ({n})" for name, n in zip(images.classes, counts, strict=True) if n < fewest
    ]:
        raise UserError(
            f"the value of `split` is 'stratified', which needs at least {fewest} images of each class; there are too few of: "
            f"{join_first(few)}. Add images, or remove these classes from `data`."
        )
    if trial.folds:
        return _split_stratified_folds(images.labels, trial)
    from sklearn.model_selection import (
        train_test_split,  # takes a second, and decoding processes don't need it
    )

    held_out = round(SUBSET_FRACTIONS[TEST] * len(images.labels))
    rest, test = train_test_split(
        np.arange(len(images.labels)), test_size=held_out, stratify=images.labels, random_state=0
    )
    _, val = train_test_split(
        rest, test_size=held_out, stratify=images.labels[rest], random_state=0
    )
    part = np.full(len(images.labels), TRAIN)
    part[val], part[test] = VAL, TEST
    return part


def _split_stratified_folds(labels: np.ndarray, trial: TrialConfig) -> np.ndarray:
    """One fold tests, the next one validates, the rest train."""
    from sklearn.model_selection import StratifiedKFold

    cutter = StratifiedKFold(trial.folds, shuffle=True, random_state=0)
    folds = [held_out for _, held_out in cutter.split(labels, labels)]
    part = np.full(len(labels), TRAIN)
    part[folds[trial.fold]] = TEST
    part[folds[(trial.fold + 1) % trial.folds]] = VAL
    return part


def _split_by_folder(images: HasLabels, trial: TrialConfig) -> np.ndarray:
    way_out = "Use --split stratified or grouped, or give `data` such parts."
    if images.subsets is None:
        raise UserError(
            f"the value of `split` is 'folder', but `data` has no parts train, val and test. {way_out}"
        )
    if missing := [name for part, name in enumerate(SUBSETS) if part not in images.subsets]:
        raise UserError(
            f"the value of `split` is 'folder', but `data` has no images in: {', '.join(missing)}. {way_out}"
        )
    trained = np.unique(images.labels[images.subsets == TRAIN])
    if unseen := [name for label, name in enumerate(images.classes) if label not in trained]:
        raise UserError(
            f"the value of `split` is 'folder', but classes have no image in train: {join_first(unseen)}. {way_out}"
        )
    return images.subsets


def _split_grouped(images: HasLabels, trial: TrialConfig) -> np.ndarray:
    groups = _group_indices(images)
    part = assign_groups(images.labels, groups, SUBSET_FRACTIONS, trial.folds, trial.fold)
    if part is None:
        raise _grouped_split_error(images, groups, trial.folds)
    return part


def _group_indices(images: HasLabels) -> np.ndarray:
    if images.groups is None:
        raise UserError(
            "the value of `split` is 'grouped', but no groups are known. Use --group-pattern to find them in the "
            "images' paths, as in --group-pattern 'HE-(\\d+)'."
        )
    groups = np.unique(images.groups, return_inverse=True)[1]
    if groups.max() < 2:
        raise UserError(
            "the value of `split` is 'grouped', which needs at least three groups; there are only these: "
            f"{', '.join(sorted(set(images.groups)))}; {describe_largest_group(images.groups, images.paths)}. "
            "Check `group_pattern`, or use --split stratified."
        )
    return groups


def _grouped_split_error(images: HasLabels, groups: np.ndarray, folds: int) -> UserError:
    counts = [
        len(np.unique(groups[images.labels == label])) for label in range(len(images.classes))
    ]
    held = ", ".join(f"{name} ({n})" for name, n in zip(images.classes, counts, strict=True))
    return UserError(
        f"the value of `split` is 'grouped', which needs every class in train, val and test{' of every fold' if folds else ''} "
        f"with no group in two of them; these groups don't allow it. Groups with images of each class: {held}. Add groups, "
        f"{'use fewer --folds, ' if folds else ''}or use --split stratified, whose results are then too good for new groups."
    )


def _indices_in_several_subsets(part: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Indices of images whose name (a group or a digest) is in more than one part."""
    parts: dict[str, set[int]] = {}
    for name, which in zip(names, part.tolist(), strict=True):
        parts.setdefault(name, set()).add(which)
    return np.flatnonzero([len(parts[name]) > 1 for name in names])
