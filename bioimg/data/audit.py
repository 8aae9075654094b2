"""Facts about a set of images before anything is trained on it: what `bioimg data` shows."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from bioimg.config import TrialConfig, UserError
from bioimg.data.imageset import PARTS, TRAIN, ImageSet, Split
from bioimg.data.listing import Listing
from bioimg.data.load import image_set, load
from bioimg.data.near_duplicates import near_duplicates
from bioimg.data.patterns import Guess, guess
from bioimg.data.read import Fact, Progress, Rule, read_images
from bioimg.data.sources import find
from bioimg.data.split import split

Counts = dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a split would contain or, in `error`, why it isn't possible.

    leaks_groups, duplicates: as in `Split`. near_duplicates: validation and test images that look like one in another part.
    """

    images: dict[str, Counts] = dataclasses.field(default_factory=dict)
    leaks_groups: bool | None = None
    duplicates: int | None = None
    near_duplicates: int | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Audit:
    """A set of images in numbers and names. Files that can't be read are only in `unreadable`.

    imbalance:       size of the largest class divided by that of the smallest.
    sizes, stored, formats: number of images of each, the most frequent first.
    guessed_patterns: values of `group_pattern` that would make groups.
    duplicates:      sets of paths whose decoded pixels are the same.
    near_duplicates: pairs of paths that look the same.
    splits:          by the value of `split`.
    """

    name: str
    synthetic: bool
    fingerprint: str
    images: int
    classes: Counts
    imbalance: float
    sizes: Counts
    stored: Counts
    formats: Counts
    scaling: Sequence[tuple[float, float]] | None
    groups: Counts | None
    guessed_patterns: list[Guess]
    unreadable: dict[str, str]
    ignored: list[str]
    duplicates: list[list[str]]
    near_duplicates: list[tuple[str, str]]
    splits: dict[str, Parts]


def audit(trial: TrialConfig, progress: Progress | None = None) -> tuple[Audit, ImageSet]:
    """Inspect the images of `trial.data` as a trial would see them.

    Raises:
        UserError: there are no images, there is only one class, or no image can be read.
    """
    if trial.data == "phantom":
        images = load(trial)
        size = f"{images.pixels.shape[2]} x {images.pixels.shape[1]}"
        drawn = {"sizes": {size: len(images)}, "stored": {"8-bit RGB": len(images)}}
        return _audit(images, trial, formats={}, unreadable={}, ignored=[], guessed_patterns=[], **drawn), images
    listing = find(trial)
    decoding = read_images(listing, Rule.of(trial), skip_unreadable=True, progress=progress)
    readable = listing.only(decoding.readable)
    images = image_set(readable, decoding, trial.scaling, _training_images(readable, trial))
    facts = [decoding.facts[i] for i in decoding.readable]
    return _audit(images, trial, **_of_files(listing, readable, facts, decoding.facts)), images


def _training_images(listing: Listing, trial: TrialConfig) -> np.ndarray:
    try:
        return split(listing, trial).train
    except UserError:  # reported with the splits
        return np.arange(len(listing))


def _of_files(listing: Listing, readable: Listing, facts: list[Fact], every: Sequence[Fact]) -> dict[str, Any]:
    return {
        "sizes": _counted(f"{fact.width} x {fact.height}" for fact in facts),
        "stored": _counted(fact.stored for fact in facts),
        "formats": _counted(PurePosixPath(path).suffix.lower() for path in readable.paths)
        if readable.files
        else {".npz": len(facts)},
        "guessed_patterns": guess(readable) if readable.groups is None else [],
        "unreadable": {path: fact.error for path, fact in zip(listing.paths, every, strict=True) if fact.error},
        "ignored": list(listing.ignored),
    }


def _audit(images: ImageSet, trial: TrialConfig, **about_files: Any) -> Audit:
    counts = np.bincount(images.labels, minlength=len(images.classes))
    pairs = near_duplicates(images)
    return Audit(
        name=images.name,
        synthetic=images.synthetic,
        fingerprint=images.fingerprint,
        images=len(images),
        classes=dict(zip(images.classes, counts.tolist(), strict=True)),
        imbalance=float(counts.max() / max(counts.min(), 1)),
        scaling=images.scaling,
        groups=_counted(images.groups) if images.groups is not None else None,
        duplicates=_copies(images),
        near_duplicates=[(images.paths[a], images.paths[b]) for a, b in pairs],
        splits=_splits(images, trial, pairs),
        **about_files,
    )


def _counted(values: Iterable[str]) -> Counts:
    return dict(Counter(values).most_common())


def _copies(images: ImageSet) -> list[list[str]]:
    paths: dict[str, list[str]] = {}
    for path, digest in zip(images.paths, images.digests, strict=True):
        paths.setdefault(digest, []).append(path)
    return [same for same in paths.values() if len(same) > 1]


def _splits(images: ImageSet, trial: TrialConfig, pairs: np.ndarray) -> dict[str, Parts]:
    possible = {"stratified": True, "grouped": images.groups is not None, "folder": images.parts is not None}
    return {name: _parts(images, dataclasses.replace(trial, split=name), pairs) for name, there in possible.items() if there}


def _parts(images: ImageSet, trial: TrialConfig, pairs: np.ndarray) -> Parts:
    try:
        cut = split(images, trial)
    except UserError as error:
        return Parts(error=str(error))
    counts = {name: np.bincount(images.labels[getattr(cut, name)], minlength=len(images.classes)).tolist() for name in PARTS}
    return Parts(
        images={name: dict(zip(images.classes, some, strict=True)) for name, some in counts.items()},
        leaks_groups=cut.leaks_groups,
        duplicates=cut.duplicates,
        near_duplicates=_apart(cut, pairs, len(images)),
    )


def _apart(cut: Split, pairs: np.ndarray, images: int) -> int:
    part = np.full(images, TRAIN)
    for which, name in enumerate(PARTS):
        part[getattr(cut, name)] = which
    crossing = pairs[part[pairs[:, 0]] != part[pairs[:, 1]]]
    return len({image for image in crossing.ravel().tolist() if part[image] != TRAIN})
