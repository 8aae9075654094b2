"""Assign images to train, val and test.

The split is the same for all seeds of a trial, so that they compare on the same test images.
"""

from collections.abc import Hashable, Sequence
from typing import Protocol

import numpy as np

from bioimg.config import SplitConfig
from bioimg.data.grouped_split import assign_groups, draw_groups
from bioimg.data.image_groups import describe_largest_group
from bioimg.data.image_set import SUBSETS, TEST, TRAIN, VAL, ImageSet, Split
from bioimg.errors import UserError
from bioimg.text import join_first

SUBSET_FRACTIONS = (0.68, 0.16, 0.16)
SUGGESTED_FOLDS = (5, 4, 3)
"""Numbers of folds to cross-validate with, the first that is possible."""
MIN_CLASS_IMAGES = 7
"""Images that a class needs, so that 16 % of them are at least one."""


class HasLabels(Protocol):
    """What a split depends on: an `ImageIndex` or an `ImageSet`."""

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


def resolve_split(images: HasLabels, config: SplitConfig) -> str:
    """Return the split that is used: what `auto` stands for, or the one that was asked for.

    Raises:
        UserError: `auto` stands for the given parts, which can't be cross-validated.
    """
    if config.split != "auto":
        return config.split
    if has_given_parts(images):
        if config.folds:
            raise UserError(
                f"the value of `folds` is {config.folds}, but `data` gives parts (train, test, "
                "...), which aren't mixed unless you say so: add --split stratified or grouped, or "
                "leave out --folds."
            )
        return "folder"
    return "stratified"


def has_given_parts(images: HasLabels) -> bool:
    """Return True if the data say which images train and which don't."""
    return images.subsets is not None and len(np.unique(images.subsets)) > 1


def assign_subsets(images: HasLabels, config: SplitConfig) -> np.ndarray:
    """Assign each image to a subset. Return an integer array [N] of TRAIN, VAL, TEST.

    Raises:
        UserError: the images don't allow it; lists the classes, groups or subsets that are missing.
    """
    match resolve_split(images, config):
        case "grouped":
            return _split_grouped(images, config)
        case "folder":
            return _split_by_folder(images)
        case _:
            return _split_stratified(images, config)


def split_images(images: ImageSet, config: SplitConfig) -> Split:
    """Split decoded images.

    Raises:
        UserError: as `assign_subsets`.
    """
    return describe_split(images, assign_subsets(images, config))


def describe_split(images: ImageSet, subsets: np.ndarray) -> Split:
    """Return the split into `subsets`, [N] of TRAIN, VAL, TEST, with what leaks across it."""
    is_held_out = subsets != TRAIN
    copied = _is_in_several_subsets(images.digests, subsets)
    look_alike = np.zeros(len(images), bool)
    if images.look_alikes is not None:
        look_alike = _is_in_several_subsets(images.look_alikes.tolist(), subsets) & ~copied
    leaks_groups = None
    if images.groups is not None:
        leaks_groups = bool(_is_in_several_subsets(images.groups, subsets).any())
    leaked_pattern = None
    likely = images.likely_groups
    if likely is not None and _is_in_several_subsets(likely.names, subsets).any():
        leaked_pattern = likely.pattern
    return Split(
        train=np.flatnonzero(subsets == TRAIN),
        val=np.flatnonzero(subsets == VAL),
        test=np.flatnonzero(subsets == TEST),
        leaks_groups=leaks_groups,
        duplicate_count=int(np.count_nonzero(copied & is_held_out)),
        look_alike_count=int(np.count_nonzero(look_alike & is_held_out)),
        leaked_pattern=leaked_pattern,
        fingerprint=images.split_fingerprint(subsets),
    )


def _split_stratified(images: HasLabels, config: SplitConfig) -> np.ndarray:
    _require_class_sizes(images, config.folds or MIN_CLASS_IMAGES)
    if config.folds:
        return _split_stratified_folds(images.labels, config)
    # takes a second to import, and decoding processes don't need it
    from sklearn.model_selection import train_test_split

    count = len(images.labels)
    held_out = round(SUBSET_FRACTIONS[TEST] * count)
    rest, test = train_test_split(
        np.arange(count), test_size=held_out, stratify=images.labels, random_state=0
    )
    _, val = train_test_split(
        rest, test_size=held_out, stratify=images.labels[rest], random_state=0
    )
    subsets = np.full(count, TRAIN)
    subsets[val] = VAL
    subsets[test] = TEST
    return subsets


def _require_class_sizes(images: HasLabels, minimum: int) -> None:
    counts = np.bincount(images.labels, minlength=len(images.classes))
    small = [
        f"{name} ({count})"
        for name, count in zip(images.classes, counts, strict=True)
        if count < minimum
    ]
    if small:
        raise UserError(
            f"the value of `split` is 'stratified', which needs at least {minimum} images of each "
            f"class; there are too few of: {join_first(small)}. Add images, or remove these "
            "classes from `data`."
        )


def _split_stratified_folds(labels: np.ndarray, config: SplitConfig) -> np.ndarray:
    """Let one fold test and the next one validate; the rest train."""
    from sklearn.model_selection import StratifiedKFold

    splitter = StratifiedKFold(config.folds, shuffle=True, random_state=0)
    folds = [held_out for _, held_out in splitter.split(labels, labels)]
    subsets = np.full(len(labels), TRAIN)
    subsets[folds[config.fold]] = TEST
    subsets[folds[(config.fold + 1) % config.folds]] = VAL
    return subsets


