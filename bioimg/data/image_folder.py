"""Folders of images: find the files, and make an index of them as the layout says."""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bioimg.data.distinct_names import require_distinct
from bioimg.data.folder_layout import (
    CLASS,
    LAYOUT_HINT,
    PART,
    FolderLayout,
    Steps,
    decide_layout,
    parse_layout,
    part_of_name,
    require_parts,
)
from bioimg.data.image_index import IMAGE_SUFFIXES, ImageIndex
from bioimg.data.masks import require_no_masks
from bioimg.errors import UserError
from bioimg.text import join_first

IGNORED_NAMES = {
    *("thumbs.db", "desktop.ini", "__macosx", "@eadir", "__pycache__", "lost+found"),
    *("$recycle.bin", "recycler", "#recycle", "@recycle", "#snapshot", "@recently-snapshot"),
    "system volume information",
}
"""What systems and file managers leave behind, in lower case."""
RESULTS_FILE = "experiment.json"
"""A folder with this file holds results, also where it lies among the images."""


class FoundFiles(NamedTuple):
    """The files of a folder, by their steps below it: images, and all others that are visible."""

    images: list[Steps]
    others: list[Steps]


def list_folder(
    folder: Path, layout_text: str | None = None, *, parents_are_groups: bool = False
) -> ImageIndex:
    """List a folder of images.

    Hidden files, those that file managers leave behind and folders of results are skipped.

    layout_text:        what the folders mean, if it isn't to be decided by `decide_layout`.
    parents_are_groups: whether the user has said that the innermost folders name groups.

    Raises:
        UserError: there are no images, fewer than two classes, a class without images, masks, names
            of classes or groups that mean the same, or folders that can be understood in several
            ways.
    """
    found = _find_files(folder)
    require_no_masks(folder, found.images)
    if layout_text is None:
        layout = decide_layout(folder, found.images, parents_are_groups=parents_are_groups)
    else:
        layout = parse_layout(layout_text)
    images = [steps for steps in found.images if layout.covers(steps)]
    outside = [steps for steps in found.images if not layout.covers(steps)]
    class_folders = [layout.step(steps, CLASS) for steps in images]
    _require_classes(folder, sorted(set(class_folders)), found)
    if layout.levels[0] == CLASS:
        _require_images_in_each(folder, set(class_folders))
    labels = [_to_name(name) for name in class_folders]
    classes = sorted(set(labels))
    subsets = None
    if PART in layout.levels:
        require_parts(folder, images, layout)
        subsets = np.array([part_of_name(layout.step(steps, PART)) for steps in images], np.int8)
    return ImageIndex(
        name=folder.resolve().name,
        files=tuple(folder.joinpath(*steps) for steps in images),
        paths=tuple(_join_steps(steps) for steps in images),
        labels=np.array([classes.index(label) for label in labels], np.int64),
        classes=tuple(classes),
        groups=_group_names(folder, images, layout),
        subsets=subsets,
        assumptions=(f"folders are read as {layout}",),
        ignored_files=tuple(_join_steps(steps) for steps in (*outside, *found.others)),
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


def list_image_paths(folder: Path) -> list[str]:
    """Return the paths of all images in a folder and below it, relative to it, in order."""
    return sorted(path for path in _iter_files(folder) if _is_image(path))


def to_valid_utf8(name: str) -> str:
    """Replace the bytes of a file name that aren't UTF-8.

    A file can be opened by such a name, but the name can't be written into a table.
    """
    return os.fsencode(name).decode("utf-8", "replace")


def _find_files(folder: Path) -> FoundFiles:
    """Find the files in a folder and below it, in the order of their paths.

    Raises:
        UserError: it holds results, or no images.
    """
    if (folder / RESULTS_FILE).exists():
        raise UserError(
            f"the folder of `data`, {folder}, holds {RESULTS_FILE}, so it is a folder of results. "
            "Give the folder of the images, and keep results elsewhere (--out)."
        )
    found = FoundFiles([], [])
    for path in sorted(_iter_files(folder)):
        steps = tuple(path.split("/"))
        (found.images if _is_image(steps[-1]) else found.others).append(steps)
    if not found.images:
        raise UserError(
            f"No images ({', '.join(IMAGE_SUFFIXES)}) found in the folder of `data`, {folder}. "
            f"{LAYOUT_HINT}"
        )
    return found


def _group_names(
    folder: Path, images: Sequence[Steps], layout: FolderLayout
) -> tuple[str, ...] | None:
    word = layout.group_word
    if word is None:
        return None
    names = [layout.step(steps, word) for steps in images]
    require_distinct(f"the folder of `data`, {folder},", f"names of a {word}", names)
    return tuple(_to_name(name) for name in names)


def _to_name(folder: str) -> str:
    """Return the name of a class or group as a table would give it, without blanks around it."""
    name = to_valid_utf8(folder)
    return name.strip() or name


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _join_steps(steps: Sequence[str]) -> str:
    return to_valid_utf8("/".join(steps))


def _require_classes(folder: Path, classes: Sequence[str], found: FoundFiles) -> None:
    source = f"the folder of `data`, {folder},"
    if len(classes) < 2:
        content = f"one class, {classes[0]!r}," if classes else "no class folders"
        deeper = folder / classes[0] if classes else folder
        hint = LAYOUT_HINT
        # an unpacked archive often has one folder around all others
        if len({steps[1] for steps in found.images if len(steps) > 2}) > 1:
            hint = f"Did you mean {deeper}? {LAYOUT_HINT}"
        raise UserError(
            f"{source} holds {content} but must hold at least two classes, one folder for each. "
            f"{hint}"
        )
    require_distinct(source, "classes", classes)


def _require_images_in_each(folder: Path, classes: Collection[str]) -> None:
    folders = [entry for entry in _scan_visible_entries(folder) if _is_dir(entry)]
    empty = []
    for entry in sorted(folders, key=lambda entry: entry.name):
        if entry.name not in classes and not _holds_results(Path(entry.path)):
            empty.append(entry.name)
    if empty:
        raise UserError(
            f"the folder of `data`, {folder}, holds classes without images: {join_first(empty)}. "
            "Fill these folders or remove them."
        )


def _holds_results(folder: Path) -> bool:
    return any(folder.rglob(RESULTS_FILE))


def _iter_files(
    folder: Path, prefix: str = "", parents: tuple[tuple[int, int], ...] = ()
) -> Iterator[str]:
    """Yield the paths of all files in a folder and below it.

    A link that leads back to a folder above it is not followed, and results are no images.
    """
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in parents:
        return
    entries = _scan_visible_entries(folder)
    if any(entry.name == RESULTS_FILE for entry in entries):
        return
    for entry in entries:
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
