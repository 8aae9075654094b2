"""Markdown (GitHub's tables). Names are plain text: nothing in them becomes HTML, a link, emphasis or a cell border."""

import html
import re
from collections.abc import Sequence
from pathlib import Path

from bioimg.report.table_model import ParsedTable, Table

SPECIAL_PATTERN = re.compile(r"([\\`*\[\]|~$#!{}])|(?<![^\W_])_|_(?![^\W_])")
ESCAPE_PATTERN = re.compile(r"\\([!-/:-@\[-`{-~])")
CELL_PATTERN = re.compile(r"((?:\\.|[^|\\])*)(?:\||$)")


def write_table(table: Table, path: Path) -> None:
    path.write_text(render_markdown(table), encoding="utf-8")


def render_markdown(table: Table) -> str:
    """Caption, table, notes."""
    plain = [column.kind != "text" for column in table.columns]
    rows = [
        [cell if number else escape_markdown(cell) for cell, number in zip(row, plain, strict=True)]
        for row in table.cells()
    ]
    rule = [
        "---" if column.identity or column.kind == "text" else "---:" for column in table.columns
    ]
    lines = [
        _format_row(row) for row in ([escape_markdown(name) for name in table.headers], rule, *rows)
    ]
    notes = "\n".join(f"- {escape_markdown(note)}" for note in table.notes)
    return f"**{escape_markdown(table.caption)}**\n\n" + "\n".join(lines) + f"\n\n{notes}\n"


def escape_markdown(text: str) -> str:
    """Text that Markdown shows unchanged."""
    text = SPECIAL_PATTERN.sub(r"\\\g<0>", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("://", r"\://").replace("www.", r"www\.")


def read_tables(path: Path) -> list[ParsedTable]:
    """Every table of a Markdown file."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    places = [
        n for n, line in enumerate(lines) if n and _is_delimiter_row(line) and "|" in lines[n - 1]
    ]
    return [_parse_table(lines, place) for place in places]


def _parse_table(lines: Sequence[str], rule: int) -> ParsedTable:
    headers, rows = _parse_cells(lines[rule - 1]), []
    for line in lines[rule + 1 :]:
        if "|" not in line:
            break
        rows.append(_parse_cells(line))
    return ParsedTable(headers, rows, f"the table at line {rule}", "\n".join(lines))


def _is_delimiter_row(line: str) -> bool:
    return bool(re.fullmatch(r"\s*\|?(\s*:?-+:?\s*\|)*\s*:?-+:?\s*\|?\s*", line)) and "-" in line


def _parse_cells(line: str) -> list[str]:
    """The texts between borders, which are bars without a backslash before them."""
    return [
        _unescape_markdown(part.strip())
        for part in CELL_PATTERN.findall(line.strip().removeprefix("|"))[:-1]
    ]


def _unescape_markdown(text: str) -> str:
    bold = text.startswith("**") and text.endswith("**") and len(text) > 4
    return html.unescape(ESCAPE_PATTERN.sub(r"\1", text[2:-2] if bold else text))


def _format_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
