"""A table that lists images: CSV, TSV or Parquet.

Its columns are path, label and, optionally, group and split.
"""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from bioimg.data.image_index import SUBSET_BY_NAME, ImageIndex
from bioimg.errors import UserError, unknown_value_error
from bioimg.text import join_first

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
COLUMN_ROLES = ("path", "label", "group", "split")
REQUIRED_ROLES = ("path", "label")


def list_table(file: Path, columns: str | None = None) -> ImageIndex:
    """List the images of a table. Paths are relative to its folder.

    `columns` names columns that aren't called as their roles, as in `path=file,label=diagnosis`.

    Raises:
        UserError: columns, labels or files are missing, a path is listed twice, or a split isn't
            train, val or test.
    """
    column_by_role = _parse_columns(columns)
    values = _read_columns(file, column_by_role)
    _validate_values(file, values)
    classes: tuple[str, ...] = tuple(sorted(set(values["label"])))
    if len(classes) < 2:
        only_class = values["label"][0]
        raise UserError(
            f"the table of `data`, {file}, holds one class, {only_class!r}, but must hold at "
            "least two."
        )
    _sort_by_path(values)
    paths = tuple(values["path"])
    labels = [classes.index(label) for label in values["label"]]
    groups = None
    if "group" in values:
        groups = tuple(values["group"])
    subsets = None
    if "split" in values:
        subset_numbers = [SUBSET_BY_NAME[name.lower()] for name in values["split"]]
        subsets = np.array(subset_numbers, np.int8)
    return ImageIndex(
        name=file.stem,
        files=tuple(map(file.parent.joinpath, paths)),
        paths=paths,
        labels=np.array(labels, np.int64),
        classes=classes,
        groups=groups,
        subsets=subsets,
    )


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


def _read_columns(file: Path, column_by_role: dict[str, str]) -> dict[str, list[str]]:
    """Return the texts of each role that has a column."""
    table = _read_table(file)
    for role, name in column_by_role.items():
        is_needed = role in REQUIRED_ROLES or name != role
        if is_needed and name not in table.column_names:
            hint = f"The table {file} has no such column for the {role}."
            raise unknown_value_error("columns", name, table.column_names, hint)
    if not table.num_rows:
        raise UserError(f"the table of `data`, {file}, holds no rows.")
    values = {}
    for role, name in column_by_role.items():
        if name in table.column_names:
            values[role] = _column_texts(table[name])
    # tables written on Windows
    values["path"] = [path.replace("\\", "/") for path in values["path"]]
    return values


def _read_table(file: Path) -> pa.Table:
    suffix = file.suffix.lower()
    try:
        if suffix == ".parquet":
            return parquet.read_table(file)
        delimiter = "\t" if suffix == ".tsv" else ","
        options = csv.ParseOptions(delimiter=delimiter)
        names = csv.open_csv(file, parse_options=options).schema.names
        # labels such as 01 stay as they are
        texts = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
        return csv.read_csv(file, parse_options=options, convert_options=texts)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the table of `data`, {file}, can't be read: {reason}. Fix it.") from error


def _column_texts(column: pa.ChunkedArray) -> list[str]:
    texts = []
    for value in column.to_pylist():
        text = "" if value is None else str(value)
        texts.append(text.strip())
    return texts


def _validate_values(file: Path, values: dict[str, list[str]]) -> None:
    for role, texts in values.items():
        empty_rows = [number for number, text in enumerate(texts, start=1) if not text]
        _raise_if_any(file, f"rows without a {role}", empty_rows)
    counts = Counter(map(os.path.normpath, values["path"]))
    repeated = [path for path, count in counts.items() if count > 1]
    _raise_if_any(file, "paths that are listed twice", repeated)
    missing = [path for path in values["path"] if not os.path.lexists(file.parent / path)]
    _raise_if_any(file, "files that don't exist", missing)
    unknown = {name for name in values.get("split", ()) if name.lower() not in SUBSET_BY_NAME}
    _raise_if_any(file, "values of the split that aren't train, val or test", sorted(unknown))


def _raise_if_any(file: Path, problem: str, offenders: list) -> None:
    if offenders:
        raise UserError(
            f"the table of `data`, {file}, holds {problem}: {join_first(offenders)}. Fix it."
        )
