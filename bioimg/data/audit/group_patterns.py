"""Guess which part of the paths identifies slides or patients."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bioimg.data.image_index import ImageIndex, add_groups, describe_largest_group
from bioimg.errors import UserError

NUMBERED_WORD = re.compile(r"([A-Za-z]+)([-_ ]?)(?=\d)")
POSITION_WORDS = {
    "row",
    "col",
    "column",
    "x",
    "y",
    "z",
    "t",
    "tile",
    "patch",
    "crop",
    "img",
    "image",
    "frame",
    "page",
    "copy",
    "no",
}
"""Words before a number that is the position or the running number of an image, not its slide."""
PREFIX_PATTERNS = (r"([^/_]+)_[^/]*$", r"([^/-]+)-[^/]*$", r"([^/]+)_[^/_]*$", r"([^/]+)-[^/-]*$")


class PatternGuess(NamedTuple):
    """A value for `group_pattern`, how many groups it makes, and what the largest of them holds."""

    pattern: str
    group_count: int
    largest_group: str


def guess_group_patterns(listing: ImageIndex) -> list[PatternGuess]:
    """Patterns that find three or more groups of two or more images on average, the fewest groups first.

    Candidates are folders below the classes, words with a number in every name (as in HE-03), and what precedes a separator.
    """
    found: dict[tuple[int, ...], PatternGuess] = {}
    classes = _canonical_partition([listing.classes[label] for label in listing.labels])
    for pattern in _candidate_patterns(listing.paths):
        try:
            names = list(add_groups(pattern, listing).groups or ())
        except UserError:  # it doesn't match every path
            continue
        partition = _canonical_partition(names)
        if 3 <= len(set(names)) <= len(listing) // 2 and partition != classes:
            found.setdefault(
                partition,
                PatternGuess(
                    pattern, len(set(names)), describe_largest_group(names, listing.paths)
                ),
            )
    return sorted(found.values(), key=lambda one: one.group_count)


def _candidate_patterns(paths: tuple[str, ...]) -> Iterator[str]:
    yield "parent"
    words = [set(NUMBERED_WORD.findall(path.rsplit("/", 1)[-1])) for path in paths]
    for word, separator in sorted(set.intersection(*words)):
        if word.lower() not in POSITION_WORDS:
            yield rf"{word}{separator}(\d+)"
            yield rf"([^/]*{word}{separator}\d+)"  # if slides of several patients have the same numbers
    yield from PREFIX_PATTERNS


def _canonical_partition(names: Iterable[str]) -> tuple[int, ...]:
    """Which images are grouped together, whatever the groups' names."""
    order: dict[str, int] = {}
    return tuple(order.setdefault(name, len(order)) for name in names)
