"""Guess which part of the paths identifies slides or patients."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bioimg.data.image_groups import add_groups, describe_largest_group
from bioimg.data.image_index import ImageIndex
from bioimg.errors import UserError

MIN_GROUPS = 3
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


def guess_group_patterns(index: ImageIndex) -> list[PatternGuess]:
    """Find patterns that make three or more groups of two or more images on average.

    Candidates are folders below the classes, words with a number in every name (as in HE-03), and
    what precedes a separator. Of several patterns that make the same groups, the first is
    returned; patterns that only separate the classes are not. The fewest groups come first.
    """
    guesses: dict[tuple[int, ...], PatternGuess] = {}
    class_partition = _number_by_first_use(index.classes[label] for label in index.labels)
    for pattern in _candidate_patterns(index.paths):
        try:
            groups = add_groups(pattern, index).groups or ()
        except UserError:  # it doesn't match every path
            continue
        partition = _number_by_first_use(groups)
        count = len(set(groups))
        has_useful_size = MIN_GROUPS <= count <= len(index) // 2
        if has_useful_size and partition != class_partition and partition not in guesses:
            largest = describe_largest_group(groups, index.paths)
            guesses[partition] = PatternGuess(pattern, count, largest)
    return sorted(guesses.values(), key=lambda guess: guess.group_count)


def _candidate_patterns(paths: tuple[str, ...]) -> Iterator[str]:
    yield "parent"
    words_by_name = [set(NUMBERED_WORD.findall(path.rsplit("/", 1)[-1])) for path in paths]
    for word, separator in sorted(set.intersection(*words_by_name)):
        if word.lower() not in POSITION_WORDS:
            yield rf"{word}{separator}(\d+)"
            # for slides of several patients that have the same numbers
            yield rf"([^/]*{word}{separator}\d+)"
    yield from PREFIX_PATTERNS


def _number_by_first_use(names: Iterable[str]) -> tuple[int, ...]:
    """Replace each name by the order of its first use: equal results mean equal groups."""
    numbers: dict[str, int] = {}
    return tuple(numbers.setdefault(name, len(numbers)) for name in names)
