"""Write and read Markdown with the tables of GitHub.

Names are plain text: nothing in them becomes HTML, a link, emphasis or a cell border.
"""

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from bioimg.report.table_model import Column, ParsedTable, Table

# an underscore between letters or digits is no emphasis, so it needs no backslash
SPECIAL_PATTERN = re.compile(r"([\\`*\[\]|~$#!{}])|(?<![^\W_])_|_(?![^\W_])")
# Markdown allows a backslash before any ASCII punctuation
ESCAPE_PATTERN = re.compile(r"\\([!-/:-@\[-`{-~])")
CELL_PATTERN = re.compile(r"((?:\\.|[^|\\])*)(?:\||$)")
# the row below the headers, such as |:---|---:|
DELIMITER_ROW_PATTERN = re.compile(r"\s*\|?(\s*:?-+:?\s*\|)*\s*:?-+:?\s*\|?\s*")


def write_table(table: Table, path: Path) -> None:
    """Write a table to a Markdown file."""
    path.write_text(render_markdown(table), encoding="utf-8")


def render_markdown(table: Table) -> str:
    """Return the caption, the table and the notes."""
    lines = [f"**{escape_markdown(table.caption)}**", ""]
    lines.append(_format_row(map(escape_markdown, table.headers)))
    lines.append(_format_row(map(_delimiter, table.columns)))
    for row in table.cells():
        lines.append(_format_row(_escape_row(table.columns, row)))
    lines.append("")
    for note in table.notes:
        lines.append(f"- {escape_markdown(note)}")
    return "\n".join(lines) + "\n"


def _delimiter(column: Column) -> str:
    return "---" if column.is_left_aligned else "---:"


def _escape_row(columns: Sequence[Column], row: Sequence[str]) -> list[str]:
    """Escape the text of a row. A number stays as it is: its brackets are no link."""
    cells = []
    for column, cell in zip(columns, row, strict=True):
        is_text = column.kind == "text"
        cells.append(escape_markdown(cell) if is_text else cell)
    return cells


def _format_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows unchanged."""
    text = SPECIAL_PATTERN.sub(r"\\\g<0>", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("://", r"\://").replace("www.", r"www\.")


def read_tables(path: Path) -> list[ParsedTable]:
    """Read every table of a Markdown file."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    tables = []
    for number, line in enumerate(lines[1:], start=1):
        if DELIMITER_ROW_PATTERN.fullmatch(line) and "|" in lines[number - 1]:
            tables.append(_parse_table(lines, number))
    return tables


def _parse_table(lines: Sequence[str], delimiter_row: int) -> ParsedTable:
    """Parse the table around the row of dashes at this index."""
    rows = []
    for line in lines[delimiter_row + 1 :]:
        if "|" not in line:
            break
        rows.append(_parse_cells(line))
    headers = _parse_cells(lines[delimiter_row - 1])
    location = f"the table at line {delimiter_row}"
    text = "\n".join(lines)
    return ParsedTable(headers, rows, location, text)


def _parse_cells(line: str) -> list[str]:
    """Return the texts between borders, which are bars without a backslash before them."""
    line = line.strip().removeprefix("|")
    # the last match is the empty text after the last border
    *cells, _ = CELL_PATTERN.findall(line)
    return [_unescape_markdown(cell.strip()) for cell in cells]


def _unescape_markdown(text: str) -> str:
    if text.startswith("**") and text.endswith("**") and len(text) > 4:
        text = text[2:-2]
    text = ESCAPE_PATTERN.sub(r"\1", text)
    return html.unescape(text)
