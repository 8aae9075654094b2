"""What there is, before anything is decoded: files, labels, groups and parts. Cheap, so that mistakes show at once."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bioimg.config import UserError
from bioimg.data.imageset import ImageSet

FORMATS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
LITTER = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")
PART_NAMES = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2, "testing": 2}
LAYOUT = "Expected is DATA/CLASS/image or DATA/train|val|test/CLASS/image."


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """Image files with their labels, in the order of `paths`; the other fields as in `ImageSet`."""

    name: str
    files: tuple[Path, ...]
    paths: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    parts: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)


Grouped = TypeVar("Grouped", Listing, ImageSet)


def find(data: str, *, group_pattern: str | None = None) -> Listing:
    """List a folder of images, its labels and, by `group_pattern`, its groups.

    Raises:
        UserError: no such folder, no images in it, or fewer than two classes.
    """
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"the value of `data` is {data!r}, but must be a folder of images, and "
            f"{'this is a file' if folder.exists() else 'there is no such folder'}. {LAYOUT}"
        )
    return grouped_by(group_pattern, _folder(folder))


def listed(items: Iterable[object], of: int | None = None) -> str:
    """The first ten of many offenders, and how many there are."""
    items = list(items)
    more = f", ... ({len(items)} in all)" if len(items) > 10 else ""
    return ", ".join(str(item) for item in items[:10]) + more


def grouped_by(pattern: str | None, images: Grouped) -> Grouped:
    """The same images, each in the group that the pattern finds in its path.

    Raises:
        UserError: it isn't a regular expression with a (...), or some path doesn't match.
    """
    if pattern is None:
        return images
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise _bad_pattern(pattern, f"a regular expression ({error})") from error
    if not expression.groups:
        raise _bad_pattern(pattern, "a regular expression with a (...) around what is the group's name, as in 'HE-(\\d+)'")
    matches = [expression.search(path) for path in images.paths]
    names = [(match and match[1]) or "" for match in matches]
    if unmatched := [path for path, name in zip(images.paths, names, strict=True) if not name]:
        raise _bad_pattern(pattern, f"found in the path of every image, and isn't in: {listed(unmatched)}")
    return dataclasses.replace(images, groups=tuple(names))


def _bad_pattern(pattern: str, rule: str) -> UserError:
    return UserError(f"the value of `group_pattern` is {pattern!r}, but must be {rule}. Mend it, or leave it out.")


def _folder(folder: Path) -> Listing:
    tops = sorted(entry.name for entry in _visible(folder) if entry.is_dir())
    has_parts = bool(tops) and all(name.lower() in PART_NAMES for name in tops)
    depth = 1 if has_parts else 0
    found = [(path, path.split("/")) for path in sorted(_images(folder))]
    if not found:
        raise UserError(f"the folder of `data`, {folder}, holds no images ({', '.join(FORMATS)}). {LAYOUT}")
    inside = [(path, steps) for path, steps in found if len(steps) > depth + 1]
    classes = tuple(sorted({steps[depth] for _, steps in inside}))
    _require_classes(folder, classes)
    index = {name: label for label, name in enumerate(classes)}
    return Listing(
        name=folder.resolve().name,
        files=tuple(folder / path for path, _ in inside),
        paths=tuple(path for path, _ in inside),
        labels=np.array([index[steps[depth]] for _, steps in inside], np.int64),
        classes=classes,
        parts=np.array([PART_NAMES[steps[0].lower()] for _, steps in inside], np.int8) if has_parts else None,
    )


def _require_classes(folder: Path, classes: Sequence[str]) -> None:
    if len(classes) < 2:
        held = f"one class, {classes[0]!r}," if classes else "no class folders"
        raise UserError(
            f"the folder of `data`, {folder}, holds {held} but must hold at least two classes, one folder for each. {LAYOUT}"
        )
    same = Counter(name.casefold() for name in classes)
    if alike := [name for name in classes if same[name.casefold()] > 1]:
        raise UserError(
            f"the folder of `data`, {folder}, holds classes that differ only in case: {listed(alike)}. Rename or merge them."
        )


def _images(folder: Path, prefix: str = "", above: tuple[Any, ...] = ()) -> Iterator[str]:
    """Paths of all images in a folder and below it; a link that leads back to a folder above it is not followed."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in _visible(folder):
        if entry.is_dir():
            yield from _images(Path(entry.path), f"{prefix}{entry.name}/", (*above, here))
        elif Path(entry.name).suffix.lower() in FORMATS:
            yield prefix + entry.name


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if not e.name.startswith(".") and e.name.lower() not in LITTER]
    except PermissionError as error:
        raise UserError(f"the folder {folder} in `data` can't be listed: permission denied. Change its permissions.") from error
