"""Write tables to files with their captions and notes. Each format has a module."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bioimg.config import unknown_value_error
from bioimg.report.documents import (
    csv_file,
    docx_file,
    html_file,
    latex,
    markdown,
    parquet,
    xlsx_file,
)
from bioimg.report.table_model import Table

WRITERS: dict[str, Callable[[Table, Path], None]] = {
    "md": markdown.write_table,
    "csv": csv_file.write_table,
    "tex": latex.write_table,
    "html": html_file.write_table,
    "xlsx": xlsx_file.write_table,
    "docx": docx_file.write_table,
    "parquet": parquet.write_table,
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
