"""Write LaTeX with booktabs: a float, or a longtable if it may exceed a page."""

from collections.abc import Iterable
from pathlib import Path

from bioimg.report.table_model import Table

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
