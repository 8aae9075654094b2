"""What a file holds for its readers: paragraphs and tables, in order, as text."""

from collections.abc import Sequence
from dataclasses import dataclass

from bioimg.verify.findings import Finding


@dataclass(frozen=True)
class Cell:
    """A cell as a reader sees it.

    text:    what is shown.
    is_bold: whether any of it is bold.
    stored:  the number that a spreadsheet holds behind the text, with all its digits.
    """

    text: str
    is_bold: bool = False
    stored: str | None = None


EMPTY_CELL = Cell("")


@dataclass(frozen=True, eq=False)
class ParsedTable:
    """A table of a file.

    headers:  the texts of the first row.
    rows:     the cells of the other rows. A row may have more or fewer cells than the header.
    location: where the table is, such as `table 2`.
    """

    headers: list[str]
    rows: list[list[Cell]]
    location: str

    def texts(self) -> list[list[str]]:
        """Return the texts of all rows."""
        return [[cell.text for cell in row] for row in self.rows]


@dataclass(frozen=True)
class ParsedDocument:
    """The paragraphs and tables of a file, and what its readers can't see.

    blocks:   paragraphs (as text) and tables, in the order of the file.
    findings: hidden text, formulas without a value, ...
    """

    blocks: Sequence[str | ParsedTable]
    findings: Sequence[Finding] = ()

    @property
    def tables(self) -> list[ParsedTable]:
        """The tables that have rows."""
        return [block for block in self.blocks if isinstance(block, ParsedTable) and block.rows]

    @property
    def paragraphs(self) -> list[str]:
        """The paragraphs around the tables."""
        return [block for block in self.blocks if isinstance(block, str)]

    def paragraphs_near(self, table: ParsedTable) -> list[str]:
        """Return the paragraphs that may be a table's caption, the likeliest first.

        These are the ones from the table before it to the table after it. Those above the table
        come first, from the nearest on.
        """
        position = next(n for n, block in enumerate(self.blocks) if block is table)
        above = _paragraphs_until_table(self.blocks[:position][::-1])
        below = _paragraphs_until_table(self.blocks[position + 1 :])
        return [*above, *below]


def _paragraphs_until_table(blocks: Sequence[str | ParsedTable]) -> list[str]:
    paragraphs = []
    for block in blocks:
        if isinstance(block, ParsedTable):
            break
        paragraphs.append(block)
    return paragraphs
