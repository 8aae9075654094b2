"""LaTeX with booktabs: a float to `\\input`, or a longtable if it may not fit on a page."""

import re
from pathlib import Path

from bioimg.report.table import Read, Table

PAGE = 40
"""Rows that fit on a page; a float would silently lose the others."""

# A star or bracket at the start of a row would be taken for an argument of the \\ before it.
SIGNS = {
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
PLAIN = {latex: sign for sign, latex in SIGNS.items()}
ESCAPES = re.compile("|".join(re.escape(latex) for latex in sorted(PLAIN, key=len, reverse=True)))
STACK = re.compile(r"\\shortstack(?:\[\w\])?\{((?:\\.|[^{}\\]|\{(?:\\.|[^{}\\])*\})*)\}")


def escape(text: str) -> str:
    """Text that LaTeX prints unchanged."""
    return "".join(SIGNS.get(character, character) for character in text)


def write(table: Table, path: Path) -> None:
    path.write_text(render(table), encoding="utf-8")


def render(table: Table) -> str:
    """The table with its caption above and its notes below."""
    columns = "".join("l" if column.identity or column.kind == "text" else "r" for column in table.columns)
    head = " & ".join(_stacked(name, side) for name, side in zip(table.headers, columns, strict=True)) + r" \\"
    rows = [" & ".join(map(escape, row)) + r" \\" for row in table.cells()]
    body = "\n".join([r"\toprule", head, r"\midrule", *rows, r"\bottomrule"])
    shape = _long if len(rows) > PAGE else _float
    return "\n".join([*_needs(table), shape(table, columns, body), ""])


def _stacked(name: str, side: str) -> str:
    """A long header on two lines, so that the table isn't shrunk until it is illegible."""
    words = name.split()
    cuts = range(1, len(words))
    if len(name) <= 9 or not cuts:
        return escape(name)
    cut = min(cuts, key=lambda at: max(len(" ".join(words[:at])), len(" ".join(words[at:]))))
    return rf"\shortstack[{side}]{{{escape(' '.join(words[:cut]))}\\ {escape(' '.join(words[cut:]))}}}"


def _needs(table: Table) -> list[str]:
    """Comments on what the document that includes it must load."""
    beyond = any(
        ord(c) > 0xFF and c not in SIGNS
        for row in (table.headers, *table.cells(), [table.caption, *table.notes])
        for c in "".join(row)
    )
    engine = ["% !TeX program = xelatex", "% Letters beyond Latin: needs XeLaTeX or LuaLaTeX and a font with them (xeCJK)."]
    package = "longtable" if len(table.values) > PAGE else "graphicx"
    return [*(engine if beyond else []), rf"% \usepackage{{booktabs,{package}}}"]


def _float(table: Table, columns: str, body: str) -> str:
    return rf"""\begin{{table}}
\centering
\caption{{{escape(table.caption)}}}
\label{{tab:{table.name}}}
\resizebox{{\ifdim\width>\linewidth\linewidth\else\width\fi}}{{!}}{{%
\begin{{tabular}}{{{columns}}}
{body}
\end{{tabular}}}}
\par\smallskip
\begin{{minipage}}{{\linewidth}}\footnotesize
{_notes(table)}
\end{{minipage}}
\end{{table}}"""


def _long(table: Table, columns: str, body: str) -> str:
    return rf"""\begin{{longtable}}{{{columns}}}
\caption{{{escape(table.caption)}}}\label{{tab:{table.name}}} \\
{body}
\end{{longtable}}
{{\footnotesize
{_notes(table)}
\par}}"""


def _notes(table: Table) -> str:
    return "\\par\n".join(escape(note) for note in table.notes)


def read(path: Path) -> list[Read]:
    """Every tabular or longtable of a LaTeX file."""
    text = re.sub(r"(?<!\\)((?:\\\\)*)%.*", r"\1", path.read_text(encoding="utf-8-sig"))
    bodies = re.finditer(r"\\begin\{(tabular|longtable|tabularx)\*?\}(.*?)\\end\{\1\*?\}", text, re.DOTALL)
    return [_read(match[2], f"the table at line {text[: match.start()].count(chr(10)) + 1}", text) for match in bodies]


def _read(body: str, place: str, around: str) -> Read:
    body = STACK.sub(lambda match: match[1].replace(r"\\ ", " "), body)
    body = re.sub(r"\\caption\{.*?\\\\\n", "", body, flags=re.DOTALL)
    start = re.search(r"\\(toprule|hline)", body)
    body = re.sub(
        r"\\(toprule|midrule|bottomrule|hline|endhead|endfirsthead|endfoot)\b", "", body[start.start() :] if start else body
    )
    lines = [line.strip() for line in re.split(r"\\\\(?:\[[^\]]*\])?", body)]
    rows = [[_unescape(cell.strip()) for cell in re.split(r"(?<!\\)&", line)] for line in lines if line]
    return Read(*(rows[0], rows[1:]) if rows else ([], []), place, around)


def _unescape(text: str) -> str:
    text = re.sub(r"\\(?:textbf|textit|emph|mathbf)\{(.*?)\}", r"\1", text)
    return ESCAPES.sub(lambda match: PLAIN[match[0]], text)
