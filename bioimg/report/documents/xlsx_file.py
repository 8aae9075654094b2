"""Write Excel files. Numbers stay numbers, shown rounded; text is never a formula."""

from pathlib import Path
from typing import Any

from openpyxl import Workbook
from openpyxl.cell.cell import Cell, MergedCell
from openpyxl.styles import Alignment, Border, Font, Side
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.properties import PageSetupProperties
from openpyxl.worksheet.worksheet import Worksheet

from bioimg.report.table_model import (
    Column,
    Table,
    display_factor,
    display_width,
    is_missing,
)

HEADER_ROW = 3
HEADER_HEIGHT_PT = 32
MAX_COLUMN_WIDTH = 44
MAX_SHEET_NAME_CHARACTERS = 31
FORMULA_SIGNS = ("=", "+", "-", "@")
RIGHT_ALIGNMENT = Alignment(horizontal="right")


def write_table(table: Table, path: Path) -> None:
    """Write a table to an Excel file with one sheet."""
    book = Workbook()
    sheet = book.active
    assert isinstance(sheet, Worksheet)
    sheet.title = table.name[:MAX_SHEET_NAME_CHARACTERS]
    caption = _set_text(sheet.cell(1, 1), table.caption)
    caption.font = Font(bold=True, size=13)
    _write_headers(sheet, table)
    _write_rows(sheet, table)
    first_note_row = _last_row(table) + 2
    for row, note in enumerate(table.notes, start=first_note_row):
        cell = _set_text(sheet.cell(row, 1), note)
        cell.font = Font(italic=True, color="FF555555")
    _set_column_widths(sheet, table)
    _format_sheet(sheet, table)
    book.save(path)


def _last_row(table: Table) -> int:
    return HEADER_ROW + len(table.values)


def _write_headers(sheet: Worksheet, table: Table) -> None:
    for position, name in enumerate(table.headers, start=1):
        cell = _set_text(sheet.cell(HEADER_ROW, position), name)
        cell.font = Font(bold=True)
        cell.border = Border(bottom=Side("thin"), top=Side("medium"))
        cell.alignment = Alignment(wrap_text=True, vertical="top")


def _write_rows(sheet: Worksheet, table: Table) -> None:
    rows = zip(table.cells(), table.records(), strict=True)
    for number, (texts, record) in enumerate(rows, start=HEADER_ROW + 1):
        for position, column in enumerate(table.columns):
            cell = sheet.cell(number, position + 1)
            _fill_cell(cell, texts[position], column, record)


def _fill_cell(cell: Cell | MergedCell, text: str, column: Column, record: dict[str, Any]) -> None:
    """Store a single number as a number with a format that rounds it, and all else as text."""
    assert isinstance(cell, Cell)
    if _is_number(column, record):
        cell.value = float(record[column.name]) * display_factor(column.kind)
        cell.number_format = _number_format(column.decimals)
        return
    _set_text(cell, text)
    if not column.is_left_aligned:
        cell.alignment = RIGHT_ALIGNMENT


def _number_format(decimals: int) -> str:
    if decimals == 0:
        return "0"
    return "0." + "0" * decimals


def _is_number(column: Column, record: dict[str, Any]) -> bool:
    """Return True if a cell shows one number, without a deviation or an epoch."""
    value = record.get(column.name)
    if not column.is_single_number or isinstance(value, str) or is_missing(value):
        return False
    deviation = record.get(f"{column.name}_sd")
    epoch = record.get(f"{column.name}_epoch")
    return is_missing(deviation) and is_missing(epoch)


def _set_text(cell: Cell | MergedCell, text: str) -> Cell:
    assert isinstance(cell, Cell)
    cell.value = text
    cell.data_type = "s"  # openpyxl treats a text that begins with = as a formula
    if text.startswith(FORMULA_SIGNS):
        cell.quotePrefix = True  # so does Excel, once somebody edits the cell
    return cell


def _set_column_widths(sheet: Worksheet, table: Table) -> None:
    """Fit each column to its longest text. A header may take two lines, broken between words."""
    cells = table.cells()
    for position, name in enumerate(table.headers):
        widths = [display_width(name) // 2]
        widths += map(display_width, name.split())
        widths += [display_width(row[position]) for row in cells]
        dimension = sheet.column_dimensions[get_column_letter(position + 1)]
        dimension.width = min(MAX_COLUMN_WIDTH, max(widths) + 3)


def _format_sheet(sheet: Worksheet, table: Table) -> None:
    """Keep the header in sight, offer filters, close the table with a line, and print it whole."""
    last_row = _last_row(table)
    last_column = get_column_letter(len(table.columns))
    sheet.freeze_panes = f"A{HEADER_ROW + 1}"
    sheet.auto_filter.ref = f"A{HEADER_ROW}:{last_column}{last_row}"
    sheet.row_dimensions[HEADER_ROW].height = HEADER_HEIGHT_PT
    for position in range(1, len(table.columns) + 1):
        sheet.cell(last_row, position).border = Border(bottom=Side("medium"))
    sheet.page_setup.orientation = "landscape"
    sheet.page_setup.fitToWidth = 1
    sheet.page_setup.fitToHeight = 0
    sheet.sheet_properties.pageSetUpPr = PageSetupProperties(fitToPage=True)
    sheet.print_title_rows = f"{HEADER_ROW}:{HEADER_ROW}"
