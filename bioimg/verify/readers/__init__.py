"""Read files that hold tables. Each format has a module with `read_document`."""

from collections.abc import Callable
from pathlib import Path

from bioimg.errors import UserError, unknown_value_error
from bioimg.verify.parsed_document import ParsedDocument
from bioimg.verify.readers import csv_file, docx_file, latex, markdown, xlsx_file

READERS: dict[str, Callable[[Path], ParsedDocument]] = {
    "md": markdown.read_document,
    "csv": csv_file.read_document,
    "tex": latex.read_document,
    "xlsx": xlsx_file.read_document,
    "docx": docx_file.read_document,
}


def require_readable(path: Path) -> str:
    """Return the format of a file that can be read.

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


def read_document(path: Path) -> ParsedDocument:
    """Read all tables and paragraphs of a file.

    Raises:
        UserError: there is no such file, it is broken, its format can't be read, or it is a Word
            file with changes that nobody accepted or rejected.
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
