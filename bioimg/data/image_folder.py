"""Folders of images: CLASS/image or train|val|test/CLASS/image, with images at any depth below their class."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np

from bioimg.data.image_index import IMAGE_SUFFIXES, SUBSET_BY_NAME, ImageIndex
from bioimg.errors import UserError
from bioimg.text import join_first

IGNORED_NAMES = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")
LAYOUT_HINT = "Expected: DATA/CLASS/image or DATA/train|val|test/CLASS/image."


def list_folder(folder: Path) -> ImageIndex:
    """List a folder of images. Hidden files and those that file managers leave behind are skipped.

    Raises:
        UserError: there are no images, fewer than two classes, a class without images, or classes that differ only in case.
    """
    files = [path.split("/") for path in sorted(_iter_files(folder))]
    if not any(_is_image(steps) for steps in files):
        raise UserError(
            f"the folder of `data`, {folder}, holds no images ({', '.join(IMAGE_SUFFIXES)}). {LAYOUT_HINT}"
        )
    tops = sorted(entry.name for entry in _scan_visible_entries(folder) if _is_dir(entry))
    has_parts = bool(tops) and all(name.lower() in SUBSET_BY_NAME for name in tops)
    depth = 1 if has_parts else 0
    inside = [steps for steps in files if _is_image(steps) and len(steps) > depth + 1]
    labels = [steps[depth] for steps in inside]
    classes = tuple(sorted(set(labels)))
    _require_classes(folder, classes, () if has_parts else tops)
    return ImageIndex(
        name=folder.resolve().name,
        files=tuple(folder.joinpath(*steps) for steps in inside),
        paths=tuple(to_valid_utf8("/".join(steps)) for steps in inside),
        labels=np.array([classes.index(label) for label in labels], np.int64),
        classes=tuple(to_valid_utf8(name) for name in classes),
        subsets=np.array([SUBSET_BY_NAME[steps[0].lower()] for steps in inside], np.int8)
        if has_parts
        else None,
        ignored_files=tuple(
            to_valid_utf8("/".join(steps))
            for steps in files
            if not _is_image(steps) or len(steps) <= depth + 1
        ),
    )


def list_unlabelled_images(place: Path) -> ImageIndex:
    """List the images in a folder, at any depth, or a single image file. Their classes are unknown.

    Raises:
        UserError: there are none.
    """
    files = (
        [place.name] if place.is_file() else sorted(_iter_files(place)) if place.is_dir() else []
    )
    found = [path for path in files if _is_image([path])]
    if not found:
        raise UserError(
            f"the value of `images` is {str(place)!r}, but must be an image or a folder of images ({', '.join(IMAGE_SUFFIXES)})."
        )
    return ImageIndex(
        name=place.resolve().name,
        files=tuple((place.parent if place.is_file() else place) / path for path in found),
        paths=tuple(map(to_valid_utf8, found)),
        labels=np.zeros(len(found), np.int64),
        classes=(),
    )


def _is_image(steps: Sequence[str]) -> bool:
    return Path(steps[-1]).suffix.lower() in IMAGE_SUFFIXES


def to_valid_utf8(name: str) -> str:
    """A file name with bytes that aren't UTF-8 replaced: it could be opened as it is, but not written into a table."""
    return os.fsencode(name).decode("utf-8", "replace")


def _require_classes(folder: Path, classes: Sequence[str], tops: Sequence[str]) -> None:
    if len(classes) < 2:
        held = f"one class, {classes[0]!r}," if classes else "no class folders"
        raise UserError(
            f"the folder of `data`, {folder}, holds {held} but must hold at least two classes, one folder for each. {LAYOUT_HINT}"
        )
    if empty := [name for name in tops if name not in classes]:
        raise UserError(
            f"the folder of `data`, {folder}, holds classes without images: {join_first(empty)}. Fill these folders or remove them."
        )
    same = Counter(_casefold_name(name) for name in classes)
    if twins := [name for name in classes if same[_casefold_name(name)] > 1]:
        raise UserError(
            f"the folder of `data`, {folder}, holds classes that differ only in case: {join_first(twins)}. Rename or merge them."
        )


def _casefold_name(name: str) -> str:
    return normalize("NFC", name).casefold().strip()


def _iter_files(folder: Path, prefix: str = "", above: tuple[Any, ...] = ()) -> Iterator[str]:
    """Paths of all files in a folder and below it; a link that leads back to a folder above it is not followed."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in _scan_visible_entries(folder):
        if _is_dir(entry):
            yield from _iter_files(Path(entry.path), f"{prefix}{entry.name}/", (*above, here))
        else:
            yield prefix + entry.name


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _scan_visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [
                e
                for e in entries
                if not e.name.startswith(".") and e.name.lower() not in IGNORED_NAMES
            ]
    except OSError as error:
        raise UserError(
            f"the folder {folder} in `data` can't be listed: {str(error.strerror).lower()}. Change its permissions, or move it."
        ) from error
