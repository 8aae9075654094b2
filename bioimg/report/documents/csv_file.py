"""Write and read CSV. Caption and notes are lines with `#` before the header.

`pandas.read_csv(path, comment="#")` skips these lines. Text that a spreadsheet would evaluate as a
formula gets a leading apostrophe, which marks text.
"""

import csv
import re
from itertools import dropwhile
from pathlib import Path

from bioimg.report.table_model import ParsedTable, Table

FORMULA_PATTERN = re.compile(r"\s*[=+\-@\t\r＝＋－＠]")
QUOTED_PATTERN = re.compile(r'"[^"]*"')
FORMULA_AFTER_SEPARATOR = re.compile(r"([;\t]\s*)(?=[=+\-@＝＋－＠])")
SEPARATORS = ",;\t"


def write_table(table: Table, path: Path) -> None:
    """Write a table to a CSV file, with a mark by which Excel recognises UTF-8."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        for line in (table.caption, *table.notes):
            file.write(f"# {_escape_comment(line)}\r\n")
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        for row in (table.headers, *table.cells()):
            writer.writerow([escape_formula(cell) for cell in row])


def escape_formula(text: str) -> str:
    """Return text that no spreadsheet evaluates."""
    return f"'{text}" if FORMULA_PATTERN.match(text) else text


def _escape_comment(text: str) -> str:
    """Return a line that stays in one cell, and starts no formula if semicolons separate cells."""
    one_cell = text.replace(",", ";").replace('"', "'")
    return FORMULA_AFTER_SEPARATOR.sub(r"\1'", one_cell)


def read_tables(path: Path) -> list[ParsedTable]:
    """Read the table of a CSV file.

    The separator may be a comma, a semicolon (as spreadsheets in many countries save it) or a tab.
    """
    text = path.read_text(encoding="utf-8-sig")
    filled_lines = [line for line in text.splitlines(keepends=True) if not _is_blank_row(line)]
    lines = list(dropwhile(_is_comment, filled_lines))
    if not lines:
        return []
    header_without_names = QUOTED_PATTERN.sub("", lines[0])
    separator = max(SEPARATORS, key=header_without_names.count)
    rows = []
    for row in csv.reader(lines, delimiter=separator):
        rows.append([_unescape_formula(cell) for cell in row])
    return [ParsedTable(rows[0], rows[1:], "the table", text)]


def _is_blank_row(line: str) -> bool:
    return not line.strip(f' {SEPARATORS}\r\n"')


def _is_comment(line: str) -> bool:
    return line.lstrip('"').startswith("#")


def _unescape_formula(cell: str) -> str:
    text = cell.removeprefix("'")
    return text if FORMULA_PATTERN.match(text) else cell
