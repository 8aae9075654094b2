"""CSV: caption and notes are lines with `#` before the header (`pandas.read_csv(path, comment="#")` skips them).

Text that a spreadsheet would take for a formula gets a leading apostrophe, which marks text.
"""

import csv
import re
from itertools import dropwhile
from pathlib import Path

from bioimg.report.table_model import ParsedTable, Table

FORMULA_PATTERN = re.compile(r"\s*[=+\-@\t\r＝＋－＠]")
QUOTED_PATTERN = re.compile(r'"[^"]*"')
FORMULA_AFTER_SEPARATOR = re.compile(r"([;\t]\s*)(?=[=+\-@＝＋－＠])")


def write_table(table: Table, path: Path) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        file.writelines(f"# {_escape_comment(line)}\r\n" for line in (table.caption, *table.notes))
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows(
            [[escape_formula(cell) for cell in row] for row in (table.headers, *table.cells())]
        )


def escape_formula(text: str) -> str:
    """Text that no spreadsheet evaluates."""
    return f"'{text}" if FORMULA_PATTERN.match(text) else text


def _escape_comment(text: str) -> str:
    """A line that stays in one cell, and starts no formula if semicolons separate cells."""
    return FORMULA_AFTER_SEPARATOR.sub(r"\1'", text.replace(",", ";").replace('"', "'"))


def read_tables(path: Path) -> list[ParsedTable]:
    """The table of a CSV file, also with semicolons, as spreadsheets in many countries save it."""
    text = path.read_text(encoding="utf-8-sig")
    lines = [line for line in text.splitlines(keepends=True) if line.strip(' ,;\t\r\n"')]
    table = list(dropwhile(lambda line: line.lstrip('"').startswith("#"), lines))
    bare = QUOTED_PATTERN.sub("", table[0]) if table else ""
    rows = [
        [_unescape_formula(cell) for cell in row]
        for row in csv.reader(table, delimiter=max(",;\t", key=bare.count))
    ]
    return [ParsedTable(rows[0], rows[1:], "the table", text)] if rows else []


def _unescape_formula(cell: str) -> str:
    return cell.removeprefix("'") if FORMULA_PATTERN.match(cell.removeprefix("'")) else cell
