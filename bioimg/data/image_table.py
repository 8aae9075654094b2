"""A table that lists images: CSV, TSV or Parquet with the columns path, label and, optionally, group and split."""

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


def list_table(file: Path, columns: str | None = None) -> ImageIndex:
    """List the images of a table; paths are relative to its folder. `columns` renames, as in `path=file,label=diagnosis`.

    Raises:
        UserError: columns, labels or files are missing, a path is listed twice, or a split isn't train, val or test.
    """
    rows = _read_rows(file, _column_by_role(columns))
    labels, groups, splits = rows["label"], rows.get("group"), rows.get("split")
    classes: tuple[str, ...] = tuple(sorted(set(labels)))
    if len(classes) < 2:
        raise UserError(
            f"the table of `data`, {file}, holds one class, {labels[0]!r}, but must hold at least two."
        )
    order = sorted(range(len(labels)), key=rows["path"].__getitem__)
    return ImageIndex(
        name=file.stem,
        files=tuple(file.parent / rows["path"][i] for i in order),
        paths=tuple(rows["path"][i] for i in order),
        labels=np.array([classes.index(labels[i]) for i in order], np.int64),
        classes=classes,
        groups=tuple(groups[i] for i in order) if groups else None,
        subsets=np.array([SUBSET_BY_NAME[splits[i].lower()] for i in order], np.int8)
        if splits
        else None,
    )


def _column_by_role(columns: str | None) -> dict[str, str]:
    """The column of each meaning."""
    pairs = [pair.partition("=")[::2] for pair in columns.split(",")] if columns else []
    for meaning, _ in pairs:
        if meaning.strip() not in COLUMN_ROLES:
            raise unknown_value_error(
                "columns",
                meaning,
                COLUMN_ROLES,
                "It renames columns, as in path=file,label=diagnosis.",
            )
    return {meaning: meaning for meaning in COLUMN_ROLES} | {
        meaning.strip(): name.strip() for meaning, name in pairs
    }


def _read_rows(file: Path, names: dict[str, str]) -> dict[str, list[str]]:
    table = _read_table(file)
    for meaning, name in names.items():
        if name not in table.column_names and (meaning in ("path", "label") or name != meaning):
            raise unknown_value_error(
                "columns",
                name,
                table.column_names,
                f"The table {file} has no such column for the {meaning}.",
            )
    if not table.num_rows:
        raise UserError(f"the table of `data`, {file}, holds no rows.")
    rows = {
        meaning: _column_texts(table[name])
        for meaning, name in names.items()
        if name in table.column_names
    }
    rows["path"] = [path.replace("\\", "/") for path in rows["path"]]
    _validate_rows(file, rows)
    return rows


def _read_table(file: Path) -> pa.Table:
    try:
        if file.suffix.lower() == ".parquet":
            return parquet.read_table(file)
        options = csv.ParseOptions(delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        names = csv.open_csv(file, parse_options=options).schema.names
        texts = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
        return csv.read_csv(file, parse_options=options, convert_options=texts)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"the table of `data`, {file}, can't be read: {str(error).splitlines()[0]}. Fix it."
        ) from error


def _column_texts(column: pa.ChunkedArray) -> list[str]:
    return [str(value).strip() if value is not None else "" for value in column.to_pylist()]


def _validate_rows(file: Path, rows: dict[str, list[str]]) -> None:
    numbered = {meaning: list(enumerate(values, start=1)) for meaning, values in rows.items()}
    for meaning, values in numbered.items():
        _raise_if_any(
            file, f"rows without a {meaning}", [number for number, value in values if not value]
        )
    seen = Counter(os.path.normpath(path) for path in rows["path"])
    _raise_if_any(
        file, "paths that are listed twice", [path for path, times in seen.items() if times > 1]
    )
    _raise_if_any(
        file,
        "files that don't exist",
        [path for path in rows["path"] if not os.path.lexists(file.parent / path)],
    )
    wrong = {value for value in rows.get("split", ()) if value.lower() not in SUBSET_BY_NAME}
    _raise_if_any(file, "values of the split that aren't train, val or test", sorted(wrong))


def _raise_if_any(file: Path, what: str, offenders: list) -> None:
    if offenders:
        raise UserError(
            f"the table of `data`, {file}, holds {what}: {join_first(offenders)}. Fix it."
        )
