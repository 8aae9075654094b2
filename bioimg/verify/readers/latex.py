"""Read LaTeX: tabulars, captions and the text around them, as they are printed."""

import re
from collections.abc import Iterator
from pathlib import Path

from bioimg.report.documents.latex import ESCAPE_BY_CHARACTER
from bioimg.verify.parsed_document import Cell, ParsedDocument, ParsedTable

BRACED = r"\{((?:\\.|[^{}\\]|\{(?:\\.|[^{}\\]|\{(?:\\.|[^{}\\])*\})*\})*)\}"
"""Text in braces, with braces in it down to the second level."""

COMMENT_PATTERN = re.compile(r"(?<!\\)((?:\\\\)*)%.*")
UNPRINTED_PATTERN = re.compile(
    r"\\iffalse\b.*?\\fi\b|\\begin\{comment\}.*?\\end\{comment\}", re.DOTALL
)
TABULAR_PATTERN = re.compile(
    rf"\\begin\{{(?:(tabular|longtable)\}}|(tabular\*|tabularx)\}}\s*{BRACED})"
    rf"\s*(?:\[\w\]\s*)?{BRACED}(?P<body>.*?)\\end\{{(?:\1|\2)\}}",
    re.DOTALL,
)
"""`tabular` and `longtable` have column types in braces, the other two a width before them."""
CAPTION_PATTERN = re.compile(rf"\\caption(?:\[[^\]]*\])?{BRACED}", re.DOTALL)
PARAGRAPH_END_PATTERN = re.compile(
    r"\n\s*\n|\\\\|\\(?:begin|end)\{[^}]*\}(?:\{[^}]*\})*|\\label\{[^}]*\}"
    r"|\\(?:par|item|centering|smallskip|medskip|bigskip|noindent|footnotesize|scriptsize|small)\b"
)

# Tabulars
LABEL_PATTERN = re.compile(r"\\label\{[^}]*\}")
RULE_PATTERN = re.compile(
    r"\\(?:cmidrule(?:\([^)]*\))?\{[^}]*\}|cline\{[^}]*\}|addlinespace(?:\[[^\]]*\])?"
    r"|(?:toprule|midrule|bottomrule|hline|endhead|endfirsthead|endfoot|endlastfoot)\b)"
)
ROW_END_PATTERN = re.compile(r"\\\\(?:\[[^\]]*\])?|\\tabularnewline\b")
CELL_BORDER_PATTERN = re.compile(r"(?<!\\)&")
SHORTSTACK_PATTERN = re.compile(rf"\\shortstack(?:\[\w\])?{BRACED}")
MULTICOLUMN_PATTERN = re.compile(rf"\\multicolumn\{{(\d+)\}}\{{[^}}]*\}}{BRACED}")
MULTIROW_PATTERN = re.compile(rf"\\multirow\{{(\d+)\}}(?:\[[^\]]*\])?\{{[^}}]*\}}{BRACED}")

# Text
BOLD_PATTERN = re.compile(rf"\\(?:textbf|mathbf){BRACED}|\\bfseries\b\s*")
EMPHASIS_PATTERN = re.compile(rf"\\(?:textit|emph|underline|mathrm|text){BRACED}")
AUTHORS_SPELLINGS = {
    r"\pm": "±",
    r"\,": " ",
    "~": " ",
    "---": "—",
    "--": "–",
    "$": "",
    "{": "",
    "}": "",
}
"""How authors write what the report writes otherwise. The report escapes each of these in names."""

CHARACTER_BY_SPELLING = AUTHORS_SPELLINGS | {
    escape: character for character, escape in ESCAPE_BY_CHARACTER.items()
}
LONGEST_SPELLINGS_FIRST = sorted(CHARACTER_BY_SPELLING, key=len, reverse=True)
SPELLING_PATTERN = re.compile("|".join(map(re.escape, LONGEST_SPELLINGS_FIRST)))


def read_document(path: Path) -> ParsedDocument:
    """Read every tabular, tabularx and longtable, captions and paragraphs.

    What isn't printed isn't read: comments, `comment` environments and `\\iffalse`.
    """
    text = COMMENT_PATTERN.sub(r"\1", path.read_text(encoding="utf-8-sig"))
    text = UNPRINTED_PATTERN.sub(lambda match: "\n" * match[0].count("\n"), text)
    blocks: list[str | ParsedTable] = []
    end = 0
    for match in TABULAR_PATTERN.finditer(text):
        blocks.extend(_paragraphs(text[end : match.start()]))
        end = match.end()
        body = match["body"]
        for caption in CAPTION_PATTERN.finditer(body):
            blocks.append(_plain_text(caption[1]))
        line = text[: match.start()].count("\n") + 1
        blocks.append(_parse_table(body, f"the table at line {line}"))
    blocks.extend(_paragraphs(text[end:]))
    return ParsedDocument(blocks)


def _paragraphs(source: str) -> Iterator[str]:
    source = CAPTION_PATTERN.sub(lambda match: f"\n\n{match[1]}\n\n", source)
    for part in PARAGRAPH_END_PATTERN.split(source):
        if text := _plain_text(part):
            yield text


def _parse_table(body: str, location: str) -> ParsedTable:
    rows = list(_parse_rows(body))
    if not rows:
        return ParsedTable([], [], location)
    header, *others = rows
    # a longtable may have its header once more, for the next pages
    body_rows = [row for row in others if row != header]
    return ParsedTable([cell.text for cell in header], body_rows, location)


def _parse_rows(body: str) -> Iterator[list[Cell]]:
    """Yield the cells of each row of a tabular, the header first."""
    body = LABEL_PATTERN.sub("", CAPTION_PATTERN.sub("", body))
    body = SHORTSTACK_PATTERN.sub(lambda match: match[1].replace(r"\\", " "), body)
    body = RULE_PATTERN.sub("", body)
    spanned: dict[int, tuple[int, Cell]] = {}
    for line in map(str.strip, ROW_END_PATTERN.split(body)):
        if line:
            sources = CELL_BORDER_PATTERN.split(line)
            yield _parse_row(sources, spanned)


def _parse_row(sources: list[str], spanned: dict[int, tuple[int, Cell]]) -> list[Cell]:
    """Return the cells of a row. A cell of several columns or rows is repeated in each.

    Args:
        sources: the LaTeX of each cell.
        spanned: by column, how many more rows the cell of a `\\multirow` covers, and the cell.
    """
    cells: list[Cell] = []
    for source in sources:
        columns = 1
        if match := MULTICOLUMN_PATTERN.search(source):
            columns, source = int(match[1]), match[2]
        if match := MULTIROW_PATTERN.search(source):
            spanned[len(cells)] = (int(match[1]), _parse_cell(match[2]))
        cell = _parse_cell(source)
        rows_left, spanning_cell = spanned.get(len(cells), (0, cell))
        if rows_left and (match or not cell.text):
            cell = spanning_cell
            spanned[len(cells)] = (rows_left - 1, cell)
        cells += [cell] * columns
    return cells


def _parse_cell(source: str) -> Cell:
    is_bold = BOLD_PATTERN.search(source) is not None
    return Cell(_plain_text(source), is_bold=is_bold)


def _plain_text(source: str) -> str:
    """Return what is printed. An unknown command stays as it is."""
    text = BOLD_PATTERN.sub(lambda match: match[1] or "", source)
    text = EMPHASIS_PATTERN.sub(r"\1", text)
    text = SPELLING_PATTERN.sub(lambda match: CHARACTER_BY_SPELLING[match[0]], text)
    return " ".join(text.split())
