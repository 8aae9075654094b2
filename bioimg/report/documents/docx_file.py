"""Write Word files: a table with a caption, on a page that is wide enough for it."""

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from docx import Document
from docx.document import Document as Page
from docx.enum.section import WD_ORIENT
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from docx.shared import Cm, Pt

from bioimg.report.table_model import Table, display_width

MAX_PORTRAIT_COLUMNS = 6
"""The most columns of a table on a portrait page."""

PAGE_SHORT_SIDE = Cm(21)
PAGE_LONG_SIDE = Cm(29.7)
MARGIN = Cm(1.8)
PORTRAIT_WIDTH_TWIPS = 9860
"""Width between the margins of a portrait A4 page, in twentieths of a point as all widths."""
LANDSCAPE_WIDTH_TWIPS = 14800
MAX_COLUMN_CHARACTERS = 40


def write_table(table: Table, path: Path) -> None:
    """Write a table to a Word file."""
    page = Document()
    _set_page_size(page, wide=_needs_landscape(table))
    page.core_properties.title = table.caption[:255]
    caption = page.add_paragraph(table.caption, style="Caption")
    caption.paragraph_format.keep_with_next = True
    # python-docx takes minutes to fill 10,000 rows cell by cell
    page.element.body.insert(-1, parse_xml(_table_xml(table)))
    for note in table.notes:
        paragraph = page.add_paragraph(style="List Bullet")
        paragraph.paragraph_format.space_after = Pt(0)
        paragraph.add_run(note).font.size = Pt(8)
    page.save(str(path))


def _needs_landscape(table: Table) -> bool:
    return len(table.columns) > MAX_PORTRAIT_COLUMNS


def _set_page_size(page: Page, wide: bool) -> None:
    section = page.sections[0]
    if wide:
        section.page_width = PAGE_LONG_SIDE
        section.page_height = PAGE_SHORT_SIDE
        section.orientation = WD_ORIENT.LANDSCAPE
    else:
        section.page_width = PAGE_SHORT_SIDE
        section.page_height = PAGE_LONG_SIDE
        section.orientation = WD_ORIENT.PORTRAIT
    section.left_margin = MARGIN
    section.right_margin = MARGIN
    section.top_margin = MARGIN
    section.bottom_margin = MARGIN


def _table_xml(table: Table) -> str:
    """Return the table as WordprocessingML, with lines above, below and under its header."""
    cells = table.cells()
    widths = _column_widths(table, cells)
    sides = ["left" if column.is_left_aligned else "right" for column in table.columns]
    grid = "".join(f'<w:gridCol w:w="{width}"/>' for width in widths)
    header = _row_xml(table.headers, widths, sides, is_header=True)
    body = "".join(_row_xml(row, widths, sides) for row in cells)
    return (
        f'<w:tbl {nsdecls("w")}><w:tblPr><w:tblW w:w="{sum(widths)}" w:type="dxa"/><w:tblBorders>'
        '<w:top w:val="single" w:sz="12"/><w:bottom w:val="single" w:sz="12"/></w:tblBorders>'
        f'<w:tblLayout w:type="fixed"/></w:tblPr><w:tblGrid>{grid}</w:tblGrid>'
        f"{header}{body}</w:tbl>"
    )


def _row_xml(
    texts: Sequence[str], widths: Sequence[int], sides: Sequence[str], is_header: bool = False
) -> str:
    """Return a row that isn't split between pages. A header is bold and repeated on every page."""
    repeat = rule = bold = ""
    if is_header:
        repeat = "<w:tblHeader/>"
        rule = '<w:tcBorders><w:bottom w:val="single" w:sz="6"/></w:tcBorders>'
        bold = "<w:b/>"
    cells = []
    for text, width, side in zip(texts, widths, sides, strict=True):
        cells.append(
            f'<w:tc><w:tcPr><w:tcW w:w="{width}" w:type="dxa"/>{rule}</w:tcPr>'
            f'<w:p><w:pPr><w:spacing w:after="0"/><w:jc w:val="{side}"/></w:pPr>'
            f'<w:r><w:rPr>{bold}<w:sz w:val="16"/></w:rPr>'
            f'<w:t xml:space="preserve">{escape(text)}</w:t></w:r></w:p></w:tc>'
        )
    return f"<w:tr><w:trPr><w:cantSplit/>{repeat}</w:trPr>{''.join(cells)}</w:tr>"


def _column_widths(table: Table, cells: Sequence[Sequence[str]]) -> list[int]:
    """Divide the page's width among columns by their longest text.

    A header counts by its longest word, since it may take several lines.
    """
    characters = []
    for position, header in enumerate(table.headers):
        texts = [*header.split(), *(row[position] for row in cells)]
        longest = max(map(display_width, texts), default=1)
        characters.append(min(MAX_COLUMN_CHARACTERS, longest) + 2)
    page_width = LANDSCAPE_WIDTH_TWIPS if _needs_landscape(table) else PORTRAIT_WIDTH_TWIPS
    return [page_width * count // sum(characters) for count in characters]
