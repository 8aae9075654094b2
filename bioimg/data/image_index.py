"""Images before any is decoded: files, labels, groups and subsets."""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from bioimg.data.image_set import TEST, TRAIN, VAL
from bioimg.errors import UserError
from bioimg.text import join_first

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
SUBSET_BY_NAME = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VAL,
    "valid": VAL,
    "validation": VAL,
    "test": TEST,
    "testing": TEST,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageIndex:
    """Images with their labels. Fields that `ImageSet` has, too, mean the same there."""

    name: str
    files: tuple[Path, ...]
    """One file for each image; empty if `npz_file` contains them all."""
    paths: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    subsets: np.ndarray | None = None
    npz_file: Path | None = None
    ignored_files: tuple[str, ...] = ()
    """Names of files that were found but aren't images or aren't in a class."""
    synthetic: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, rows: np.ndarray) -> "ImageIndex":
        """Return the images in these rows. All classes stay, even those without images."""
        if len(rows) == len(self):
            return self
        return dataclasses.replace(
            self,
            files=tuple(self.files[row] for row in rows) if self.files else (),
            paths=tuple(self.paths[row] for row in rows),
            labels=self.labels[rows],
            groups=self.groups and tuple(self.groups[row] for row in rows),
            subsets=None if self.subsets is None else self.subsets[rows],
        )


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
    if pattern == "parent":
        groups = _parent_folder_names(index)
    else:
        groups = _match_groups(pattern, index.paths)
    return dataclasses.replace(index, groups=tuple(groups))


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
    other_meanings = {*index.classes, *SUBSET_BY_NAME, ""}
    wrong = sorted(set(names) & other_meanings)
    if wrong:
        rule = (
            "a pattern if images are directly in the folder of their class, as they are in: "
            f"{join_first(wrong)}"
        )
        raise _group_pattern_error("parent", rule)
    return names


def _group_pattern_error(pattern: str, rule: str) -> UserError:
    return UserError(
        f"the value of `group_pattern` is '{pattern}', but must be {rule}. Fix it, or leave it out."
    )
