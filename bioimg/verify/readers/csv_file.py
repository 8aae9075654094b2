"""Read CSV. Caption and notes are lines with `#`."""

import csv
import re
from pathlib import Path

from bioimg.report.documents.csv_file import FORMULA_PATTERN, FORMULA_SIGNS
from bioimg.verify.parsed_document import Cell, ParsedDocument, ParsedTable

QUOTED_PATTERN = re.compile(r'"[^"]*"')
ESCAPED_FORMULA_PATTERN = re.compile(rf"([;\t]\s*)'(?=[{FORMULA_SIGNS}])")
SEPARATORS = ",;\t"


def read_document(path: Path) -> ParsedDocument:
    """Read the table, and the comments above and below it.

    The separator may be a comma, a semicolon (as spreadsheets in many countries save it) or a tab.
    """
    lines = path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    separator = _find_separator(lines)
    above: list[str] = []
    below: list[str] = []
    rows: list[list[str]] = []
    for row in csv.reader(lines, delimiter=separator):
        texts = [cell for cell in row if cell.strip()]
        if not texts:
            continue
        is_comment = texts[0].startswith("#") and (not rows or len(texts) == 1)
        if is_comment:
            comment = separator.join(texts).lstrip("# ")
            paragraphs = below if rows else above
            paragraphs.append(ESCAPED_FORMULA_PATTERN.sub(r"\1", comment))
        else:
            rows.append([_unescape_formula(cell) for cell in row])
    if not rows:
        return ParsedDocument([*above, *below])
    headers, *body = rows
    table = ParsedTable(headers, [[Cell(text) for text in row] for row in body], "the table")
    return ParsedDocument([*above, table, *below])


def _find_separator(lines: list[str]) -> str:
    """Return the separator that is most frequent in the header, outside of names."""
    for line in lines:
        is_blank = not line.strip(f' {SEPARATORS}\r\n"')
        if not is_blank and not line.lstrip('"').startswith("#"):
            return max(SEPARATORS, key=QUOTED_PATTERN.sub("", line).count)
    return SEPARATORS[0]


def _unescape_formula(cell: str) -> str:
    text = cell.removeprefix("'")
    return text if FORMULA_PATTERN.match(text) else cell
