"""Inspect a set of images before anything is trained on it, for `bioimg data`."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from bioimg.config import DatasetConfig, SplitConfig
from bioimg.data.copies import find_contradictions, find_copies, find_look_alikes
from bioimg.data.group_patterns import PatternGuess, guess_group_patterns
from bioimg.data.image_groups import COPIES, group_copies
from bioimg.data.image_index import ImageIndex
from bioimg.data.image_set import SUBSETS, TRAIN, Dataset, ImageSet
from bioimg.data.intensity_scaling import scale_to_8bit
from bioimg.data.load import make_image_set
from bioimg.data.look_alikes import read_look_alikes
from bioimg.data.pixel_cache import DecodedSet, DecodeOptions, ProgressCallback, read_images
from bioimg.data.sources import NPZ_SUFFIX, list_images
from bioimg.data.split_warnings import split_warnings
from bioimg.data.splitting import assign_subsets, describe_split
from bioimg.errors import UserError

CountsByName = dict[str, int]

StepCallback = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done and how much it is in all."""


@dataclass(frozen=True, kw_only=True)
class SplitPreview:
    """What a split would contain or, in `error`, why it isn't possible."""

    images: dict[str, CountsByName] = field(default_factory=dict)
    """Number of images of each class in each subset."""
    leaks_groups: bool | None = None
    """As in `Split`. The next two fields are its numbers of copies."""
    duplicates: int | None = None
    look_alikes: int | None = None
    warnings: list[str] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Audit:
    """A set of images in numbers and names. Files that can't be read are only in `unreadable`."""

    name: str
    synthetic: bool
    fingerprint: str
    assumptions: list[str]
    """How the source was understood."""
    images: int
    classes: CountsByName
    imbalance: float
    """Size of the largest class divided by that of the smallest."""
    sizes: CountsByName
    """Number of images of each size, the most frequent first. The next two fields are alike."""
    stored: CountsByName
    formats: CountsByName
    scaling: Sequence[tuple[float, float]] | None
    """The limits between which images of more than 8 bits are scaled."""
    groups: CountsByName | None
    guessed_patterns: list[PatternGuess]
    """Values of `group_pattern` that would make groups."""
    unreadable: dict[str, str]
    """Why files can't be read, by path."""
    ignored: list[str]
    duplicates: list[list[str]]
    """Sets of paths whose decoded pixels are the same."""
    contradictions: list[list[str]]
    """Those of them that have several labels."""
    look_alikes: list[list[str]]
    """Sets of paths of images that look the same, one path of exact copies."""
    splits: dict[str, SplitPreview]
    """By the value of `split`."""


def audit_images(
    config: DatasetConfig, progress: StepCallback = lambda step, done, total: None
) -> tuple[Audit, ImageSet]:
    """Inspect the images of `config.data` as a trial would see them.

    Raises:
        UserError: there are no images, there is only one class, or no image can be read.
    """
    index = list_images(config)
    options = DecodeOptions.from_config(config)
    decoded = read_images(
        index, options, skip_unreadable=True, progress=partial(progress, "reading images")
    )
    readable = index.select(decoded.readable_indices)
    look_alikes = read_look_alikes(decoded, partial(progress, "comparing images"))
    if config.group_pattern == COPIES:
        readable = dataclasses.replace(readable, groups=group_copies(readable.paths, look_alikes))
    pixels, limits = scale_to_8bit(decoded, config.scaling, _training_rows(readable))
    images = make_image_set(readable, decoded, pixels, limits, look_alikes)
    counts = images.class_counts
    audit = Audit(
        name=images.name,
        synthetic=images.synthetic,
        fingerprint=images.fingerprint,
        assumptions=list(index.assumptions),
        images=len(images),
        classes=dict(zip(images.classes, counts.tolist(), strict=True)),
        imbalance=float(counts.max() / max(counts.min(), 1)),
        scaling=images.scaling_limits,
        groups=None if images.groups is None else _count_values(images.groups),
        guessed_patterns=[] if images.groups else guess_group_patterns(readable),
        unreadable=decoded.errors_by_path(index.paths),
        ignored=list(index.ignored_files),
        duplicates=find_copies(images),
        contradictions=find_contradictions(images),
        look_alikes=find_look_alikes(images),
        splits=_preview_splits(images, partial(progress, "splitting images")),
        **_file_counts(readable, decoded),
    )
    return audit, images


def _training_rows(index: ImageIndex) -> np.ndarray:
    try:
        return np.flatnonzero(assign_subsets(index, SplitConfig()) == TRAIN)
    except UserError:  # reported with the splits
        return np.arange(len(index))


def _file_counts(readable: ImageIndex, decoded: DecodedSet) -> dict[str, Any]:
    infos = decoded.readable_infos
    if readable.files:
        formats = _count_values(PurePosixPath(path).suffix.lower() for path in readable.paths)
    else:
        formats = {NPZ_SUFFIX: len(infos)}
    return {
        "sizes": _count_values(f"{info.width} x {info.height}" for info in infos),
        "stored": _count_values(info.stored_type for info in infos),
        "formats": formats,
    }


def _count_values(values: Iterable[str]) -> CountsByName:
    return dict(Counter(values).most_common())


def _preview_splits(images: ImageSet, progress: ProgressCallback) -> dict[str, SplitPreview]:
    methods = ["stratified"]
    if images.groups is not None:
        methods.append("grouped")
    if images.subsets is not None:
        methods.append("folder")
    previews = {}
    for number, method in enumerate(methods):
        progress(number, len(methods))
        previews[method] = _preview_split(images, SplitConfig(split=method))
    return previews


def _preview_split(images: ImageSet, config: SplitConfig) -> SplitPreview:
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
        look_alikes=split.look_alike_count,
        warnings=list(split_warnings(Dataset(images=images, split=split), config)),
    )
