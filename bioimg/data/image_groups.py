"""Which images belong together: the group (slide, patient) of each, found in its path."""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from bioimg.data.distinct_names import find_spellings
from bioimg.data.folder_layout import part_of_name
from bioimg.data.image_index import ImageIndex
from bioimg.errors import UserError
from bioimg.text import join_first

PARENT = "parent"
"""The group pattern that takes the name of an image's folder."""


def describe_largest_group(groups: Sequence[str], paths: Sequence[str]) -> str:
    """Describe the largest group by two of its images, the first and the last by file name.

    They show what a wrong pattern has mixed up.
    """
    name, count = Counter(groups).most_common(1)[0]
    members = [path for group, path in zip(groups, paths, strict=True) if group == name]
    members.sort(key=lambda path: (PurePosixPath(path).name, path))
    return f"the largest, {name}, has {count} images, from {members[0]} to {members[-1]}"


def add_groups(pattern: str | None, index: ImageIndex) -> ImageIndex:
    """Return the same images with groups.

    An image's group is what the pattern finds in its path or, with `parent`, the name of its
    folder.

    Raises:
        UserError: the pattern isn't a regular expression with a (...), some path doesn't match it,
            or the folders only name classes.
    """
    if pattern is None:
        return index
    if pattern == PARENT:
        names = _parent_folder_names(index)
    else:
        names = _match_groups(pattern, index.paths)
    groups, merged = _merge_spellings(names)
    assumptions = index.assumptions
    if merged:
        assumptions += (f"groups that differ only in case, blanks or zeros are one: {merged}",)
    return dataclasses.replace(index, groups=groups, assumptions=assumptions)


def _merge_spellings(names: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Give groups that mean the same one name. Return which these are, for the user."""
    spellings = find_spellings(names)
    first_name = {name: same[0] for same in spellings for name in same}
    groups = tuple(first_name.get(name, name) for name in names)
    return groups, join_first(" = ".join(same) for same in spellings)


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
