"""Facts about a set of images before anything is trained on it: what `bioimg data` shows."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from bioimg.config import TrialConfig
from bioimg.data.audit.group_patterns import PatternGuess, guess_group_patterns
from bioimg.data.audit.near_duplicates import find_near_duplicates
from bioimg.data.image_index import ImageIndex
from bioimg.data.image_set import SUBSETS, TRAIN, ImageSet, Split
from bioimg.data.load import build_image_set, load_image_set
from bioimg.data.pixel_cache import DecodeOptions, ImageInfo, ProgressCallback, read_images
from bioimg.data.sources import list_dataset
from bioimg.data.splitting import split_images
from bioimg.errors import UserError

CountsByName = dict[str, int]


@dataclass(frozen=True, kw_only=True)
class SplitPreview:
    """What a split would contain or, in `error`, why it isn't possible.

    leaks_groups, duplicates: as in `Split`. near_duplicates: validation and test images that look like one in another part.
    """

    images: dict[str, CountsByName] = dataclasses.field(default_factory=dict)
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
    classes: CountsByName
    imbalance: float
    sizes: CountsByName
    stored: CountsByName
    formats: CountsByName
    scaling: Sequence[tuple[float, float]] | None
    groups: CountsByName | None
    guessed_patterns: list[PatternGuess]
    unreadable: dict[str, str]
    ignored: list[str]
    duplicates: list[list[str]]
    near_duplicates: list[tuple[str, str]]
    splits: dict[str, SplitPreview]


def audit_images(
    trial: TrialConfig, progress: ProgressCallback | None = None
) -> tuple[Audit, ImageSet]:
    """Inspect the images of `trial.data` as a trial would see them.

    Raises:
        UserError: there are no images, there is only one class, or no image can be read.
    """
    if trial.data == "phantom":
        images = load_image_set(trial)
        size = f"{images.pixels.shape[2]} x {images.pixels.shape[1]}"
        drawn = {"sizes": {size: len(images)}, "stored": {"8-bit RGB": len(images)}}
        return _build_audit(
            images, trial, formats={}, unreadable={}, ignored=[], guessed_patterns=[], **drawn
        ), images
    listing = list_dataset(trial)
    decoding = read_images(
        listing, DecodeOptions.from_trial(trial), skip_unreadable=True, progress=progress
    )
    readable = listing.select(decoding.readable_indices)
    images = build_image_set(readable, decoding, trial.scaling, _training_indices(readable, trial))
    facts = [decoding.image_infos[i] for i in decoding.readable_indices]
    return _build_audit(
        images, trial, **_file_statistics(listing, readable, facts, decoding.image_infos)
    ), images


def _training_indices(listing: ImageIndex, trial: TrialConfig) -> np.ndarray:
    try:
        return split_images(listing, trial).train
    except UserError:  # reported with the splits
        return np.arange(len(listing))


def _file_statistics(
    listing: ImageIndex, readable: ImageIndex, facts: list[ImageInfo], every: Sequence[ImageInfo]
) -> dict[str, Any]:
    return {
        "sizes": _count_values(f"{fact.width} x {fact.height}" for fact in facts),
        "stored": _count_values(fact.stored_type for fact in facts),
        "formats": _count_values(PurePosixPath(path).suffix.lower() for path in readable.paths)
        if readable.files
        else {".npz": len(facts)},
        "guessed_patterns": guess_group_patterns(readable) if readable.groups is None else [],
        "unreadable": {
            path: fact.error for path, fact in zip(listing.paths, every, strict=True) if fact.error
        },
        "ignored": list(listing.ignored_files),
    }


def _build_audit(images: ImageSet, trial: TrialConfig, **about_files: Any) -> Audit:
    counts = np.bincount(images.labels, minlength=len(images.classes))
    pairs = find_near_duplicates(images)
    return Audit(
        name=images.name,
        synthetic=images.synthetic,
        fingerprint=images.fingerprint,
        images=len(images),
        classes=dict(zip(images.classes, counts.tolist(), strict=True)),
        imbalance=float(counts.max() / max(counts.min(), 1)),
        scaling=images.scaling_limits,
        groups=_count_values(images.groups) if images.groups is not None else None,
        duplicates=_find_copies(images),
        near_duplicates=[(images.paths[a], images.paths[b]) for a, b in pairs],
        splits=_preview_splits(images, trial, pairs),
        **about_files,
    )


def _count_values(values: Iterable[str]) -> CountsByName:
    return dict(Counter(values).most_common())


def _find_copies(images: ImageSet) -> list[list[str]]:
    paths: dict[str, list[str]] = {}
    for path, digest in zip(images.paths, images.digests, strict=True):
        paths.setdefault(digest, []).append(path)
    return [same for same in paths.values() if len(same) > 1]


def _preview_splits(
    images: ImageSet, trial: TrialConfig, pairs: np.ndarray
) -> dict[str, SplitPreview]:
    possible = {
        "stratified": True,
        "grouped": images.groups is not None,
        "folder": images.subsets is not None,
    }
    return {
        name: _preview_split(images, dataclasses.replace(trial, split=name), pairs)
        for name, there in possible.items()
        if there
    }


def _preview_split(images: ImageSet, trial: TrialConfig, pairs: np.ndarray) -> SplitPreview:
    try:
        cut = split_images(images, trial)
    except UserError as error:
        return SplitPreview(error=str(error))
    counts = {
        name: np.bincount(images.labels[getattr(cut, name)], minlength=len(images.classes)).tolist()
        for name in SUBSETS
    }
    return SplitPreview(
        images={
            name: dict(zip(images.classes, some, strict=True)) for name, some in counts.items()
        },
        leaks_groups=cut.leaks_groups,
        duplicates=cut.duplicate_count,
        near_duplicates=_count_crossing_near_duplicates(cut, pairs, len(images)),
    )


def _count_crossing_near_duplicates(cut: Split, pairs: np.ndarray, images: int) -> int:
    part = np.full(images, TRAIN)
    for which, name in enumerate(SUBSETS):
        part[getattr(cut, name)] = which
    crossing = pairs[part[pairs[:, 0]] != part[pairs[:, 1]]]
    return len({image for image in crossing.ravel().tolist() if part[image] != TRAIN})
