"""Word: a real table under a caption, its head repeated on every page, on a sheet that is wide enough."""

from pathlib import Path

from docx import Document
from docx.document import Document as Page
from docx.enum.section import WD_ORIENT
from docx.enum.text import WD_ALIGN_PARAGRAPH
from docx.oxml import OxmlElement
from docx.shared import Cm, Pt
from docx.table import _Cell, _Row

from bioimg.report.table import Read, Table

NARROW = 6
"""Columns up to which a table stands on an upright page."""


def write(table: Table, path: Path) -> None:
    page = Document()
    _sheet(page, wide=len(table.columns) > NARROW)
    page.core_properties.title = table.caption[:255]
    page.add_paragraph(table.caption, style="Caption").paragraph_format.keep_with_next = True
    _fill(page, table)
    for note in table.notes:
        paragraph = page.add_paragraph(style="List Bullet")
        paragraph.paragraph_format.space_after = Pt(0)
        paragraph.add_run(note).font.size = Pt(8)
    page.save(str(path))


def _sheet(page: Page, wide: bool) -> None:
    section = page.sections[0]
    short, long = Cm(21), Cm(29.7)
    section.page_width, section.page_height = (long, short) if wide else (short, long)
    section.orientation = WD_ORIENT.LANDSCAPE if wide else WD_ORIENT.PORTRAIT
    section.left_margin = section.right_margin = section.top_margin = section.bottom_margin = Cm(1.8)


def _fill(page: Page, table: Table) -> None:
    numbers = [not (column.identity or column.kind == "text") for column in table.columns]
    cells = table.cells()
    grid = page.add_table(rows=1 + len(cells), cols=len(table.columns), style="Light List")
    for row, texts in zip(grid.rows, (table.headers, *cells), strict=True):
        _keep_together(row)
        for cell, text, number in zip(row.cells, texts, numbers, strict=True):
            _write(cell, text, number, bold=row is grid.rows[0])
    _repeat(grid.rows[0])


def _write(cell: _Cell, text: str, number: bool, bold: bool) -> None:
    paragraph = cell.paragraphs[0]
    paragraph.paragraph_format.space_after = Pt(0)
    paragraph.alignment = WD_ALIGN_PARAGRAPH.RIGHT if number else WD_ALIGN_PARAGRAPH.LEFT
    run = paragraph.add_run(text)
    run.font.size, run.bold = Pt(8), bold


def _repeat(row: _Row) -> None:
    row._tr.get_or_add_trPr().append(OxmlElement("w:tblHeader"))


def _keep_together(row: _Row) -> None:
    row._tr.get_or_add_trPr().append(OxmlElement("w:cantSplit"))


def read(path: Path) -> list[Read]:
    """Every table of a document."""
    return [
        Read(rows[0], rows[1:], f"table {number}")
        for number, grid in enumerate(Document(str(path)).tables, start=1)
        if (rows := [[cell.text.strip() for cell in row.cells] for row in grid.rows])
    ]
