"""Which images train, validate and test: the same for all seeds of a trial, so that they compare on the same test images."""

from typing import Protocol

import numpy as np

from bioimg.config import FEWEST_GROUPS, TrialConfig, UserError
from bioimg.data.grouped_split import allot
from bioimg.data.imageset import PARTS, TEST, TRAIN, VAL, ImageSet, Split
from bioimg.data.listing import largest, listed

FRACTIONS = (0.68, 0.16, 0.16)
FEWEST = 7
"""Images that a class needs, so that 16 % of them are at least one."""


class Labelled(Protocol):
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
    def parts(self) -> np.ndarray | None: ...


def split(images: Labelled, trial: TrialConfig) -> Split:
    """Divide the images as `trial.split`, `trial.folds` and `trial.fold` say.

    Raises:
        UserError: the images don't allow it; lists the classes, groups or parts that are missing.
    """
    cut = {"stratified": _stratified, "grouped": _grouped, "folder": _folder}[trial.split]
    part = cut(images, trial)
    train, val, test = (np.flatnonzero(part == which) for which in (TRAIN, VAL, TEST))
    decoded = images if isinstance(images, ImageSet) else None
    duplicates = _shared(part, decoded.digests) if decoded else np.empty(0, int)
    return Split(
        train=train,
        val=val,
        test=test,
        leaks_groups=bool(len(_shared(part, images.groups))) if images.groups is not None else None,
        duplicates=int(np.count_nonzero(part[duplicates] != TRAIN)),
        fingerprint=decoded.fingerprint_of(part) if decoded else None,
    )


def warnings(images: ImageSet, trial: TrialConfig) -> list[str]:
    """Sentences for the console: what makes results on this split too good, or uncertain."""
    cut = split(images, trial)
    texts = []
    tested = len({images.groups[image] for image in cut.test}) if images.groups is not None else None
    if cut.leaks_groups:
        texts.append(
            f"images of one group are in more than one part, since `split` is {trial.split!r}: results are too good for new "
            "groups. Use --split grouped."
        )
    if tested is not None and tested < FEWEST_GROUPS:
        texts.append(
            f"the test images come from few groups ({tested}): with fewer than {FEWEST_GROUPS}, intervals and differences say "
            "little about new groups."
        )
    if cut.duplicates:
        have = "has" if cut.duplicates == 1 else "have"
        texts.append(
            f"{cut.duplicates} of the {len(cut.val) + len(cut.test)} validation and test images {have} an exact copy in "
            "another part: results are too good. Remove copies; `bioimg data` lists them."
        )
    if images.unreadable_skipped:
        were = "image was" if images.unreadable_skipped == 1 else "images were"
        texts.append(f"{images.unreadable_skipped} unreadable {were} left out.")
    return texts


def _stratified(images: Labelled, trial: TrialConfig) -> np.ndarray:
    counts = np.bincount(images.labels, minlength=len(images.classes))
    fewest = trial.folds or FEWEST
    if few := [f"{name} ({n})" for name, n in zip(images.classes, counts, strict=True) if n < fewest]:
        raise UserError(
            f"the value of `split` is 'stratified', which needs at least {fewest} images of each class; there are too few of: "
            f"{listed(few)}. Add images, or remove these classes from `data`."
        )
    if trial.folds:
        return _folded(images.labels, trial)
    from sklearn.model_selection import train_test_split  # takes a second, and decoding processes don't need it

    held_out = round(FRACTIONS[TEST] * len(images.labels))
    rest, test = train_test_split(np.arange(len(images.labels)), test_size=held_out, stratify=images.labels, random_state=0)
    _, val = train_test_split(rest, test_size=held_out, stratify=images.labels[rest], random_state=0)
    part = np.full(len(images.labels), TRAIN)
    part[val], part[test] = VAL, TEST
    return part


def _folded(labels: np.ndarray, trial: TrialConfig) -> np.ndarray:
    """One fold tests, the next one validates, the rest train."""
    from sklearn.model_selection import StratifiedKFold

    cutter = StratifiedKFold(trial.folds, shuffle=True, random_state=0)
    folds = [held_out for _, held_out in cutter.split(labels, labels)]
    part = np.full(len(labels), TRAIN)
    part[folds[trial.fold]] = TEST
    part[folds[(trial.fold + 1) % trial.folds]] = VAL
    return part


def _folder(images: Labelled, trial: TrialConfig) -> np.ndarray:
    way_out = "Use --split stratified or grouped, or give `data` such parts."
    if images.parts is None:
        raise UserError(f"the value of `split` is 'folder', but `data` has no parts train, val and test. {way_out}")
    if missing := [name for part, name in enumerate(PARTS) if part not in images.parts]:
        raise UserError(f"the value of `split` is 'folder', but `data` has no images in: {', '.join(missing)}. {way_out}")
    trained = np.unique(images.labels[images.parts == TRAIN])
    if unseen := [name for label, name in enumerate(images.classes) if label not in trained]:
        raise UserError(f"the value of `split` is 'folder', but classes have no image in train: {listed(unseen)}. {way_out}")
    return images.parts


def _grouped(images: Labelled, trial: TrialConfig) -> np.ndarray:
    groups = _groups(images)
    part = allot(images.labels, groups, FRACTIONS, trial.folds, trial.fold)
    if part is None:
        raise _refusal(images, groups, trial.folds)
    return part


def _groups(images: Labelled) -> np.ndarray:
    if images.groups is None:
        raise UserError(
            "the value of `split` is 'grouped', but no groups are known. Use --group-pattern to find them in the "
            "images' paths, as in --group-pattern 'HE-(\\d+)'."
        )
    groups = np.unique(images.groups, return_inverse=True)[1]
    if groups.max() < 2:
        raise UserError(
            "the value of `split` is 'grouped', which needs at least three groups; there are only these: "
            f"{', '.join(sorted(set(images.groups)))}; {largest(images.groups, images.paths)}. "
            "Check `group_pattern`, or use --split stratified."
        )
    return groups


def _refusal(images: Labelled, groups: np.ndarray, folds: int) -> UserError:
    counts = [len(np.unique(groups[images.labels == label])) for label in range(len(images.classes))]
    held = ", ".join(f"{name} ({n})" for name, n in zip(images.classes, counts, strict=True))
    return UserError(
        f"the value of `split` is 'grouped', which needs every class in train, val and test{' of every fold' if folds else ''} "
        f"with no group in two of them; these groups don't allow it. Groups with images of each class: {held}. Add groups, "
        f"{'use fewer --folds, ' if folds else ''}or use --split stratified, whose results are then too good for new groups."
    )


def _shared(part: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Indices of images whose name (a group or a digest) is in more than one part."""
    parts: dict[str, set[int]] = {}
    for name, which in zip(names, part.tolist(), strict=True):
        parts.setdefault(name, set()).add(which)
    return np.flatnonzero([len(parts[name]) > 1 for name in names])
