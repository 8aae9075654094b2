"""Read Markdown with the tables of GitHub."""

import html
import re
from collections.abc import Sequence
from pathlib import Path

from bioimg.verify.parsed_document import Cell, ParsedDocument, ParsedTable

COMMENT_PATTERN = re.compile(r"<!--.*?-->", re.DOTALL)
# Markdown allows a backslash before any ASCII punctuation
ESCAPE_PATTERN = re.compile(r"\\([!-/:-@\[-`{-~])")
CELL_PATTERN = re.compile(r"((?:\\.|[^|\\])*)(?:\||$)")
# the row below the headers, such as |:---|---:|
DELIMITER_ROW_PATTERN = re.compile(r"\s*\|?(\s*:?-+:?\s*\|)*\s*:?-+:?\s*\|?\s*")
PARAGRAPH_START_PATTERN = re.compile(r"\s*(?:[-+*>]|#+|\d+\.)\s+")
BOLD_PATTERN = re.compile(r"(?<!\\)(\*\*|__)(?=\S)(.+?)(?<![\s\\])\1")
EMPHASIS_PATTERN = re.compile(r"(?<![\\*\w])([*_`])(?=[^\s*_`])(.+?)(?<![\s\\])\1(?![*\w])")


def read_document(path: Path) -> ParsedDocument:
    """Read every table and paragraph. What stands in HTML comments isn't shown, so isn't read."""
    text = COMMENT_PATTERN.sub(_keep_line_breaks, path.read_text(encoding="utf-8-sig"))
    lines = text.splitlines()
    blocks: list[str | ParsedTable] = []
    paragraph: list[str] = []
    number = 0
    while number < len(lines):
        if _is_header(lines, number):
            blocks.extend(_finish_paragraph(paragraph))
            end = _find_table_end(lines, number)
            blocks.append(_parse_table(lines[number:end], number + 1))
            number = end
            continue
        line = lines[number]
        if not line.strip() or PARAGRAPH_START_PATTERN.match(line):
            blocks.extend(_finish_paragraph(paragraph))
        paragraph.append(PARAGRAPH_START_PATTERN.sub("", line, count=1))
        number += 1
    blocks.extend(_finish_paragraph(paragraph))
    return ParsedDocument(blocks)


def _keep_line_breaks(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def _is_header(lines: Sequence[str], number: int) -> bool:
    """Return True if a line has bars and the next one dashes and bars."""
    if number + 1 >= len(lines) or "|" not in lines[number]:
        return False
    return DELIMITER_ROW_PATTERN.fullmatch(lines[number + 1]) is not None


def _find_table_end(lines: Sequence[str], start: int) -> int:
    """Return the number of the first line after a table's header that has no bar."""
    for number in range(start + 2, len(lines)):
        if "|" not in lines[number]:
            return number
    return len(lines)


def _parse_table(lines: Sequence[str], number: int) -> ParsedTable:
    """Parse a table with a row of dashes below its header."""
    header, _, *body = lines
    headers = [cell.text for cell in _parse_cells(header)]
    rows = [_parse_cells(line) for line in body]
    return ParsedTable(headers, rows, f"the table at line {number}")


def _parse_cells(line: str) -> list[Cell]:
    """Return the texts between borders, which are bars without a backslash before them."""
    line = line.strip().removeprefix("|")
    # the last match is the empty text after the last border
    *cells, _ = CELL_PATTERN.findall(line)
    return [_parse_cell(cell) for cell in cells]


def _parse_cell(source: str) -> Cell:
    is_bold = BOLD_PATTERN.search(source) is not None
    return Cell(_plain_text(source), is_bold=is_bold)


def _finish_paragraph(lines: list[str]) -> list[str]:
    """Return the lines as one paragraph, or nothing, and begin the next one."""
    text = _plain_text(" ".join(lines))
    lines.clear()
    return [text] if text else []


def _plain_text(source: str) -> str:
    """Return text without emphasis, backslashes and entities."""
    text = BOLD_PATTERN.sub(r"\2", source.strip())
    text = EMPHASIS_PATTERN.sub(r"\2", text)
    text = ESCAPE_PATTERN.sub(r"\1", text)
    return html.unescape(text).strip()