def draws_validation(images: HasLabels) -> bool:
    """Return True if the given parts lack validation images, so that some of train are drawn."""
    return images.subsets is not None and set(np.unique(images.subsets)) == {TRAIN, TEST}


def _split_by_folder(images: HasLabels) -> np.ndarray:
    way_out = "Use --split stratified or grouped, or give `data` such subsets."
    if images.subsets is None:
        raise UserError(
            "the value of `split` is 'folder', but `data` has no subsets train, val and test. "
            f"{way_out}"
        )
    subsets = images.subsets
    if draws_validation(images):
        subsets = _draw_validation(images, subsets)
    missing = [name for subset, name in enumerate(SUBSETS) if subset not in subsets]
    if missing:
        raise UserError(
            f"the value of `split` is 'folder', but `data` has no images in: {', '.join(missing)}. "
            f"{way_out}"
        )
    trained = np.unique(images.labels[subsets == TRAIN])
    untrained = [name for label, name in enumerate(images.classes) if label not in trained]
    if untrained:
        raise UserError(
            "the value of `split` is 'folder', but classes have no image in train: "
            f"{join_first(untrained)}. {way_out}"
        )
    return subsets


def _draw_validation(images: HasLabels, subsets: np.ndarray) -> np.ndarray:
    """Move images from train to val: whole groups if groups are known, else of each class alike."""
    rows = np.flatnonzero(subsets == TRAIN)
    labels = images.labels[rows]
    share = SUBSET_FRACTIONS[VAL] / (SUBSET_FRACTIONS[TRAIN] + SUBSET_FRACTIONS[VAL])
    if images.groups is None:
        drawn = _draw_stratified(images, labels, share)
    else:
        drawn = draw_groups(labels, np.array(images.groups)[rows], share)
        if drawn is None:
            raise UserError(
                "`data` gives train and test but no val, and it can't be drawn from train with "
                "every class on both sides and no group on both. Add groups, or use --split "
                "stratified or grouped."
            )
    drawn_subsets = subsets.copy()
    drawn_subsets[rows[drawn]] = VAL
    return drawn_subsets


def _draw_stratified(images: HasLabels, labels: np.ndarray, share: float) -> np.ndarray:
    from sklearn.model_selection import train_test_split

    counts = np.bincount(labels, minlength=len(images.classes))
    small = [name for name, count in zip(images.classes, counts, strict=True) if count < 2]
    if small:
        raise UserError(
            "`data` gives train and test but no val, and train has too few images to draw some: "
            f"fewer than two of {join_first(small)}. Add images, or use --split stratified or "
            "grouped."
        )
    drawn_count = max(round(share * len(labels)), len(images.classes))
    _, drawn = train_test_split(
        np.arange(len(labels)), test_size=drawn_count, stratify=labels, random_state=0
    )
    return np.asarray(drawn)


def suggest_folds(images: HasLabels) -> int | None:
    """Return a number of folds for a grouped cross-validation, if the groups allow one."""
    groups = _group_numbers(images)
    for folds in SUGGESTED_FOLDS:
        if assign_groups(images.labels, groups, SUBSET_FRACTIONS, folds, 0) is not None:
            return folds
    return None


def _split_grouped(images: HasLabels, config: SplitConfig) -> np.ndarray:
    groups = _group_numbers(images)
    subsets = assign_groups(images.labels, groups, SUBSET_FRACTIONS, config.folds, config.fold)
    if subsets is None:
        raise _grouped_split_error(images, groups, config.folds)
    return subsets


def _group_numbers(images: HasLabels) -> np.ndarray:
    if images.groups is None:
        raise UserError(
            "the value of `split` is 'grouped', but no groups are known. Use --group-pattern to "
            "find them in the images' paths, as in --group-pattern 'HE-(\\d+)'."
        )
    names, numbers = np.unique(images.groups, return_inverse=True)
    if len(names) < len(SUBSETS):
        raise UserError(
            "the value of `split` is 'grouped', which needs at least three groups; there are only "
            f"these: {', '.join(names)}; {describe_largest_group(images.groups, images.paths)}. "
            "Check `group_pattern`, or use --split stratified."
        )
    return numbers


def _grouped_split_error(images: HasLabels, groups: np.ndarray, folds: int) -> UserError:
    counts = []
    for label, name in enumerate(images.classes):
        group_count = len(np.unique(groups[images.labels == label]))
        counts.append(f"{name} ({group_count})")
    everywhere = "in train, val and test of every fold" if folds else "in train, val and test"
    fewer_folds = "use fewer --folds, " if folds else ""
    return UserError(
        f"the value of `split` is 'grouped', which needs every class {everywhere} with no group in "
        "two of them; these groups don't allow it. Groups with images of each class: "
        f"{', '.join(counts)}. Add groups, {fewer_folds}or use --split stratified, whose results "
        "are then too good for new groups."
    )


def _is_in_several_subsets(names: Sequence[Hashable], subsets: np.ndarray) -> np.ndarray:
    """Return bool [N], True if an image's name (a group or a digest) is in several subsets."""
    subsets_by_name: dict[Hashable, set[int]] = {}
    for name, subset in zip(names, subsets.tolist(), strict=True):
        subsets_by_name.setdefault(name, set()).add(subset)
    return np.array([len(subsets_by_name[name]) > 1 for name in names], bool)
