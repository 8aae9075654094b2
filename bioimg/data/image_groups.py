"""Which images belong together: the group (slide, patient) of each, found in its path."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np

from bioimg.data.distinct_names import find_spellings
from bioimg.data.folder_layout import part_of_name
from bioimg.data.image_index import ImageIndex
from bioimg.errors import UserError
from bioimg.text import join_first

PARENT = "parent"
"""The group pattern that takes the name of an image's folder."""
COPIES = "copies"
"""The group pattern that takes together the images that look the same."""


def describe_largest_group(groups: Sequence[str], paths: Sequence[str]) -> str:
    """Describe the largest group by two of its images, the first and the last by file name.

    They show what a wrong pattern has mixed up.
    """
    name, count = Counter(groups).most_common(1)[0]
    members = [path for group, path in zip(groups, paths, strict=True) if group == name]
    members.sort(key=lambda path: (PurePosixPath(path).name, path))
    return f"the largest, {name}, has {count} images, from {members[0]} to {members[-1]}"


def count_effective_groups(groups: Iterable[str]) -> float:
    """Return how many groups of equal size are worth as much as these, for a mean over images.

    It is the number of degrees of freedom of Bell & McCaffrey (2002, Survey Methodology 28), plus
    1: one slide of 200 images beside four of 10 is worth little more than one.

    groups: [images], the group of each.
    """
    sizes = np.array(list(Counter(groups).values()), float)
    if len(sizes) < 2:
        return float(len(sizes))
    shares = sizes / sizes.sum()
    weights = shares / (1 - shares)
    trace_of_square = np.sum(weights**2 * (1 - 2 * shares)) + np.sum(shares * weights) ** 2
    # rounding must not make five equal groups fewer than five
    return round(float(1 / trace_of_square) + 1, 9)


def add_groups(pattern: str | None, index: ImageIndex) -> ImageIndex:
    """Return the same images with groups, as `--group-pattern` describes them.

    An image's group is what the pattern finds in its path, or with `parent` the name of its folder.
    With `copies`, each image is a group for now: which of them are copies shows when they are read.

    Raises:
        UserError: the pattern isn't a regular expression with a (...), some path doesn't match it,
            or the folders only name classes.
    """
    if pattern is None:
        return index
    if pattern == COPIES:
        return dataclasses.replace(index, groups=index.paths)
    groups, merged = merge_spellings(find_group_names(pattern, index))
    assumptions = index.assumptions
    if merged:
        assumptions += (f"groups that differ only in case, blanks or zeros are one: {merged}",)
    return dataclasses.replace(index, groups=groups, assumptions=assumptions)


def find_group_names(pattern: str, index: ImageIndex) -> list[str]:
    """Return the name of each image's group as its path spells it.

    Raises:
        UserError: as `add_groups`.
    """
    if pattern == PARENT:
        return _parent_folder_names(index)
    return _match_groups(pattern, index.paths)


def merge_spellings(names: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Give groups that mean the same one name. Also return which these are, for the user."""
    spellings = find_spellings(names)
    first_name = {name: same[0] for same in spellings for name in same}
    groups = tuple(first_name.get(name, name) for name in names)
    return groups, join_first(" = ".join(same) for same in spellings)


def group_copies(paths: Sequence[str], look_alikes: np.ndarray) -> tuple[str, ...]:
    """Return groups of images that look the same, each named after its first image."""
    first_paths: dict[int, str] = {}
    numbers = look_alikes.tolist()
    for number, path in zip(numbers, paths, strict=True):
        first_paths.setdefault(number, path)
    return tuple(first_paths[number] for number in numbers)


def _match_groups(pattern: str, paths: tuple[str, ...]) -> list[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise _group_pattern_error(pattern, f"a regular expression ({error})") from error
    if not expression.groups:
        rule = "a regular expression with a (...) around the group's name, as in 'HE-(\\d+)'"
        raise _group_pattern_error(pattern, rule)
    groups, unmatched = [], []
    for path in paths:
        match = expression.search(path)
        if match and match[1]:
            groups.append(match[1])
        else:
            unmatched.append(path)
    if unmatched:
        rule = f"found in the path of every image, but isn't in: {join_first(unmatched)}"
        raise _group_pattern_error(pattern, rule)
    return groups


def _parent_folder_names(index: ImageIndex) -> list[str]:
    names = [PurePosixPath(path).parent.name for path in index.paths]
    wrong = sorted(name for name in set(names) if _has_other_meaning(name, index))
    if wrong:
        rule = (
            "a pattern if images are directly in the folder of their class, as they are in: "
            f"{join_first(wrong)}"
        )
        raise _group_pattern_error(PARENT, rule)
    return names


def _has_other_meaning(folder: str, index: ImageIndex) -> bool:
    return folder in ("", *index.classes) or part_of_name(folder) is not None


def _group_pattern_error(pattern: str, rule: str) -> UserError:
    return UserError(
        f"the value of `group_pattern` is '{pattern}', but must be {rule}. Fix it, or leave it out."
    )
