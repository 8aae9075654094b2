"""Write a methods section with its checklists as Markdown and Word files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bioimg.report.analysis import Analysis
from bioimg.report.class_images import TextTable
from bioimg.report.documents.markdown import escape_markdown
from bioimg.report.methods.checklists import fill_checklists
from bioimg.report.methods.describe_methods import Section, describe_methods
from bioimg.report.translation import translate
from bioimg.results.looks import Look

if TYPE_CHECKING:
    from docx.document import Document as Page

FILE_NAME = "methods"
TABLE_POINTS = 8
"""Size of the letters in a table of a Word file."""
CHECKLIST_WIDTHS_CM = (1.3, 5.0, 8.9)
"""Widths of a checklist's columns in a Word file."""


@dataclass(frozen=True)
class MethodsDocument:
    """What a file shows, from top to bottom."""

    title: str
    draft_note: str
    sections: tuple[Section, ...]
    class_tables: tuple[TextTable, ...]
    checklist_note: str
    checklists: tuple[TextTable, ...]


def write_methods(
    analysis: Analysis,
    looks: Sequence[Look],
    folder: Path,
    *,
    lang: str = "en",
    word: bool = False,
) -> list[Path]:
    """Write methods.md and, if asked, methods.docx to a folder. Return their paths.

    For the other arguments see `describe_methods`.
    """
    document = _build_document(analysis, looks, lang)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{FILE_NAME}.md"
    path.write_text(_render_markdown(document), encoding="utf-8")
    paths = [path]
    if word:
        paths.append(folder / f"{FILE_NAME}.docx")
        _write_word(document, paths[-1])
    return paths


def _build_document(analysis: Analysis, looks: Sequence[Look], lang: str) -> MethodsDocument:
    methods = describe_methods(analysis, looks, lang)
    return MethodsDocument(
        title=translate("methods.document", lang, experiment=analysis.manifest["name"]),
        draft_note=translate("methods.draft", lang, fingerprint=analysis.digest),
        sections=methods.sections,
        class_tables=(methods.class_table,) if methods.class_table else (),
        checklist_note=translate("checklist.note", lang),
        checklists=fill_checklists(methods, lang),
    )


def _render_markdown(document: MethodsDocument) -> str:
    parts = [f"# {escape_markdown(document.title)}", escape_markdown(document.draft_note)]
    for section in document.sections:
        parts.append(f"## {escape_markdown(section.title)}")
        parts.append(escape_markdown(section.paragraph))
    for table in document.class_tables:
        parts.append(f"**{escape_markdown(table.caption)}**")
        parts.append(_render_table(table))
    for table in document.checklists:
        parts.append(f"## {escape_markdown(table.caption)}")
        parts.append(escape_markdown(document.checklist_note))
        parts.append(_render_table(table))
    return "\n\n".join(parts) + "\n"


def _render_table(table: TextTable) -> str:
    lines = [table.headers, ["---"] * len(table.headers), *table.rows]
    rendered = []
    for number, texts in enumerate(lines):
        is_rule = number == 1
        cells = texts if is_rule else map(escape_markdown, texts)
        rendered.append(f"| {' | '.join(cells)} |")
    return "\n".join(rendered)


def _write_word(document: MethodsDocument, path: Path) -> None:
    from docx import Document

    page = Document()
    page.core_properties.title = document.title[:255]
    page.add_heading(document.title, level=1)
    page.add_paragraph(document.draft_note)
    for section in document.sections:
        page.add_heading(section.title, level=2)
        page.add_paragraph(section.paragraph)
    for table in document.class_tables:
        page.add_paragraph(table.caption, style="Caption")
        _add_word_table(page, table)
    for table in document.checklists:
        page.add_heading(table.caption, level=2)
        page.add_paragraph(document.checklist_note)
        _add_word_table(page, table, CHECKLIST_WIDTHS_CM)
    page.save(str(path))


def _add_word_table(page: "Page", table: TextTable, widths_cm: Sequence[float] = ()) -> None:
    from docx.shared import Cm, Pt

    grid = page.add_table(rows=0, cols=len(table.headers), style="Table Grid")
    if widths_cm:
        grid.autofit = False
    for column, width in zip(grid.columns, widths_cm, strict=False):
        column.width = Cm(width)
    for texts in (table.headers, *table.rows):
        for cell, text in zip(grid.add_row().cells, texts, strict=True):
            paragraph = cell.paragraphs[0]
            paragraph.paragraph_format.space_after = Pt(0)
            run = paragraph.add_run(text)
            run.font.size = Pt(TABLE_POINTS)
            run.bold = texts is table.headers
