"""Guess which part of the paths identifies slides or patients."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from bioimg.data.image_groups import (
    PARENT,
    describe_largest_group,
    find_group_names,
    merge_spellings,
)
from bioimg.data.image_index import ImageIndex
from bioimg.data.image_set import LikelyGroups
from bioimg.errors import UserError

MIN_GROUPS = 3
PATIENT_BARCODE = r"(TCGA-\w{2}-\w{4})"
"""The patient in the names of The Cancer Genome Atlas."""
NUMBERED_WORD = re.compile(r"([A-Za-z]+)([-_ ]?)(?=\d)")
POSITION_WORDS = {
    *("row", "col", "column", "x", "y", "z", "t", "tile", "patch", "crop", "img", "image", "frame"),
    *("page", "copy", "no", "rot", "rotated", "rotation", "angle", "flip", "aug", "augmented"),
}
"""Words before a number that says where an image lies, how it was turned, or which one it is."""
SEPARATORS = ("_", "-")
MAX_PREFIX_WORDS = 3

Partition = tuple[int, ...]
"""The number of each image's group, in order of first use: equal for equal groups."""


class PatternGuess(NamedTuple):
    """A value for `group_pattern`, how many groups it makes, and what the largest of them holds."""

    pattern: str
    group_count: int
    largest_group: str


def find_likely_groups(index: ImageIndex) -> LikelyGroups | None:
    """Return the groups that paths suggest, if none are known or the known ones mix these up."""
    guesses = guess_group_patterns(index)
    if not guesses:
        return None
    best = guesses[0]
    if index.groups is not None:
        mixes_prefixes = _partition(index.groups) in _mixing_partitions(index)
        if best.pattern != PATIENT_BARCODE and not mixes_prefixes:
            return None
    return LikelyGroups(best.pattern, _useful_groups(best.pattern, index))


def guess_group_patterns(index: ImageIndex) -> list[PatternGuess]:
    """Find patterns that make three or more groups of two or more images on average.

    Candidates are the patients of TCGA, folders below the classes, words with a number in every
    name (as in HE-03), and what precedes a separator. Of several patterns that make the same
    groups, the first is returned. Patterns are left out that only separate the classes, or whose
    numbers start again for each patient. The patients of TCGA come first, then the fewest groups.
    """
    excluded = {_partition(index.classes[label] for label in index.labels)}
    excluded |= _mixing_partitions(index) | _position_partitions(index)
    guesses: dict[Partition, PatternGuess] = {}
    for pattern in _candidate_patterns(index.paths):
        groups = _useful_groups(pattern, index)
        partition = _partition(groups)
        if groups and partition not in excluded and partition not in guesses:
            largest = describe_largest_group(groups, index.paths)
            guesses[partition] = PatternGuess(pattern, len(set(groups)), largest)
    return sorted(
        guesses.values(), key=lambda guess: (guess.pattern != PATIENT_BARCODE, guess.group_count)
    )


def _useful_groups(pattern: str, index: ImageIndex) -> tuple[str, ...]:
    """Return the groups that a pattern makes, or nothing if they are too few or too small."""
    try:
        names = find_group_names(pattern, index)
    except UserError:  # it doesn't match every path
        return ()
    has_useful_size = MIN_GROUPS <= len(set(names)) <= len(index) // 2
    return merge_spellings(names)[0] if has_useful_size else ()


def _mixing_partitions(index: ImageIndex) -> set[Partition]:
    """Return the groups of numbers that start again for each patient, as in P7_slide1, P8_slide1.

    With what precedes them, such numbers make more groups of two or more images.
    """
    partitions = set()
    for word in _numbered_words(index.paths):
        numbers = _useful_groups(_number_pattern(word), index)
        whole = _useful_groups(_prefix_and_number_pattern(word), index)
        repeated = [name for name, count in Counter(whole).items() if count > 1]
        if numbers and len(repeated) > len(set(numbers)):
            partitions.add(_partition(numbers))
    return partitions


def _position_partitions(index: ImageIndex) -> set[Partition]:
    """Return the groups of numbers that say where an image lies or how it was turned."""
    words = [word for word in _words_before_numbers(index.paths) if not _can_name_groups(word)]
    return {_partition(_useful_groups(_number_pattern(word), index)) for word in words}


def _candidate_patterns(paths: Sequence[str]) -> Iterator[str]:
    yield PATIENT_BARCODE
    yield PARENT
    for word in _numbered_words(paths):
        yield _number_pattern(word)
        yield _prefix_and_number_pattern(word)
    for separator in SEPARATORS:
        for words in range(1, MAX_PREFIX_WORDS + 1):
            prefix = separator.join([rf"[^/{separator}]+"] * words)
            yield rf"({prefix}){separator}[^/]*$"
        # all but the last word
        yield rf"([^/]+){separator}[^/{separator}]*$"


def _numbered_words(paths: Iterable[str]) -> list[str]:
    """Return the words before a number in each name that may name groups, as in `HE-`."""
    return [word for word in _words_before_numbers(paths) if _can_name_groups(word)]


def _words_before_numbers(paths: Iterable[str]) -> list[str]:
    """Return the words that precede a number in each name, with their separator."""
    words_by_name = [set(NUMBERED_WORD.findall(path.rsplit("/", 1)[-1])) for path in paths]
    common = set.intersection(*words_by_name)
    return sorted(word + separator for word, separator in common)


def _can_name_groups(word: str) -> bool:
    return word.rstrip("-_ ").lower() not in POSITION_WORDS


def _number_pattern(word: str) -> str:
    return rf"{word}(\d+)"


def _prefix_and_number_pattern(word: str) -> str:
    return rf"([^/]*{word}\d+)"


def _partition(names: Iterable[str]) -> Partition:
    numbers: dict[str, int] = {}
    return tuple(numbers.setdefault(name, len(numbers)) for name in names)
