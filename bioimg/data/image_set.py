"""Decoded images and their split, as all parts of the program pass them around."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from bioimg.data.file_array import PixelArray

TRAIN, VAL, TEST = 0, 1, 2
SUBSETS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageSet:
    """Decoded images, all of one size, with what is known about each.

    pixels:   uint8 [N, size, size, 3], RGB: an array, read-only where it is shared between processes, or, for sets larger
              than memory, `FilePixels`, where `pixels[indices]` reads just these rows.
    labels:   int64 [N], an index into `classes`.
    classes:  class names in alphabetical order.
    paths:    N names, relative to the folder, with forward slashes: stable across machines.
    groups:   N names of what images have in common (slide, patient), or None if they are unknown.
    parts:    int8 [N] of TRAIN, VAL, TEST as given by folders, or None.
    digests:  N content hashes of the images as decoded, before any resizing.
    scaling:  the values that became black and white in images of more than 8 bits, for red, green and blue; else None.
    unreadable_skipped: number of unreadable images that were left out.
    synthetic: drawn by a program; shown wherever results are.
    """

    name: str
    pixels: PixelArray
    labels: np.ndarray
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    subsets: np.ndarray | None = None
    digests: tuple[str, ...]
    scaling_limits: tuple[tuple[float, float], ...] | None = None
    unreadable_skipped: int = 0
    synthetic: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """A hash (16 hex digits) of pixels as decoded, labels and parts. Changing a pixel changes it, moving files doesn't.

        The scaling of images of more than 8 bits isn't part of it: it depends on size and split, which recipes may vary.
        """
        return _content_fingerprint(self._content_rows(self.subsets))

    def split_fingerprint(self, parts: np.ndarray) -> str:
        """The fingerprint of a split into `parts`, with the scaling, which depends on the training images."""
        rows = self._content_rows(parts)
        return _content_fingerprint(
            rows if self.scaling_limits is None else (rows, self.scaling_limits)
        )

    def _content_rows(self, parts: np.ndarray | None) -> list[tuple[str, str, str]]:
        names = [SUBSETS[part] for part in parts] if parts is not None else [""] * len(self)
        return sorted(
            zip(self.digests, (self.classes[label] for label in self.labels), names, strict=True)
        )


def _content_fingerprint(content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


class PixelsByPath(Mapping[str, np.ndarray]):
    """Maps an image's path to its pixels, uint8 [size, size, 3], read on access."""

    def __init__(self, images: ImageSet) -> None:
        self._pixels, self._row_by_path = (
            images.pixels,
            {path: place for place, path in enumerate(images.paths)},
        )

    def __getitem__(self, path: str) -> np.ndarray:
        return self._pixels[np.array([self._row_by_path[path]])][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._row_by_path)

    def __len__(self) -> int:
        return len(self._row_by_path)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Split:
    """Which images train, validate and test: sorted int64 indices into an `ImageSet`, disjoint, together all of it."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    leaks_groups: bool | None
    """Whether a known group is in two subsets; None if no groups are known."""
    duplicate_count: int
    """Number of validation and test images with an exact copy, as decoded, in another subset."""
    fingerprint: str
    """A hash (16 hex digits) of the pixels and labels in each subset."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dataset:
    """The images of a trial and the one split of them that training, tables and warnings use."""

    images: ImageSet
    split: Split
