"""Tables as files, each with its caption and notes, and back again: one module per format, with `write` and `read`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bioimg.errors import UserError, unknown_value_error
from bioimg.report.documents import (
    csv_file,
    docx_file,
    html_file,
    latex,
    markdown,
    parquet,
    xlsx_file,
)
from bioimg.report.table_model import ParsedTable, Table

WRITERS: dict[str, Callable[[Table, Path], None]] = {
    "md": markdown.write_table,
    "csv": csv_file.write_table,
    "tex": latex.write_table,
    "html": html_file.write_table,
    "xlsx": xlsx_file.write_table,
    "docx": docx_file.write_table,
    "parquet": parquet.write_table,
}
READERS: dict[str, Callable[[Path], list[ParsedTable]]] = {
    "md": markdown.read_tables,
    "csv": csv_file.read_tables,
    "tex": latex.read_tables,
    "xlsx": xlsx_file.read_tables,
    "docx": docx_file.read_tables,
}
TABLE_FORMATS = tuple(WRITERS)


def write_table(table: Table, folder: Path, formats: Sequence[str] = TABLE_FORMATS) -> list[Path]:
    """Write a table as NAME.FORMAT for each format, replacing existing files.

    Raises:
        UserError: an unknown format.
    """
    for name in formats:
        if name not in WRITERS:
            raise unknown_value_error("format", name, WRITERS)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{table.name}.{name}" for name in formats]
    for name, path in zip(formats, paths, strict=True):
        WRITERS[name](table, path)
    return paths


def require_readable(path: Path) -> str:
    """The format of a file that can be read back.

    Raises:
        UserError: there is no such file, or it has another format.
    """
    name = path.suffix.removeprefix(".").lower()
    if name not in READERS:
        raise unknown_value_error(
            "file", path.name, [f".{known}" for known in READERS], "Save the table as one of these."
        )
    if not path.is_file():
        raise UserError(
            f"the value of `file` is {str(path)!r}, but there is no such file. Name a table that `bioimg report` made, "
            "edited or not."
        )
    return name


def read_tables(path: Path) -> list[ParsedTable]:
    """All tables of a file.

    Raises:
        UserError: there is no such file, it is broken, or its format can't be read back.
    """
    name = require_readable(path)
    try:
        return READERS[name](path)
    except UserError:
        raise
    except Exception as error:  # the libraries raise all kinds for a broken zip, XML or encoding
        raise UserError(
            f"the file {path} can't be read as .{name}: {error}. Open it in its program and save it again."
        ) from error
