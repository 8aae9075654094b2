"""HTML: a figure to include in a page, or a small page of its own. All text is escaped."""

from html import escape
from pathlib import Path

from bioimg.report.table_model import Table

STYLESHEET = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2em;color-scheme:light dark}table{border-collapse:collapse;"
    "border-block:2px solid;font-variant-numeric:tabular-nums}th,td{padding:.25em .7em;text-align:start;vertical-align:top}"
    "thead{border-bottom:1px solid}th{word-break:keep-all}td{white-space:nowrap}.number{text-align:end}"
    ".text{white-space:normal;min-width:8em}"
    "caption{text-align:start;font-weight:600;padding:.5em 0}"
    "ul{font-size:.85em;max-width:60em}figure{margin:0;overflow-x:auto}"
)


def write_table(table: Table, path: Path) -> None:
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(table.caption)}</title>'
    page = f"<head>{head}<style>{STYLESHEET}</style></head>\n<body>\n{render_figure(table)}</body>"
    path.write_text(
        f'<!doctype html>\n<html lang="{table.lang}">\n{page}\n</html>\n', encoding="utf-8"
    )


def render_figure(table: Table) -> str:
    """A `<figure>` with the table, its caption and its notes."""
    kinds = [
        "" if column.identity else f' class="{"text" if column.kind == "text" else "number"}"'
        for column in table.columns
    ]
    head = "".join(
        f'<th scope="col" dir="auto"{kind}>{escape(name)}</th>'
        for kind, name in zip(kinds, table.headers, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(
            f'<td dir="auto"{kind}>{escape(cell)}</td>'
            for kind, cell in zip(kinds, row, strict=True)
        )
        + "</tr>"
        for row in table.cells()
    )
    notes = "\n".join(f'<li dir="auto">{escape(note)}</li>' for note in table.notes)
    caption = f'<caption dir="auto">{escape(table.caption)}</caption>'
    return (
        f"<figure>\n<table>\n{caption}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n"
        f"<ul>\n{notes}\n</ul>\n</figure>\n"
    )
