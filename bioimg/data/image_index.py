"""The images that there are, before any is decoded: files, labels, groups and parts."""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from bioimg.data.image_set import ImageSet
from bioimg.errors import UserError
from bioimg.text import join_first

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
SUBSET_BY_NAME = {
    "train": 0,
    "training": 0,
    "val": 1,
    "valid": 1,
    "validation": 1,
    "test": 2,
    "testing": 2,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageIndex:
    """Images with their labels; fields as in `ImageSet`.

    files:   one file for each image; empty if `archive`, an .npz file, contains them all.
    ignored: names of files that were found but aren't images or aren't in a class.
    """

    name: str
    files: tuple[Path, ...]
    paths: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    subsets: np.ndarray | None = None
    npz_file: Path | None = None
    ignored_files: tuple[str, ...] = ()
    synthetic: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, kept: np.ndarray) -> "ImageIndex":
        """The images at the indices `kept`. All classes stay, even those without images."""
        if len(kept) == len(self):
            return self
        return dataclasses.replace(
            self,
            files=tuple(self.files[i] for i in kept) if self.files else (),
            paths=tuple(self.paths[i] for i in kept),
            labels=self.labels[kept],
            groups=self.groups and tuple(self.groups[i] for i in kept),
            subsets=None if self.subsets is None else self.subsets[kept],
        )


ImagesT = TypeVar("ImagesT", ImageIndex, ImageSet)


def describe_largest_group(groups: Sequence[str], paths: Sequence[str]) -> str:
    """The largest group with two of its images, the first and the last by file name, which show what it may mix up."""
    name, count = Counter(groups).most_common(1)[0]
    files = [path for group, path in zip(groups, paths, strict=True) if group == name]
    first, last = (
        end(files, key=lambda path: (PurePosixPath(path).name, path)) for end in (min, max)
    )
    return f"the largest, {name}, has {count} images, from {first} to {last}"


def add_groups(pattern: str | None, images: ImagesT) -> ImagesT:
    """The same images with groups: what the pattern finds in each path or, with `parent`, the name of the image's folder.

    Raises:
        UserError: it isn't a regular expression with a (...), some path doesn't match, or folders only name classes.
    """
    if pattern is None:
        return images
    names = (
        _parent_folder_names(images)
        if pattern == "parent"
        else _match_groups(pattern, images.paths)
    )
    return dataclasses.replace(images, groups=tuple(names))


def _match_groups(pattern: str, paths: tuple[str, ...]) -> list[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise _group_pattern_error(pattern, f"a regular expression ({error})") from error
    if not expression.groups:
        raise _group_pattern_error(
            pattern, "a regular expression with a (...) around the group's name, as in 'HE-(\\d+)'"
        )
    matches = [expression.search(path) for path in paths]
    names = [(match and match[1]) or "" for match in matches]
    if unmatched := [path for path, name in zip(paths, names, strict=True) if not name]:
        raise _group_pattern_error(
            pattern, f"found in the path of every image, but isn't in: {join_first(unmatched)}"
        )
    return names


def _parent_folder_names(images: ImagesT) -> list[str]:
    names = [PurePosixPath(path).parent.name for path in images.paths]
    if same := sorted(set(names) & {*images.classes, *SUBSET_BY_NAME, ""}):
        rule = "a pattern if images are directly in the folder of their class, as they are in"
        raise _group_pattern_error("parent", f"{rule}: {join_first(same)}")
    return names


def _group_pattern_error(pattern: str, rule: str) -> UserError:
    return UserError(
        f"the value of `group_pattern` is '{pattern}', but must be {rule}. Fix it, or leave it out."
    )
