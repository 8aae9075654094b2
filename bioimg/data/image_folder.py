"""Folders of images: CLASS/image or train|val|test/CLASS/image, at any depth below the class."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
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
        UserError: there are no images, fewer than two classes, a class without images, or classes
            that differ only in case.
    """
    # the steps of each path below the folder, as in ("train", "tumour", "slide-1.png")
    files = [path.split("/") for path in sorted(_iter_files(folder))]
    if not any(_is_image(steps[-1]) for steps in files):
        raise UserError(
            f"No images ({', '.join(IMAGE_SUFFIXES)}) found in the folder of `data`, {folder}. "
            f"{LAYOUT_HINT}"
        )
    top_folders = sorted(entry.name for entry in _scan_visible_entries(folder) if _is_dir(entry))
    lower_case_names = {name.lower() for name in top_folders}
    has_subsets = bool(top_folders) and lower_case_names <= SUBSET_BY_NAME.keys()
    class_step = 1 if has_subsets else 0

    images, ignored = [], []
    for steps in files:
        is_in_class = len(steps) > class_step + 1
        if _is_image(steps[-1]) and is_in_class:
            images.append(steps)
        else:
            ignored.append(steps)
    labels = [steps[class_step] for steps in images]
    classes = tuple(sorted(set(labels)))
    _require_classes(folder, classes)
    if not has_subsets:
        _require_images_in_each(folder, classes, top_folders)
    subsets = None
    if has_subsets:
        subsets = np.array([SUBSET_BY_NAME[steps[0].lower()] for steps in images], np.int8)
    return ImageIndex(
        name=folder.resolve().name,
        files=tuple(folder.joinpath(*steps) for steps in images),
        paths=tuple(_join_steps(steps) for steps in images),
        labels=np.array([classes.index(label) for label in labels], np.int64),
        classes=tuple(to_valid_utf8(name) for name in classes),
        subsets=subsets,
        ignored_files=tuple(_join_steps(steps) for steps in ignored),
    )


def list_unlabelled_images(path: Path) -> ImageIndex:
    """List the images in a folder, at any depth, or a single image file. Their classes are unknown.

    Raises:
        UserError: there are none.
    """
    folder = path
    names = []
    if path.is_file():
        folder = path.parent
        names = [path.name]
    elif path.is_dir():
        names = sorted(_iter_files(path))
    images = [name for name in names if _is_image(name)]
    if not images:
        raise UserError(
            f"the value of `images` is {str(path)!r}, but must be an image or a folder of images "
            f"({', '.join(IMAGE_SUFFIXES)})."
        )
    return ImageIndex(
        name=path.resolve().name,
        files=tuple(folder / name for name in images),
        paths=tuple(map(to_valid_utf8, images)),
        labels=np.zeros(len(images), np.int64),
        classes=(),
    )


def to_valid_utf8(name: str) -> str:
    """Replace the bytes of a file name that aren't UTF-8.

    A file can be opened by such a name, but the name can't be written into a table.
    """
    return os.fsencode(name).decode("utf-8", "replace")


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _join_steps(steps: Sequence[str]) -> str:
    return to_valid_utf8("/".join(steps))


def _require_classes(folder: Path, classes: Sequence[str]) -> None:
    if len(classes) < 2:
        content = f"one class, {classes[0]!r}," if classes else "no class folders"
        raise UserError(
            f"the folder of `data`, {folder}, holds {content} but must hold at least two classes, "
            f"one folder for each. {LAYOUT_HINT}"
        )
    counts = Counter(map(_casefold_name, classes))
    similar = [name for name in classes if counts[_casefold_name(name)] > 1]
    if similar:
        raise UserError(
            f"the folder of `data`, {folder}, holds classes that differ only in case: "
            f"{join_first(similar)}. Rename or merge them."
        )


def _require_images_in_each(
    folder: Path, classes: Sequence[str], class_folders: Sequence[str]
) -> None:
    empty = [name for name in class_folders if name not in classes]
    if empty:
        raise UserError(
            f"the folder of `data`, {folder}, holds classes without images: {join_first(empty)}. "
            "Fill these folders or remove them."
        )


def _casefold_name(name: str) -> str:
    return normalize("NFC", name).casefold().strip()


def _iter_files(
    folder: Path, prefix: str = "", parents: tuple[tuple[int, int], ...] = ()
) -> Iterator[str]:
    """Yield the paths of all files in a folder and below it.

    A link that leads back to a folder above it is not followed.
    """
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in parents:
        return
    for entry in _scan_visible_entries(folder):
        if _is_dir(entry):
            yield from _iter_files(Path(entry.path), f"{prefix}{entry.name}/", (*parents, identity))
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
            return [entry for entry in entries if _is_visible(entry.name)]
    except OSError as error:
        raise UserError(
            f"the folder {folder} in `data` can't be listed: {str(error.strerror).lower()}. Change "
            "its permissions, or move it."
        ) from error


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in IGNORED_NAMES
