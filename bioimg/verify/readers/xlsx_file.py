"""Read Excel files: every cell of every sheet, as it is shown, and what isn't shown."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openpyxl import load_workbook
from openpyxl.utils import get_column_letter
from openpyxl.workbook import Workbook
from openpyxl.worksheet.dimensions import ColumnDimension
from openpyxl.worksheet.worksheet import Worksheet

from bioimg.verify.findings import Finding
from bioimg.verify.headers import is_header_row
from bioimg.verify.parsed_document import EMPTY_CELL, Cell, ParsedDocument, ParsedTable

FIXED_FORMAT_PATTERN = re.compile(r"(?:#,##)?0(?:\.(0+))?")
PLAIN_FORMATS = ("General", "@")
WHITE_RGB = "FFFFFF"
WHITE_THEME = 0
SMALLEST_FONT_PT = 3
SMALLEST_SIZE = 0.5
"""The least width of a column in characters, and height of a row in points, that is visible."""


def read_document(path: Path) -> ParsedDocument:
    """Read every sheet to its end.

    A row with one filled cell is a paragraph, also between the rows of a table. Hidden sheets, rows
    and columns, text that can't be seen, number formats other than fixed decimals and formulas are
    findings. Of formulas, the values that were computed last are read.
    """
    values = load_workbook(path, data_only=True)
    formulas = load_workbook(path)
    blocks: list[str | ParsedTable] = []
    findings: list[Finding] = []
    for sheet in values.worksheets:
        blocks.extend(_read_blocks(sheet))
        findings.extend(_find_hidden_parts(sheet))
        findings.extend(_find_misleading_cells(sheet))
        findings.extend(_find_conditional_formats(sheet))
        findings.extend(_find_formulas(sheet, formulas))
    return ParsedDocument(blocks, findings)


# Text


def _read_blocks(sheet: Worksheet) -> Iterator[str | ParsedTable]:
    """Yield the tables and paragraphs of a sheet.

    A table begins with a row of known headers, or else with the first row with several cells.
    """
    location = f"the sheet {sheet.title!r}"
    merged = _merged_origins(sheet)
    above: list[str] = []
    within: list[str] = []
    table: ParsedTable | None = None
    for row in sheet.iter_rows():
        texts = [_shown_text(cell) for cell in row]
        filled = [text for text in texts if text]
        if len(filled) > 1 and (table is None or is_header_row(texts)):
            yield from _in_order(above, table, within)
            above, within = [], []
            table = ParsedTable(texts, [], location)
        elif len(filled) > 1 and table is not None:
            table.rows.append([_parse_cell(sheet, cell, merged) for cell in row])
        elif filled:
            paragraphs = above if table is None else within
            paragraphs.extend(filled)
    yield from _in_order(above, table, within)


def _in_order(
    above: Sequence[str], table: ParsedTable | None, within: Sequence[str]
) -> list[str | ParsedTable]:
    return [*above, *([table] if table else []), *within]


def _merged_origins(sheet: Worksheet) -> dict[tuple[int, int], tuple[int, int]]:
    """Return, for each cell of a merged range, the row and column of the cell that is shown."""
    origins = {}
    for area in sheet.merged_cells.ranges:
        for row in range(area.min_row, area.max_row + 1):
            for column in range(area.min_col, area.max_col + 1):
                origins[row, column] = (area.min_row, area.min_col)
    return origins


def _parse_cell(
    sheet: Worksheet, cell: Any, merged: dict[tuple[int, int], tuple[int, int]]
) -> Cell:
    position = (cell.row, cell.column)
    shown = sheet.cell(*merged.get(position, position))
    if shown.value is None:
        return EMPTY_CELL
    return Cell(_shown_text(shown), is_bold=bool(shown.font.b), stored=_stored_number(shown))


def _shown_text(cell: Any) -> str:
    """Return the text that Excel shows: a number with the decimals of its format."""
    value = cell.value
    if value is None:
        return ""
    if not _is_number(value):
        return str(value).strip()
    if fixed := FIXED_FORMAT_PATTERN.fullmatch(cell.number_format):
        return f"{value:.{len(fixed[1] or '')}f}"
    return f"{value:.15g}"


def _stored_number(cell: Any) -> str | None:
    return f"{cell.value:.15g}" if _is_number(cell.value) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# What readers don't see


def _find_hidden_parts(sheet: Worksheet) -> Iterator[Finding]:
    """Yield a hidden sheet, and hidden rows and columns with content."""
    if sheet.sheet_state != "visible":
        yield Finding("hidden", f"the sheet {sheet.title!r} is hidden. Show or delete it.")
    rows = [
        str(number)
        for number, row in sheet.row_dimensions.items()
        if _is_hidden(row.hidden, row.height) and _has_content(sheet, row=number)
    ]
    columns = [
        get_column_letter(number)
        for column in sheet.column_dimensions.values()
        if _is_hidden(column.hidden, column.width)
        for number in _column_numbers(column)
        if _has_content(sheet, column=number)
    ]
    for kind, names in (("rows", rows), ("columns", columns)):
        if names:
            yield Finding(
                "hidden",
                f"the sheet {sheet.title!r} has hidden {kind}: {', '.join(names)}. "
                "Show or delete them.",
            )


def _is_hidden(hidden: bool, size: float | None) -> bool:
    """Return True if a row or column is hidden, or so small that it might as well be."""
    return hidden or (size is not None and size < SMALLEST_SIZE)


def _column_numbers(dimension: ColumnDimension) -> range:
    """Return the numbers of the columns that share a width, counted from 1."""
    first = dimension.min or 1
    return range(first, (dimension.max or first) + 1)


def _has_content(sheet: Worksheet, row: int | None = None, column: int | None = None) -> bool:
    cells = sheet.iter_rows(
        min_row=row, max_row=row, min_col=column, max_col=column, values_only=True
    )
    return any(value is not None for line in cells for value in line)


def _find_misleading_cells(sheet: Worksheet) -> Iterator[Finding]:
    """Yield cells that show nothing, or something else than they hold."""
    for row in sheet.iter_rows():
        for cell in row:
            if cell.value is None:
                continue
            name = f"the sheet {sheet.title!r}, cell {cell.coordinate}"
            form = cell.number_format
            if form not in PLAIN_FORMATS and not FIXED_FORMAT_PATTERN.fullmatch(form):
                yield Finding(
                    "format",
                    f"{name}: the number format {form!r} may show something else than "
                    f"{cell.value!r}. Use a format such as 0.0.",
                )
            if _is_invisible(cell):
                yield Finding(
                    "hidden", f"{name}: {str(cell.value)!r} can't be read. Use a visible font."
                )


def _is_invisible(cell: Any) -> bool:
    """Return True if a cell's text is white on white, tiny or struck out."""
    font = cell.font
    if font.strike or (font.sz is not None and font.sz < SMALLEST_FONT_PT):
        return True
    color = font.color
    if color is None or cell.fill.fill_type is not None:
        return False
    if color.type == "rgb":
        return str(color.rgb).upper().endswith(WHITE_RGB)
    return color.type == "theme" and color.theme == WHITE_THEME


def _find_conditional_formats(sheet: Worksheet) -> Iterator[Finding]:
    """Yield the cells whose number format depends on a condition."""
    for area in sheet.conditional_formatting:
        styles = [rule.dxf for rule in area.rules if rule.dxf is not None]
        if any(style.numFmt is not None for style in styles):
            yield Finding(
                "format",
                f"the sheet {sheet.title!r}, cells {area.sqref}: a conditional number format may "
                "show something else than the numbers. Remove it.",
            )


def _find_formulas(sheet: Worksheet, formulas: Workbook) -> Iterator[Finding]:
    for row in formulas[sheet.title].iter_rows():
        for cell in row:
            if cell.data_type != "f":
                continue
            name = f"the sheet {sheet.title!r}, cell {cell.coordinate}"
            if sheet[cell.coordinate].value is None:
                yield Finding(
                    "formula",
                    f"{name}: the formula has no value. Open the file in Excel and save it, or "
                    "write the number.",
                )
            else:
                yield Finding(
                    "formula",
                    f"{name}: a formula was compared by the value that it had when saved.",
                    level="note",
                )
