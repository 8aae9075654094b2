"""A table that lists images: CSV, TSV, Excel or Parquet.

Its columns are path, label and, optionally, group and split. A path may be an id: the name of a
file without its suffix.
"""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from bioimg.data.distinct_names import require_distinct
from bioimg.data.folder_layout import part_of_name
from bioimg.data.image_index import ImageIndex
from bioimg.data.image_lookup import FoundPaths, find_paths
from bioimg.data.table_file import TextTable, read_table
from bioimg.errors import UserError, unknown_value_error
from bioimg.text import join_first

COLUMN_ROLES = ("path", "label", "group", "split")
REQUIRED_ROLES = ("path", "label")
EXCEL_ERRORS = {"#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#SPILL!"}
VAGUE_NAMES = {"table", "labels", "label", "data", "dataset", "images", "index", "metadata"}
"""Names of tables that say nothing of the images: their folder names the set."""


def list_table(file: Path, columns: str | None = None, images: str | None = None) -> ImageIndex:
    """List the images of a table.

    columns: names of columns that aren't called as their roles: `path=file,label=diagnosis`.
    images:  the folder in which the images are found; by default that of the table.

    Raises:
        UserError: columns, labels or files are missing, a path is listed twice, names of classes or
            groups mean the same, or a split isn't train, val or test.
    """
    source = f"the table of `data`, {file},"
    folder = _image_folder(file, images)
    column_by_role = _parse_columns(columns)
    table = read_table(file, _needed_columns(column_by_role))
    values = _role_values(table, column_by_role)
    _require_values(source, values)
    found = find_paths(source, folder, values["path"])
    values["path"] = found.paths
    _require_single_listing(source, found.paths)
    for role, kind in (("label", "labels"), ("group", "groups")):
        require_distinct(source, kind, values.get(role, ()))
    classes = sorted(set(values["label"]))
    if len(classes) < 2:
        raise UserError(f"{source} holds one class, {classes[0]!r}, but must hold at least two.")
    _sort_by_path(values)
    subsets = None
    if "split" in values:
        subsets = _parse_parts(source, values["split"])
    return ImageIndex(
        name=_set_name(file),
        files=tuple(map(folder.joinpath, values["path"])),
        paths=tuple(values["path"]),
        labels=np.array([classes.index(label) for label in values["label"]], np.int64),
        classes=tuple(classes),
        groups=tuple(values["group"]) if "group" in values else None,
        subsets=subsets,
        assumptions=(*table.assumptions, *_describe_search(found, folder)),
    )


def _image_folder(file: Path, images: str | None) -> Path:
    if images is None:
        return file.parent
    folder = Path(images).expanduser()
    if not folder.is_dir():
        raise UserError(f"the value of `images` is {images!r}, but must be an existing folder.")
    return folder


def _set_name(file: Path) -> str:
    if file.stem.lower() in VAGUE_NAMES:
        return file.resolve().parent.name or file.stem
    return file.stem


def _describe_search(found: FoundPaths, folder: Path) -> list[str]:
    if not found.searched_count:
        return []
    return [
        f"{found.searched_count} of {len(found.paths)} images are found by their names below "
        f"{folder}"
    ]


def _sort_by_path(values: dict[str, list[str]]) -> None:
    paths = values["path"]
    order = sorted(range(len(paths)), key=paths.__getitem__)
    for role, texts in values.items():
        values[role] = [texts[row] for row in order]


def _parse_columns(columns: str | None) -> dict[str, str]:
    """Return the column of each role."""
    column_by_role = {role: role for role in COLUMN_ROLES}
    if not columns:
        return column_by_role
    for pair in columns.split(","):
        role, _, name = pair.partition("=")
        if role.strip() not in COLUMN_ROLES:
            hint = "It renames columns, as in path=file,label=diagnosis."
            raise unknown_value_error("columns", role, COLUMN_ROLES, hint)
        column_by_role[role.strip()] = name.strip()
    return column_by_role


def _needed_columns(column_by_role: dict[str, str]) -> list[str]:
    """Return the columns that a table must have: for required roles, and those that are named."""
    return [name for role, name in column_by_role.items() if role in REQUIRED_ROLES or name != role]


def _role_values(table: TextTable, column_by_role: dict[str, str]) -> dict[str, list[str]]:
    """Return the texts of each role that has a column."""
    values = {}
    for role, name in column_by_role.items():
        if name in table.header:
            values[role] = table.column(name)
    # tables written on Windows
    values["path"] = [path.replace("\\", "/") for path in values["path"]]
    return values


def _require_values(source: str, values: dict[str, list[str]]) -> None:
    if not values["path"]:
        raise UserError(f"{source} holds no rows.")
    for role, texts in values.items():
        empty_rows = [number for number, text in enumerate(texts, start=1) if not text]
        _raise_if_any(source, f"rows without a {role}", empty_rows)
        errors = sorted(EXCEL_ERRORS.intersection(texts))
        _raise_if_any(source, f"errors of Excel in place of a {role}", errors)


def _require_single_listing(source: str, paths: list[str]) -> None:
    counts = Counter(map(os.path.normpath, paths))
    repeated = [path for path, count in counts.items() if count > 1]
    _raise_if_any(source, "paths that are listed twice", repeated)


def _parse_parts(source: str, names: list[str]) -> np.ndarray:
    part_by_name = {name: part_of_name(name) for name in set(names)}
    unknown = sorted(name for name, part in part_by_name.items() if part is None)
    _raise_if_any(source, "values of the split that aren't train, val or test", unknown)
    return np.array([part_by_name[name] for name in names], np.int8)


def _raise_if_any(source: str, problem: str, offenders: list) -> None:
    if offenders:
        raise UserError(f"{source} holds {problem}: {join_first(offenders)}. Fix it.")
