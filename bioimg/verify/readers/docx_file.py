"""Read Word files: all text that Word shows, in paragraphs, content controls and fields."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docx import Document
from docx.oxml.ns import qn

from bioimg.errors import UserError
from bioimg.verify.findings import Finding
from bioimg.verify.parsed_document import EMPTY_CELL, Cell, ParsedDocument, ParsedTable

CHANGE_TAGS = tuple(
    qn(f"w:{name}")
    for name in ("ins", "del", "moveFrom", "moveTo", "cellIns", "cellDel", "cellMerge")
)
"""Marks of text, rows and cells that somebody inserted, deleted or moved with tracked changes."""

MATH_TEXT = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
TEXT_BOX = qn("w:txbxContent")
CHARACTER_BY_TAG = {
    qn("w:tab"): " ",
    qn("w:br"): " ",
    qn("w:cr"): " ",
    qn("w:noBreakHyphen"): "-",
    qn("w:sym"): "\ufffd",  # a character of a symbol font, whose shape isn't known
}
OFF_VALUES = ("0", "false", "off", "none")
WHITE_COLORS = ("FFFFFF", "background1")
SMALLEST_FONT_HALF_PT = 6


def read_document(path: Path) -> ParsedDocument:
    """Read every paragraph and table, also in content controls and text boxes.

    Text that is hidden, struck out, tiny or white on white is a finding.

    Raises:
        UserError: the file has changes that nobody accepted or rejected.
    """
    body = Document(str(path)).element.body
    changes = sum(1 for _ in body.iter(*CHANGE_TAGS))
    if changes:
        raise UserError(
            f"the file {path} has tracked changes ({changes}), so that its text isn't settled. "
            "Accept or reject all of them in Word (Review), and save it."
        )
    blocks: list[str | ParsedTable] = []
    findings: list[Finding] = []
    tables = 0
    for element in _block_elements(body):
        if element.tag == qn("w:p"):
            if text := _text(element):
                blocks.append(text)
            continue
        tables += 1
        location = f"table {tables}"
        blocks.append(_parse_table(element, location))
        findings.extend(_find_invisible_text(element, location))
    return ParsedDocument(blocks, findings)


def _block_elements(parent: Any) -> Iterator[Any]:
    """Yield the paragraphs and tables below an element, whatever they are wrapped in."""
    for child in parent:
        if child.tag == FALLBACK:  # repeats a text box for old programs
            continue
        if child.tag in (qn("w:p"), qn("w:tbl")):
            yield child
        if child.tag != qn("w:tbl"):
            yield from _block_elements(child)


def _text(element: Any) -> str:
    """Return the text of a paragraph or cell, without that of text boxes in it."""
    return " ".join("".join(_text_parts(element)).split())


def _text_parts(element: Any) -> Iterator[str]:
    for child in element:
        if child.tag in (FALLBACK, TEXT_BOX):
            continue
        if child.tag in (qn("w:t"), MATH_TEXT):
            yield child.text or ""
        elif child.tag in CHARACTER_BY_TAG and not _is_tab_stop(child):
            yield CHARACTER_BY_TAG[child.tag]
        else:
            yield from _text_parts(child)
        if child.tag == qn("w:p"):
            yield " "


def _is_tab_stop(element: Any) -> bool:
    """Return True for the position of a tab in a paragraph's format."""
    return element.getparent().tag == qn("w:tabs")


# Tables


def _parse_table(table: Any, location: str) -> ParsedTable:
    rows: list[list[Cell]] = []
    for row in _children(table, "w:tr"):
        rows.append(_parse_row(row, rows[-1] if rows else []))
    if not rows:
        return ParsedTable([], [], location)
    headers, *body = rows
    return ParsedTable([cell.text for cell in headers], body, location)


def _children(parent: Any, name: str) -> Iterator[Any]:
    """Yield the rows of a table, or the cells of a row, also those in content controls."""
    for child in parent:
        if child.tag == qn(name):
            yield child
        elif child.tag in (qn("w:sdt"), qn("w:sdtContent"), qn("w:customXml")):
            yield from _children(child, name)


def _parse_row(row: Any, previous: list[Cell]) -> list[Cell]:
    """Return the cells of a row. A merged cell is repeated wherever it is shown."""
    cells = [EMPTY_CELL] * _count(row, "w:trPr/w:gridBefore")
    for element in _children(row, "w:tc"):
        merge = element.find(_path("w:tcPr/w:vMerge"))
        continues = merge is not None and merge.get(qn("w:val"), "continue") == "continue"
        if continues and len(cells) < len(previous):
            cell = previous[len(cells)]
        else:
            cell = Cell(_text(element), is_bold=_has_bold_text(element))
        cells += [cell] * (_count(element, "w:tcPr/w:gridSpan") or 1)
    return cells


def _count(element: Any, path: str) -> int:
    found = element.find(_path(path))
    return 0 if found is None else int(found.get(qn("w:val"), 0))


def _path(path: str) -> str:
    return "/".join(map(qn, path.split("/")))


# Looks


def _has_bold_text(element: Any) -> bool:
    return any(_is_on(run, "w:b") and _text(run) for run in element.iter(qn("w:r")))


def _is_on(run: Any, name: str) -> bool:
    """Return True if a run has a property such as bold, and it isn't switched off."""
    found = run.find(_path(f"w:rPr/{name}"))
    return found is not None and found.get(qn("w:val"), "1") not in OFF_VALUES


def _find_invisible_text(table: Any, location: str) -> Iterator[Finding]:
    """Yield the rows and texts of a table that a reader doesn't see."""
    for row in table.iter(qn("w:tr")):
        if row.find(_path("w:trPr/w:hidden")) is not None:
            yield Finding("hidden", f"{location}: a row is hidden: {_text(row)!r}. Delete it.")
    for cell in table.iter(qn("w:tc")):
        is_shaded = cell.find(_path("w:tcPr/w:shd")) is not None
        for run in cell.iter(qn("w:r")):
            if _text(run) and _is_invisible(run, is_shaded):
                yield Finding(
                    "hidden", f"{location}: {_text(run)!r} can't be read. Show or delete it."
                )


def _is_invisible(run: Any, is_shaded: bool) -> bool:
    if any(_is_on(run, name) for name in ("w:vanish", "w:strike", "w:dstrike")):
        return True
    size = _count(run, "w:rPr/w:sz")
    if 0 < size < SMALLEST_FONT_HALF_PT:
        return True
    color = run.find(_path("w:rPr/w:color"))
    if color is None or is_shaded:
        return False
    names = (color.get(qn("w:val"), "").upper(), color.get(qn("w:themeColor"), ""))
    return any(name in WHITE_COLORS for name in names)
