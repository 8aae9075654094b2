"""Write tables to files with their captions and notes, and read them back.

Each format has a module with `write_table` and, if its files can be edited by hand, `read_tables`.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bioimg.config import UserError, unknown_value_error
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


def check_formats(formats: Iterable[str]) -> None:
    """Check that each of these formats can be written.

    Raises:
        UserError: one of them is unknown.
    """
    for name in formats:
        if name not in WRITERS:
            raise unknown_value_error("format", name, WRITERS)


def write_table(table: Table, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write a table as NAME.FORMAT in each format, replacing existing files, and return the paths.

    Raises:
        UserError: a format is unknown.
    """
    check_formats(formats)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in formats:
        path = folder / f"{table.name}.{name}"
        WRITERS[name](table, path)
        paths.append(path)
    return paths


def require_readable(path: Path) -> str:
    """Return the format of a file that can be read back.

    Raises:
        UserError: there is no such file, or it has another format.
    """
    name = path.suffix.removeprefix(".").lower()
    if name not in READERS:
        suffixes = [f".{known}" for known in READERS]
        raise unknown_value_error("file", path.name, suffixes, "Save the table as one of these.")
    if not path.is_file():
        raise UserError(
            f"the value of `file` is {str(path)!r}, but there is no such file. Name a table that "
            "`bioimg report` made, edited or not."
        )
    return name


def read_tables(path: Path) -> list[ParsedTable]:
    """Read all tables of a file.

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
            f"the file {path} can't be read as .{name}: {error}. Open it in its program and save "
            "it again."
        ) from error
