"""Write HTML: a figure to include in a page, or a small page of its own. All text is escaped."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from bioimg.report.table_model import Column, Table

STYLESHEET = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2em;color-scheme:light dark}"
    "table{border-collapse:collapse;border-block:2px solid;font-variant-numeric:tabular-nums}"
    "th,td{padding:.25em .7em;text-align:start;vertical-align:top}"
    "thead{border-bottom:1px solid}th{word-break:keep-all}td{white-space:nowrap}"
    ".number{text-align:end}.text{white-space:normal;min-width:8em}"
    "caption{text-align:start;font-weight:600;padding:.5em 0}"
    "ul{font-size:.85em;max-width:60em}figure{margin:0;overflow-x:auto}"
)


def write_table(table: Table, path: Path) -> None:
    """Write a table to an HTML file that needs no other file."""
    title = escape(table.caption)
    page = f"""<!doctype html>
<html lang="{table.lang}">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">\
<title>{title}</title><style>{STYLESHEET}</style></head>
<body>
{render_figure(table)}</body>
</html>
"""
    path.write_text(page, encoding="utf-8")


def render_figure(table: Table) -> str:
    """Return a `<figure>` with the table, its caption and its notes."""
    classes = [_class_attribute(column) for column in table.columns]
    caption = f'<caption dir="auto">{escape(table.caption)}</caption>'
    header = _render_cells('th scope="col"', "th", table.headers, classes)
    rows = []
    for row in table.cells():
        rows.append(f"<tr>{_render_cells('td', 'td', row, classes)}</tr>")
    notes = [f'<li dir="auto">{escape(note)}</li>' for note in table.notes]
    return "\n".join(
        [
            "<figure>",
            "<table>",
            caption,
            f"<thead><tr>{header}</tr></thead>",
            "<tbody>",
            *rows,
            "</tbody>",
            "</table>",
            "<ul>",
            *notes,
            "</ul>",
            "</figure>",
            "",
        ]
    )


def _class_attribute(column: Column) -> str:
    if column.identity:
        return ""
    return f' class="{"text" if column.kind == "text" else "number"}"'


def _render_cells(opening: str, closing: str, texts: Sequence[str], classes: Sequence[str]) -> str:
    """Return cells that show text in the direction of its own letters, right to left if need be."""
    cells = []
    for text, class_attribute in zip(texts, classes, strict=True):
        cells.append(f'<{opening} dir="auto"{class_attribute}>{escape(text)}</{closing}>')
    return "".join(cells)
