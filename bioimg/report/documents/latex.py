"""Write and read LaTeX with booktabs: a float, or a longtable if it may exceed a page."""

import re
from collections.abc import Iterable
from pathlib import Path

from bioimg.report.table_model import ParsedTable, Table

ROWS_PER_PAGE = 40
"""Rows that fit on a page; a float would silently lose the others."""

# A star or bracket at the start of a row would be taken for an argument of the \\ before it.
ESCAPE_BY_CHARACTER = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",
    "`": "{`}",
    "*": r"{*}",
    "[": r"{[}",
    "]": r"{]}",
    "-": r"{-}",
    "−": r"$-$",
    "±": r"$\pm$",
    "–": r"{\textendash}",
    "“": r"{\textquotedblleft}",
    "”": r"{\textquotedblright}",
    "…": r"{\ldots}",
    "\ufffd": "{?}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
CHARACTER_BY_ESCAPE = {escape: character for character, escape in ESCAPE_BY_CHARACTER.items()}
LONGEST_ESCAPES_FIRST = sorted(CHARACTER_BY_ESCAPE, key=len, reverse=True)
ESCAPE_PATTERN = re.compile("|".join(map(re.escape, LONGEST_ESCAPES_FIRST)))
SHORTSTACK_PATTERN = re.compile(
    r"\\shortstack(?:\[\w\])?\{((?:\\.|[^{}\\]|\{(?:\\.|[^{}\\])*\})*)\}"
)
TABULAR_PATTERN = re.compile(
    r"\\begin\{(tabular|longtable|tabularx)\*?\}(.*?)\\end\{\1\*?\}", re.DOTALL
)
COMMENT_PATTERN = re.compile(r"(?<!\\)((?:\\\\)*)%.*")
CAPTION_PATTERN = re.compile(r"\\caption\{.*?\\\\\n", re.DOTALL)
FIRST_RULE_PATTERN = re.compile(r"\\(toprule|hline)")
RULE_PATTERN = re.compile(r"\\(toprule|midrule|bottomrule|hline|endhead|endfirsthead|endfoot)\b")
ROW_END_PATTERN = re.compile(r"\\\\(?:\[[^\]]*\])?")
CELL_BORDER_PATTERN = re.compile(r"(?<!\\)&")
EMPHASIS_PATTERN = re.compile(r"\\(?:textbf|textit|emph|mathbf)\{(.*?)\}")
MAX_LINE_CHARACTERS = 9
"""The most characters of a header on one line."""


def write_table(table: Table, path: Path) -> None:
    """Write a table to a LaTeX file for `\\input`."""
    path.write_text(render_latex(table), encoding="utf-8")


def render_latex(table: Table) -> str:
    """Return the table with its caption above and its notes below."""
    sides = ["l" if column.is_left_aligned else "r" for column in table.columns]
    headers = [_stack_header(name, side) for name, side in zip(table.headers, sides, strict=True)]
    rows = [_format_row(map(escape_latex, row)) for row in table.cells()]
    lines = [r"\toprule", _format_row(headers), r"\midrule", *rows, r"\bottomrule"]
    environment = _longtable_environment if _exceeds_page(table) else _float_environment
    content = environment(table, "".join(sides), "\n".join(lines))
    return "\n".join([*_requirement_comments(table), content, ""])


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints unchanged."""
    return "".join(ESCAPE_BY_CHARACTER.get(character, character) for character in text)


def _exceeds_page(table: Table) -> bool:
    return len(table.values) > ROWS_PER_PAGE


def _format_row(cells: Iterable[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _stack_header(name: str, side: str) -> str:
    """Put a long header on two lines, so that the table isn't shrunk until it is illegible."""
    words = name.split()
    if len(name) <= MAX_LINE_CHARACTERS or len(words) < 2:
        return escape_latex(name)
    breaks = [(" ".join(words[:n]), " ".join(words[n:])) for n in range(1, len(words))]
    upper, lower = min(breaks, key=lambda lines: max(map(len, lines)))
    return rf"\shortstack[{side}]{{{escape_latex(upper)}\\ {escape_latex(lower)}}}"


def _requirement_comments(table: Table) -> list[str]:
    """Return comments on what the document that includes the table must load."""
    comments = []
    if _needs_unicode_engine(table):
        comments = [
            "% !TeX program = xelatex",
            "% Letters beyond Latin: needs XeLaTeX or LuaLaTeX and a font with them (xeCJK).",
        ]
    package = "longtable" if _exceeds_page(table) else "graphicx"
    return [*comments, rf"% \usepackage{{booktabs,{package}}}"]


def _needs_unicode_engine(table: Table) -> bool:
    """Return True if pdfLaTeX can't print some character of the table."""
    texts = [*table.headers, table.caption, *table.notes]
    for row in table.cells():
        texts.extend(row)
    characters = set("".join(texts)) - set(ESCAPE_BY_CHARACTER)
    return any(ord(character) > 0xFF for character in characters)


def _float_environment(table: Table, columns: str, body: str) -> str:
    return rf"""\begin{{table}}
\centering
\caption{{{escape_latex(table.caption)}}}
\label{{tab:{table.name}}}
\resizebox{{\ifdim\width>\linewidth\linewidth\else\width\fi}}{{!}}{{%
\begin{{tabular}}{{{columns}}}
{body}
\end{{tabular}}}}
\par\smallskip
\begin{{minipage}}{{\linewidth}}\footnotesize
{_notes_text(table)}
\end{{minipage}}
\end{{table}}"""


def _longtable_environment(table: Table, columns: str, body: str) -> str:
    return rf"""\begin{{longtable}}{{{columns}}}
\caption{{{escape_latex(table.caption)}}}\label{{tab:{table.name}}} \\
{body}
\end{{longtable}}
{{\footnotesize
{_notes_text(table)}
\par}}"""


def _notes_text(table: Table) -> str:
    return "\\par\n".join(map(escape_latex, table.notes))


def read_tables(path: Path) -> list[ParsedTable]:
    """Read every tabular, tabularx and longtable of a LaTeX file."""
    text = COMMENT_PATTERN.sub(r"\1", path.read_text(encoding="utf-8-sig"))
    tables = []
    for match in TABULAR_PATTERN.finditer(text):
        line = text[: match.start()].count("\n") + 1
        rows = _parse_rows(match[2]) or [[]]
        tables.append(ParsedTable(rows[0], rows[1:], f"the table at line {line}", text))
    return tables


def _parse_rows(body: str) -> list[list[str]]:
    """Return the cells of each row of a tabular, the header first."""
    body = SHORTSTACK_PATTERN.sub(lambda match: match[1].replace(r"\\ ", " "), body)
    body = CAPTION_PATTERN.sub("", body)
    if start := FIRST_RULE_PATTERN.search(body):
        body = body[start.start() :]  # what precedes it are column types
    body = RULE_PATTERN.sub("", body)
    rows = []
    for line in map(str.strip, ROW_END_PATTERN.split(body)):
        if line:
            rows.append([_unescape_latex(cell) for cell in CELL_BORDER_PATTERN.split(line)])
    return rows


def _unescape_latex(text: str) -> str:
    text = EMPHASIS_PATTERN.sub(r"\1", text.strip())
    return ESCAPE_PATTERN.sub(lambda match: CHARACTER_BY_ESCAPE[match[0]], text)
