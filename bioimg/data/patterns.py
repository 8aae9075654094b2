"""Guess which part of the paths identifies slides or patients."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bioimg.config import UserError
from bioimg.data.listing import Listing, grouped_by, largest

NUMBERED = re.compile(r"([A-Za-z]+)([-_ ]?)(?=\d)")
POSITIONS = {"row", "col", "column", "x", "y", "z", "t", "tile", "patch", "crop", "img", "image", "frame", "page", "copy", "no"}
"""Words before a number that is the position or the running number of an image, not its slide."""
FIRST_PARTS = (r"([^/_]+)_[^/]*$", r"([^/-]+)-[^/]*$", r"([^/]+)_[^/_]*$", r"([^/]+)-[^/-]*$")


class Guess(NamedTuple):
    """A value for `group_pattern`, how many groups it makes, and what the largest of them holds."""

    pattern: str
    groups: int
    example: str


def guess(listing: Listing) -> list[Guess]:
    """Patterns that find three or more groups of two or more images on average, the fewest groups first.

    Candidates are folders below the classes, words with a number in every name (as in HE-03), and what precedes a separator.
    """
    found: dict[tuple[int, ...], Guess] = {}
    classes = _partition([listing.classes[label] for label in listing.labels])
    for pattern in _candidates(listing.paths):
        try:
            names = list(grouped_by(pattern, listing).groups or ())
        except UserError:  # it doesn't match every path
            continue
        partition = _partition(names)
        if 3 <= len(set(names)) <= len(listing) // 2 and partition != classes:
            found.setdefault(partition, Guess(pattern, len(set(names)), largest(names, listing.paths)))
    return sorted(found.values(), key=lambda one: one.groups)


def _candidates(paths: tuple[str, ...]) -> Iterator[str]:
    yield "parent"
    words = [set(NUMBERED.findall(path.rsplit("/", 1)[-1])) for path in paths]
    for word, separator in sorted(set.intersection(*words)):
        if word.lower() not in POSITIONS:
            yield rf"{word}{separator}(\d+)"
            yield rf"([^/]*{word}{separator}\d+)"  # if slides of several patients have the same numbers
    yield from FIRST_PARTS


def _partition(names: Iterable[str]) -> tuple[int, ...]:
    """Which images are grouped together, whatever the groups' names."""
    order: dict[str, int] = {}
    return tuple(order.setdefault(name, len(order)) for name in names)
