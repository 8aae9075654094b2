"""Facts about a set of images before anything is trained on it: what `bioimg data` shows."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from bioimg.config import DatasetConfig, SplitConfig
from bioimg.data.audit.group_patterns import PatternGuess, guess_group_patterns
from bioimg.data.audit.near_duplicates import find_near_duplicates
from bioimg.data.image_index import ImageIndex
from bioimg.data.image_set import SUBSETS, TRAIN, ImageSet
from bioimg.data.intensity_scaling import scale_to_8bit
from bioimg.data.load import make_image_set
from bioimg.data.pixel_cache import DecodeOptions, ImageInfo, ProgressCallback, read_images
from bioimg.data.sources import list_images
from bioimg.data.splitting import assign_subsets, describe_split
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
    config: DatasetConfig, progress: ProgressCallback | None = None
) -> tuple[Audit, ImageSet]:
    """Inspect the images of `config.data` as a trial would see them.

    Raises:
        UserError: there are no images, there is only one class, or no image can be read.
    """
    listing = list_images(config)
    decoding = read_images(
        listing, DecodeOptions.from_config(config), skip_unreadable=True, progress=progress
    )
    readable = listing.select(decoding.readable_indices)
    pixels, limits = scale_to_8bit(decoding, config.scaling, _training_indices(readable))
    images = make_image_set(readable, decoding, pixels, limits)
    facts = [decoding.image_infos[i] for i in decoding.readable_indices]
    return _build_audit(
        images, **_file_statistics(listing, readable, facts, decoding.image_infos)
    ), images


def _training_indices(listing: ImageIndex) -> np.ndarray:
    try:
        return np.flatnonzero(assign_subsets(listing, SplitConfig()) == TRAIN)
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


def _build_audit(images: ImageSet, **about_files: Any) -> Audit:
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
        splits=_preview_splits(images, pairs),
        **about_files,
    )


def _count_values(values: Iterable[str]) -> CountsByName:
    return dict(Counter(values).most_common())


def _find_copies(images: ImageSet) -> list[list[str]]:
    paths: dict[str, list[str]] = {}
    for path, digest in zip(images.paths, images.digests, strict=True):
        paths.setdefault(digest, []).append(path)
    return [same for same in paths.values() if len(same) > 1]


def _preview_splits(images: ImageSet, pairs: np.ndarray) -> dict[str, SplitPreview]:
    possible = ["stratified"]
    if images.groups is not None:
        possible.append("grouped")
    if images.subsets is not None:
        possible.append("folder")
    return {name: _preview_split(images, SplitConfig(split=name), pairs) for name in possible}


def _preview_split(images: ImageSet, config: SplitConfig, pairs: np.ndarray) -> SplitPreview:
    try:
        subsets = assign_subsets(images, config)
    except UserError as error:
        return SplitPreview(error=str(error))
    split = describe_split(images, subsets)
    images_by_subset = {}
    for subset, name in enumerate(SUBSETS):
        counts = np.bincount(images.labels[subsets == subset], minlength=len(images.classes))
        images_by_subset[name] = dict(zip(images.classes, counts.tolist(), strict=True))
    return SplitPreview(
        images=images_by_subset,
        leaks_groups=split.leaks_groups,
        duplicates=split.duplicate_count,
        near_duplicates=_count_crossing_near_duplicates(subsets, pairs),
    )


def _count_crossing_near_duplicates(subsets: np.ndarray, pairs: np.ndarray) -> int:
    crossing = pairs[subsets[pairs[:, 0]] != subsets[pairs[:, 1]]]
    held_out = {image for image in crossing.ravel().tolist() if subsets[image] != TRAIN}
    return len(held_out)
