"""Markdown (GitHub's tables). Names are plain text: nothing in them becomes HTML, a link, emphasis or a cell border."""

import html
import re
from collections.abc import Sequence
from pathlib import Path

from bioimg.report.table import Read, Table

SPECIAL = re.compile(r"([\\`*\[\]|~$#!{}])|(?<![^\W_])_|_(?![^\W_])")
ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
CELL = re.compile(r"((?:\\.|[^|\\])*)(?:\||$)")


def write(table: Table, path: Path) -> None:
    path.write_text(render(table), encoding="utf-8")


def render(table: Table) -> str:
    """Caption, table, notes."""
    plain = [column.kind != "text" for column in table.columns]
    rows = [[cell if number else escape(cell) for cell, number in zip(row, plain, strict=True)] for row in table.cells()]
    rule = ["---" if column.identity or column.kind == "text" else "---:" for column in table.columns]
    lines = [_line(row) for row in ([escape(name) for name in table.headers], rule, *rows)]
    notes = "\n".join(f"- {escape(note)}" for note in table.notes)
    return f"**{escape(table.caption)}**\n\n" + "\n".join(lines) + f"\n\n{notes}\n"


def escape(text: str) -> str:
    """Text that Markdown shows unchanged."""
    text = SPECIAL.sub(r"\\\g<0>", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("://", r"\://").replace("www.", r"www\.")


def read(path: Path) -> list[Read]:
    """Every table of a Markdown file."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    places = [n for n, line in enumerate(lines) if n and _is_rule(line) and "|" in lines[n - 1]]
    return [_read(lines, place) for place in places]


def _read(lines: Sequence[str], rule: int) -> Read:
    headers, rows = _cells(lines[rule - 1]), []
    for line in lines[rule + 1 :]:
        if "|" not in line:
            break
        rows.append(_cells(line))
    return Read(headers, rows, f"the table at line {rule}", "\n".join(lines))


def _is_rule(line: str) -> bool:
    return bool(re.fullmatch(r"\s*\|?(\s*:?-+:?\s*\|)*\s*:?-+:?\s*\|?\s*", line)) and "-" in line


def _cells(line: str) -> list[str]:
    """The texts between borders, which are bars without a backslash before them."""
    return [_unescape(part.strip()) for part in CELL.findall(line.strip().removeprefix("|"))[:-1]]


def _unescape(text: str) -> str:
    bold = text.startswith("**") and text.endswith("**") and len(text) > 4
    return html.unescape(ESCAPED.sub(r"\1", text[2:-2] if bold else text))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
