"""Write and read Markdown with the tables of GitHub.

Names are plain text: nothing in them becomes HTML, a link, emphasis or a cell border.
"""

import html
import re
from collections.abc import Sequence
from pathlib import Path

from bioimg.report.table_model import Column, ParsedTable, Table

SPECIAL_PATTERN = re.compile(r"([\\`*\[\]|~$#!{}])|(?<![^\W_])_|_(?![^\W_])")
ESCAPE_PATTERN = re.compile(r"\\([!-/:-@\[-`{-~])")
CELL_PATTERN = re.compile(r"((?:\\.|[^|\\])*)(?:\||$)")
DELIMITER_ROW_PATTERN = re.compile(r"\s*\|?(\s*:?-+:?\s*\|)*\s*:?-+:?\s*\|?\s*")


def write_table(table: Table, path: Path) -> None:
    """Write a table to a Markdown file."""
    path.write_text(render_markdown(table), encoding="utf-8")


def render_markdown(table: Table) -> str:
    """Return the caption, the table and the notes."""
    headers = [escape_markdown(header) for header in table.headers]
    delimiters = ["---" if column.is_left_aligned else "---:" for column in table.columns]
    rows = [_escape_row(table.columns, row) for row in table.cells()]
    table_lines = [_format_row(row) for row in (headers, delimiters, *rows)]
    note_lines = [f"- {escape_markdown(note)}" for note in table.notes]
    caption = f"**{escape_markdown(table.caption)}**"
    return "\n".join([caption, "", *table_lines, "", *note_lines, ""])


def _escape_row(columns: Sequence[Column], row: Sequence[str]) -> list[str]:
    """Escape the text of a row. A number stays as it is: its brackets are no link."""
    cells = []
    for column, cell in zip(columns, row, strict=True):
        cells.append(escape_markdown(cell) if column.kind == "text" else cell)
    return cells


def _format_row(cells: Sequence[str]) -> str:
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
    return ParsedTable(headers, rows, f"the table at line {delimiter_row}", "\n".join(lines))


def _parse_cells(line: str) -> list[str]:
    """Return the texts between borders, which are bars without a backslash before them."""
    # the pattern also matches the empty text after the last border
    cells = CELL_PATTERN.findall(line.strip().removeprefix("|"))[:-1]
    return [_unescape_markdown(cell.strip()) for cell in cells]


def _unescape_markdown(text: str) -> str:
    if text.startswith("**") and text.endswith("**") and len(text) > 4:
        text = text[2:-2]
    return html.unescape(ESCAPE_PATTERN.sub(r"\1", text))
