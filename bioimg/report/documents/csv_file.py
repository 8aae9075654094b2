"""Write CSV. Caption and notes are lines with `#` before the header.

`pandas.read_csv(path, comment="#")` skips these lines. Text that a spreadsheet would evaluate as a
formula gets a leading apostrophe, which marks text.
"""

import csv
import re
from pathlib import Path

from bioimg.report.table_model import Table

FORMULA_SIGNS = r"=+\-@＝＋－＠"
FORMULA_PATTERN = re.compile(rf"\s*[\t\r{FORMULA_SIGNS}]")
FORMULA_AFTER_SEPARATOR = re.compile(rf"([;\t]\s*)(?=[{FORMULA_SIGNS}])")


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
