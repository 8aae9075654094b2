"""Write tables to files with their captions and notes. Each format has a module."""

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from bioimg.config import unknown_value_error
from bioimg.report.table_model import Table

MODULES = {
    "md": "markdown",
    "csv": "csv_file",
    "tex": "latex",
    "html": "html_file",
    "xlsx": "xlsx_file",
    "docx": "docx_file",
    "parquet": "parquet",
}
"""The module of each format. It is imported when it writes, since some import large libraries."""
TABLE_FORMATS = tuple(MODULES)


def check_formats(formats: Iterable[str]) -> None:
    """Check that each of these formats can be written.

    Raises:
        UserError: one of them is unknown.
    """
    for name in formats:
        if name not in MODULES:
            raise unknown_value_error("format", name, MODULES)


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
        importlib.import_module(f"{__name__}.{MODULES[name]}").write_table(table, path)
        paths.append(path)
    return paths
