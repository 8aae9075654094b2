"""Excel: numbers stay numbers, shown rounded; text is never a formula."""

from pathlib import Path
from typing import Any

import pandas as pd
from openpyxl import Workbook, load_workbook
from openpyxl.cell.cell import Cell, MergedCell
from openpyxl.styles import Alignment, Border, Font, Side
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.properties import PageSetupProperties
from openpyxl.worksheet.worksheet import Worksheet

from bioimg.report.table_model import Column, ParsedTable, Table, display_factor, display_width

HEADER_ROW = 3
MAX_COLUMN_WIDTH = 44
RIGHT_ALIGNMENT = Alignment(horizontal="right")


def write_table(table: Table, path: Path) -> None:
    book = Workbook()
    sheet = book.active
    assert isinstance(sheet, Worksheet)
    sheet.title = table.name[:31]
    _set_text(sheet.cell(1, 1), table.caption).font = Font(bold=True, size=13)
    _write_headers(sheet, table)
    cells, records = table.cells(), table.records()
    for line, (texts, record) in enumerate(zip(cells, records, strict=True), start=HEADER_ROW + 1):
        for place, (text, column) in enumerate(zip(texts, table.columns, strict=True), start=1):
            _fill_cell(sheet.cell(line, place), text, column, record)
    for line, note in enumerate(table.notes, start=HEADER_ROW + len(cells) + 2):
        _set_text(sheet.cell(line, 1), note).font = Font(italic=True, color="FF555555")
    _format_sheet(sheet, table, cells)
    book.save(path)


def _write_headers(sheet: Worksheet, table: Table) -> None:
    for place, name in enumerate(table.headers, start=1):
        cell = _set_text(sheet.cell(HEADER_ROW, place), name)
        cell.font, cell.border = Font(bold=True), Border(bottom=Side("thin"), top=Side("medium"))
        cell.alignment = Alignment(wrap_text=True, vertical="top")


def _fill_cell(cell: Cell | MergedCell, text: str, column: Column, record: dict[str, Any]) -> None:
    """Store a single number as a number, with a format that rounds it, and everything else as text."""
    assert isinstance(cell, Cell)
    value = record.get(column.name)
    alone = column.is_single_number and all(
        pd.isna(record.get(f"{column.name}_{part}")) for part in ("sd", "epoch")
    )
    if alone and not isinstance(value, str) and not pd.isna(value):
        cell.value = float(value) * display_factor(column.kind)
        cell.number_format = "0." + "0" * column.decimals if column.decimals else "0"
    else:
        _set_text(cell, text)
        if not (column.identity or column.kind == "text"):
            cell.alignment = RIGHT_ALIGNMENT


def _set_text(cell: Cell | MergedCell, text: str) -> Cell:
    assert isinstance(cell, Cell)
    cell.value = text
    cell.data_type = "s"  # openpyxl takes a text that begins with = for a formula
    if text.startswith(("=", "+", "-", "@")):
        cell.quotePrefix = True  # so does Excel, once somebody edits the cell
    return cell


def _format_sheet(sheet: Worksheet, table: Table, cells: list[list[str]]) -> None:
    last = HEADER_ROW + len(cells)
    sheet.freeze_panes = f"A{HEADER_ROW + 1}"
    sheet.auto_filter.ref = f"A{HEADER_ROW}:{get_column_letter(len(table.columns))}{last}"
    for place, name in enumerate(table.headers):
        longest = max(
            [
                *map(display_width, name.split()),
                display_width(name) // 2,
                *(display_width(row[place]) for row in cells),
            ]
        )
        sheet.column_dimensions[get_column_letter(place + 1)].width = min(
            MAX_COLUMN_WIDTH, longest + 3
        )
    sheet.row_dimensions[HEADER_ROW].height = 32
    for place in range(1, len(table.columns) + 1):
        sheet.cell(last, place).border = Border(bottom=Side("medium"))
    sheet.page_setup.orientation, sheet.page_setup.fitToWidth, sheet.page_setup.fitToHeight = (
        "landscape",
        1,
        0,
    )
    sheet.sheet_properties.pageSetUpPr = PageSetupProperties(fitToPage=True)
    sheet.print_title_rows = f"{HEADER_ROW}:{HEADER_ROW}"


def read_tables(path: Path) -> list[ParsedTable]:
    """The table of every sheet: from the first row with more than one cell to the next one with fewer."""
    book = load_workbook(path, data_only=True)
    return [found for sheet in book.worksheets if (found := _read_sheet(sheet)).headers]


def _read_sheet(sheet: Worksheet) -> ParsedTable:
    rows = [[_cell_text(value) for value in row] for row in sheet.iter_rows(values_only=True)]
    filled = [sum(bool(cell) for cell in row) > 1 for row in rows]
    around = "\n".join(cell for row in rows for cell in row)
    if True not in filled:
        return ParsedTable([], [], sheet.title, around)
    start = filled.index(True)
    end = next((n for n in range(start, len(rows)) if not filled[n]), len(rows))
    return ParsedTable(rows[start], rows[start + 1 : end], f"the sheet {sheet.title!r}", around)


def _cell_text(value: object) -> str:
    return "" if value is None else f"{value:.15g}" if isinstance(value, float) else str(value)
