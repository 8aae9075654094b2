"""Word: a real table with a caption, its header repeated on every page, on a page that is wide enough."""

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from docx import Document
from docx.document import Document as Page
from docx.enum.section import WD_ORIENT
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from docx.shared import Cm, Pt

from bioimg.report.table_model import ParsedTable, Table, display_width

MAX_PORTRAIT_COLUMNS = 6
"""The most columns of a table on a portrait page."""

PORTRAIT_WIDTH_TWIPS, LANDSCAPE_WIDTH_TWIPS = 9860, 14800
"""Width between the margins of an A4 page (portrait, landscape), in twentieths of a point, also the unit below."""


def write_table(table: Table, path: Path) -> None:
    page = Document()
    _set_page_size(page, wide=len(table.columns) > MAX_PORTRAIT_COLUMNS)
    page.core_properties.title = table.caption[:255]
    page.add_paragraph(table.caption, style="Caption").paragraph_format.keep_with_next = True
    # python-docx takes minutes for 10,000 rows cell by cell
    page.element.body.insert(-1, parse_xml(_table_xml(table)))
    for note in table.notes:
        paragraph = page.add_paragraph(style="List Bullet")
        paragraph.paragraph_format.space_after = Pt(0)
        paragraph.add_run(note).font.size = Pt(8)
    page.save(str(path))


def _set_page_size(page: Page, wide: bool) -> None:
    section = page.sections[0]
    short, long = Cm(21), Cm(29.7)
    section.page_width, section.page_height = (long, short) if wide else (short, long)
    section.orientation = WD_ORIENT.LANDSCAPE if wide else WD_ORIENT.PORTRAIT
    section.left_margin = section.right_margin = section.top_margin = section.bottom_margin = Cm(
        1.8
    )


def _table_xml(table: Table) -> str:
    """The table as WordprocessingML, with lines above, below and under its header, as in books."""
    cells = table.cells()
    widths = _column_widths(table, cells)
    sides = [
        "left" if column.identity or column.kind == "text" else "right" for column in table.columns
    ]
    grid = "".join(f'<w:gridCol w:w="{share}"/>' for share in widths)
    edges = "".join(f'<w:{edge} w:val="single" w:sz="12"/>' for edge in ("top", "bottom"))
    rows = [
        _row_xml(table.headers, widths, sides, head=True),
        *(_row_xml(row, widths, sides) for row in cells),
    ]
    return (
        f'<w:tbl {nsdecls("w")}><w:tblPr><w:tblW w:w="{sum(widths)}" w:type="dxa"/><w:tblBorders>{edges}</w:tblBorders>'
        f'<w:tblLayout w:type="fixed"/></w:tblPr><w:tblGrid>{grid}</w:tblGrid>{"".join(rows)}</w:tbl>'
    )


def _row_xml(
    texts: Sequence[str], widths: Sequence[int], sides: Sequence[str], head: bool = False
) -> str:
    repeat = "<w:tblHeader/>" if head else ""
    line = '<w:tcBorders><w:bottom w:val="single" w:sz="6"/></w:tcBorders>' if head else ""
    look = f'<w:rPr>{"<w:b/>" if head else ""}<w:sz w:val="16"/></w:rPr>'
    cells = "".join(
        f'<w:tc><w:tcPr><w:tcW w:w="{share}" w:type="dxa"/>{line}</w:tcPr><w:p><w:pPr><w:spacing w:after="0"/>'
        f'<w:jc w:val="{side}"/></w:pPr><w:r>{look}<w:t xml:space="preserve">{escape(text)}</w:t></w:r></w:p></w:tc>'
        for text, share, side in zip(texts, widths, sides, strict=True)
    )
    return f"<w:tr><w:trPr><w:cantSplit/>{repeat}</w:trPr>{cells}</w:tr>"


def _column_widths(table: Table, cells: Sequence[Sequence[str]]) -> list[int]:
    """Divide the width among columns by their longest text; a header counts by its longest word."""
    texts = [
        [*name.split(), *(row[place] for row in cells)] for place, name in enumerate(table.headers)
    ]
    wanted = [min(40, max(map(display_width, column), default=1)) + 2 for column in texts]
    room = (
        LANDSCAPE_WIDTH_TWIPS if len(table.columns) > MAX_PORTRAIT_COLUMNS else PORTRAIT_WIDTH_TWIPS
    )
    return [room * share // sum(wanted) for share in wanted]


def read_tables(path: Path) -> list[ParsedTable]:
    """Every table of a document."""
    page = Document(str(path))
    around = "\n".join(paragraph.text for paragraph in page.paragraphs)
    grids = [
        [[cell.text.strip() for cell in row.cells] for row in grid.rows] for grid in page.tables
    ]
    return [
        ParsedTable(rows[0], rows[1:], f"table {number}", around)
        for number, rows in enumerate(grids, start=1)
        if rows
    ]
