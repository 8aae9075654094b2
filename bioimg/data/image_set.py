"""Decoded images and their split, as all parts of the program pass them around."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bioimg.data.file_array import PixelArray

TRAIN, VAL, TEST = 0, 1, 2
SUBSETS = ("train", "val", "test")

ScalingLimits = tuple[tuple[float, float], ...]
"""The values that become 0 and 255, for red, green and blue."""


class LikelyGroups(NamedTuple):
    """A value of `group_pattern` that may be meant, and the N groups that it makes."""

    pattern: str
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageSet:
    """Decoded images, all of one size, with what is known about each."""

    name: str
    pixels: PixelArray
    """uint8 [N, size, size, 3], RGB.

    An array, read-only where processes share it. For sets larger than memory it is a `FileArray`,
    where `pixels[indices]` reads just these rows.
    """
    labels: np.ndarray
    """int64 [N], indices into `classes`."""
    classes: tuple[str, ...]
    """Class names in alphabetical order."""
    paths: tuple[str, ...]
    """N names, relative to the folder, with forward slashes: the same on every machine."""
    groups: tuple[str, ...] | None = None
    """N names of what images have in common (slide, patient), or None if they are unknown."""
    subsets: np.ndarray | None = None
    """int8 [N] of TRAIN, VAL, TEST as given by folders, a table or a file, or None."""
    digests: tuple[str, ...]
    """N content hashes of the images as decoded, before any resizing."""
    look_alikes: np.ndarray | None = None
    """int64 [N], the same number for images that look the same (`bioimg.data.look_alikes`)."""
    likely_groups: LikelyGroups | None = None
    """Groups that file names suggest, where they aren't the known ones."""
    ignored_count: int = 0
    """Number of files that were left out though they may be images."""
    scaling_limits: ScalingLimits | None = None
    """The limits between which images of more than 8 bits were scaled; None for 8-bit images."""
    unreadable_skipped: int = 0
    """Number of unreadable images that were left out."""
    synthetic: bool = False
    """Whether a program drew the images, which is shown wherever results are."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def class_counts(self) -> np.ndarray:
        """The number of images of each class, int64 [C]."""
        return np.bincount(self.labels, minlength=len(self.classes))

    @property
    def fingerprint(self) -> str:
        """A hash (16 hex digits) of pixels as decoded, labels and given subsets.

        Changing a pixel changes it, moving files doesn't. The scaling of images of more than 8 bits
        isn't part of it. It depends on size and split, which configurations may vary.
        """
        return _content_fingerprint(self._content_rows(self.subsets))

    def split_fingerprint(self, subsets: np.ndarray) -> str:
        """Return the fingerprint of a split, with the scaling, which depends on the split."""
        rows = self._content_rows(subsets)
        if self.scaling_limits is None:
            return _content_fingerprint(rows)
        return _content_fingerprint((rows, self.scaling_limits))

    def _content_rows(self, subsets: np.ndarray | None) -> list[tuple[str, str, str]]:
        labels = [self.classes[label] for label in self.labels]
        if subsets is None:
            subset_names = [""] * len(self)
        else:
            subset_names = [SUBSETS[subset] for subset in subsets]
        return sorted(zip(self.digests, labels, subset_names, strict=True))


def _content_fingerprint(content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


class PixelsByPath(Mapping[str, np.ndarray]):
    """Map an image's path to its pixels, uint8 [size, size, 3], read on access."""

    def __init__(self, images: ImageSet) -> None:
        self._pixels = images.pixels
        self._row_by_path = {path: row for row, path in enumerate(images.paths)}

    def __getitem__(self, path: str) -> np.ndarray:
        return self._pixels[np.array([self._row_by_path[path]])][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._row_by_path)

    def __len__(self) -> int:
        return len(self._row_by_path)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Split:
    """Which images train, validate and test.

    train, val, test: sorted int64 indices into an `ImageSet`, disjoint, together all of it.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    leaks_groups: bool | None
    """Whether a known group is in two subsets; None if no groups are known."""
    duplicate_count: int
    """Number of validation and test images with an exact copy, as decoded, in another subset."""
    look_alike_count: int
    """Number of other validation and test images that look like one in another subset."""
    leaked_pattern: str | None
    """The value of `group_pattern` whose likely groups are in several subsets, if they are."""
    fingerprint: str
    """A hash (16 hex digits) of the pixels and labels in each subset."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dataset:
    """The images of a trial and the one split of them that training, tables and warnings use."""

    images: ImageSet
    split: Split
