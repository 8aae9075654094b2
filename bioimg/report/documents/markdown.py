"""Write Markdown with the tables of GitHub.

Names are plain text: nothing in them becomes HTML, a link, emphasis or a cell border.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from bioimg.report.table_model import Column, Table

# an underscore between letters or digits is no emphasis, so it needs no backslash
SPECIAL_PATTERN = re.compile(r"([\\`*\[\]|~$#!{}])|(?<![^\W_])_|_(?![^\W_])")


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
