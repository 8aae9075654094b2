"""Read a table of texts, whatever program wrote it: CSV in its dialects, Excel's .xlsx, Parquet."""

import csv
import dataclasses
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bioimg.errors import UserError, unknown_value_error
from bioimg.text import join_first

TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx", ".parquet")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
MAX_FIELD_CHARACTERS = 10_000_000
"""Longest text in a cell of a CSV file. Python's own limit is 131,072."""


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are texts; an empty cell is an empty text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Each as long as the header."""
    assumptions: tuple[str, ...] = ()
    """How the file was understood, as in `ImageIndex`."""

    def column(self, name: str) -> list[str]:
        """Return the texts of a column."""
        position = self.header.index(name)
        return [row[position] for row in self.rows]


def read_table(file: Path, needed: Sequence[str]) -> TextTable:
    """Read a table that has certain columns. They also decide what its delimiter and its sheet are.

    Raises:
        UserError: the file can't be read, or a needed column is missing or there twice.
    """
    try:
        match file.suffix.lower():
            case ".parquet":
                table = _read_parquet(file, needed)
            case ".xlsx":
                table = _read_sheet(file, needed)
            case _:
                table = _read_delimited(file, needed)
    except UserError:
        raise
    except Exception as error:  # each library has exceptions of its own for broken files
        raise unreadable_table_error(file, _first_line(error)) from error
    _require_columns(file, table.header, needed)
    return table


def unreadable_table_error(file: Path, reason: str) -> UserError:
    """Return the error for a table that can't be read."""
    return UserError(
        f"the table of `data`, {file}, can't be read: {reason}. Fix it, or save it again as CSV in "
        "UTF-8."
    )


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _require_columns(file: Path, header: Sequence[str], needed: Sequence[str]) -> None:
    counts = Counter(header)
    for name in needed:
        if not counts[name]:
            hint = (
                f"The table {file} has no such column. Name its columns, as in --columns "
                "path=file,label=diagnosis."
            )
            raise unknown_value_error("columns", name, header, hint)
        if counts[name] > 1:
            raise UserError(
                f"the table of `data`, {file}, has {counts[name]} columns named {name!r}, but must "
                "have one. Rename or remove the others."
            )


def _read_parquet(file: Path, needed: Sequence[str]) -> TextTable:
    from pyarrow import parquet

    # `read_table` would also take columns from the names of folders, such as label=tumour
    content = parquet.ParquetFile(file)
    other = [field.name for field in content.schema_arrow if not _holds_texts(field.type)]
    wrong = [name for name in other if name in needed]
    if wrong:
        kind = content.schema_arrow.field(wrong[0]).type
        raise ValueError(f"its column {wrong[0]!r} holds {kind}, but must hold texts or numbers")
    names = [name for name in content.schema_arrow.names if name not in other]
    table = content.read(names)
    columns = [[_to_text(value) for value in column.to_pylist()] for column in table.columns]
    assumptions = ()
    if other:
        assumptions = (f"columns without texts or numbers are left out: {join_first(other)}",)
    return TextTable(table.column_names, list(zip(*columns, strict=True)), assumptions)


def _holds_texts(kind: Any) -> bool:
    """Return True if a type of Parquet is no list, structure or bytes, as of images."""
    from pyarrow import types

    is_bytes = types.is_binary(kind) or types.is_large_binary(kind)
    return not (types.is_nested(kind) or is_bytes or types.is_fixed_size_binary(kind))


def _read_sheet(file: Path, needed: Sequence[str]) -> TextTable:
    """Read the one sheet that has the needed columns, or the first one."""
    from openpyxl import load_workbook

    workbook = load_workbook(file, read_only=True, data_only=True)
    try:
        tables = {sheet.title: _read_cells(sheet) for sheet in workbook.worksheets}
    finally:
        workbook.close()
    suitable = [title for title, table in tables.items() if set(needed) <= set(table.header)]
    if len(suitable) > 1:
        raise UserError(
            f"the table of `data`, {file}, has the columns {join_first(needed)} on several sheets: "
            f"{join_first(suitable)}. Delete all but one of them."
        )
    title = suitable[0] if suitable else next(iter(tables))
    return dataclasses.replace(tables[title], assumptions=(f"the sheet {title!r} is read",))


def _read_cells(sheet: Any) -> TextTable:
    rows = [[_to_text(value) for value in row] for row in sheet.iter_rows(values_only=True)]
    filled = [row for row in rows if any(row)]
    if not filled:
        return TextTable([], [])
    width = len(filled[0])
    # rows may be shorter or longer than the header
    return TextTable(filled[0], [[*row, *[""] * width][:width] for row in filled[1:]])


def _to_text(value: Any) -> str:
    # pandas stores empty cells of numbers as NaN
    if value is None or value != value:
        return ""
    # Excel stores whole numbers as floats
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _read_delimited(file: Path, needed: Sequence[str]) -> TextTable:
    text, assumptions = _decode(file)
    usual = "\t" if file.suffix.lower() == ".tsv" else ","
    # Excel names the delimiter in a line of its own
    named = re.match(r"sep=(.)\r?\n", text)
    if named:
        delimiter, text = named[1], text[named.end() :]
    else:
        delimiter = _find_delimiter(text, usual, needed)
    if delimiter != usual:
        name = DELIMITERS.get(delimiter, repr(delimiter))
        assumptions += (f"the table's columns are separated by {name}",)
    header, *rows = _parse_rows(text, delimiter)
    return TextTable(header, rows, assumptions)


def _find_delimiter(text: str, usual: str, needed: Sequence[str]) -> str:
    """Return the delimiter with which the first row names the needed columns.

    If none does, return the one with which it names most columns, which an error can then list.
    """
    header_by_delimiter = {}
    for delimiter in (usual, *DELIMITERS):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        header_by_delimiter[delimiter] = [name.strip() for name in next(reader, [])]
    for delimiter, header in header_by_delimiter.items():
        if set(needed) <= set(header):
            return delimiter
    return max(header_by_delimiter, key=lambda delimiter: len(header_by_delimiter[delimiter]))


def _decode(file: Path) -> tuple[str, tuple[str, ...]]:
    content = file.read_bytes()
    if content.startswith(UTF_16_MARKS):
        return content.decode("utf-16"), ("the table is in UTF-16",)
    try:
        return content.decode("utf-8-sig"), ()
    except UnicodeDecodeError as error:
        raise unreadable_table_error(
            file, f"byte {error.start} isn't UTF-8, so letters beyond ASCII are unknown"
        ) from error


def _parse_rows(text: str, delimiter: str) -> list[list[str]]:
    """Return the rows that aren't blank, the header first; each has as many values as the header.

    Raises:
        ValueError: a row doesn't, a quotation mark isn't closed, or there are no rows.
    """
    default_limit = csv.field_size_limit(MAX_FIELD_CHARACTERS)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    try:
        for row in reader:
            if not any(row):
                continue
            rows.append([cell.strip() for cell in row])
            if len(row) != len(rows[0]):
                raise ValueError(
                    f"line {reader.line_num} has {len(row)} values, but the first one names "
                    f"{len(rows[0])} columns"
                )
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error
    finally:
        csv.field_size_limit(default_limit)
    if not rows:
        raise ValueError("it is empty")
    return rows
