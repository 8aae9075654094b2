"""Tables as files, each with its caption and notes, and back again: one module per format, with `write` and `read`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bioimg.config import UserError, unknown
from bioimg.report.documents import comma, excel, latex, markdown, parquet, web, word
from bioimg.report.table import Read, Table

WRITERS: dict[str, Callable[[Table, Path], None]] = {
    "md": markdown.write,
    "csv": comma.write,
    "tex": latex.write,
    "html": web.write,
    "xlsx": excel.write,
    "docx": word.write,
    "parquet": parquet.write,
}
READERS: dict[str, Callable[[Path], list[Read]]] = {
    "md": markdown.read,
    "csv": comma.read,
    "tex": latex.read,
    "xlsx": excel.read,
    "docx": word.read,
}
FORMATS = tuple(WRITERS)


def write(table: Table, folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a table as NAME.FORMAT for each format, replacing existing files.

    Raises:
        UserError: an unknown format.
    """
    for name in formats:
        if name not in WRITERS:
            raise unknown("format", name, WRITERS)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{table.name}.{name}" for name in formats]
    for name, path in zip(formats, paths, strict=True):
        WRITERS[name](table, path)
    return paths


def require(path: Path) -> str:
    """The format of a file that can be read back.

    Raises:
        UserError: there is no such file, or it has another format.
    """
    name = path.suffix.removeprefix(".").lower()
    if name not in READERS:
        raise unknown("file", path.name, [f".{known}" for known in READERS], "Save the table as one of these.")
    if not path.is_file():
        raise UserError(
            f"the value of `file` is {str(path)!r}, but there is no such file. Name a table that `bioimg report` made, "
            "edited or not."
        )
    return name


def read(path: Path) -> list[Read]:
    """All tables of a file.

    Raises:
        UserError: there is no such file, it is broken, or its format can't be read back.
    """
    name = require(path)
    try:
        return READERS[name](path)
    except UserError:
        raise
    except Exception as error:  # the libraries raise all kinds for a broken zip, XML or encoding
        raise UserError(
            f"the file {path} can't be read as .{name}: {error}. Open it in its program and save it again."
        ) from error
