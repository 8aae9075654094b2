"""LaTeX with booktabs: a float to `\\input`, or a longtable if it may not fit on a page."""

import re
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
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
CHARACTER_BY_ESCAPE = {latex: sign for sign, latex in ESCAPE_BY_CHARACTER.items()}
ESCAPE_PATTERN = re.compile(
    "|".join(re.escape(latex) for latex in sorted(CHARACTER_BY_ESCAPE, key=len, reverse=True))
)
SHORTSTACK_PATTERN = re.compile(
    r"\\shortstack(?:\[\w\])?\{((?:\\.|[^{}\\]|\{(?:\\.|[^{}\\])*\})*)\}"
)


def escape_latex(text: str) -> str:
    """Text that LaTeX prints unchanged."""
    return "".join(ESCAPE_BY_CHARACTER.get(character, character) for character in text)


def write_table(table: Table, path: Path) -> None:
    path.write_text(render_latex(table), encoding="utf-8")


def render_latex(table: Table) -> str:
    """The table with its caption above and its notes below."""
    columns = "".join(
        "l" if column.identity or column.kind == "text" else "r" for column in table.columns
    )
    head = (
        " & ".join(
            _stack_header(name, side) for name, side in zip(table.headers, columns, strict=True)
        )
        + r" \\"
    )
    rows = [" & ".join(map(escape_latex, row)) + r" \\" for row in table.cells()]
    body = "\n".join([r"\toprule", head, r"\midrule", *rows, r"\bottomrule"])
    shape = _longtable_environment if len(rows) > ROWS_PER_PAGE else _float_environment
    return "\n".join([*_requirement_comments(table), shape(table, columns, body), ""])


def _stack_header(name: str, side: str) -> str:
    """A long header on two lines, so that the table isn't shrunk until it is illegible."""
    words = name.split()
    cuts = range(1, len(words))
    if len(name) <= 9 or not cuts:
        return escape_latex(name)
    cut = min(cuts, key=lambda at: max(len(" ".join(words[:at])), len(" ".join(words[at:]))))
    return rf"\shortstack[{side}]{{{escape_latex(' '.join(words[:cut]))}\\ {escape_latex(' '.join(words[cut:]))}}}"


def _requirement_comments(table: Table) -> list[str]:
    """Comments on what the document that includes it must load."""
    beyond = any(
        ord(c) > 0xFF and c not in ESCAPE_BY_CHARACTER
        for row in (table.headers, *table.cells(), [table.caption, *table.notes])
        for c in "".join(row)
    )
    engine = [
        "% !TeX program = xelatex",
        "% Letters beyond Latin: needs XeLaTeX or LuaLaTeX and a font with them (xeCJK).",
    ]
    package = "longtable" if len(table.values) > ROWS_PER_PAGE else "graphicx"
    return [*(engine if beyond else []), rf"% \usepackage{{booktabs,{package}}}"]


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
    return "\\par\n".join(escape_latex(note) for note in table.notes)


def read_tables(path: Path) -> list[ParsedTable]:
    """Every tabular or longtable of a LaTeX file."""
    text = re.sub(r"(?<!\\)((?:\\\\)*)%.*", r"\1", path.read_text(encoding="utf-8-sig"))
    bodies = re.finditer(
        r"\\begin\{(tabular|longtable|tabularx)\*?\}(.*?)\\end\{\1\*?\}", text, re.DOTALL
    )
    return [
        _parse_tabular(
            match[2], f"the table at line {text[: match.start()].count(chr(10)) + 1}", text
        )
        for match in bodies
    ]


def _parse_tabular(body: str, place: str, around: str) -> ParsedTable:
    body = SHORTSTACK_PATTERN.sub(lambda match: match[1].replace(r"\\ ", " "), body)
    body = re.sub(r"\\caption\{.*?\\\\\n", "", body, flags=re.DOTALL)
    start = re.search(r"\\(toprule|hline)", body)
    body = re.sub(
        r"\\(toprule|midrule|bottomrule|hline|endhead|endfirsthead|endfoot)\b",
        "",
        body[start.start() :] if start else body,
    )
    lines = [line.strip() for line in re.split(r"\\\\(?:\[[^\]]*\])?", body)]
    rows = [
        [_unescape_latex(cell.strip()) for cell in re.split(r"(?<!\\)&", line)]
        for line in lines
        if line
    ]
    return ParsedTable(*(rows[0], rows[1:]) if rows else ([], []), place, around)


def _unescape_latex(text: str) -> str:
    text = re.sub(r"\\(?:textbf|textit|emph|mathbf)\{(.*?)\}", r"\1", text)
    return ESCAPE_PATTERN.sub(lambda match: CHARACTER_BY_ESCAPE[match[0]], text)
