"""Find, for each row of a file, the row of the report that has its settings."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from bioimg.verify.cell_comparison import compare_cell, is_blank, resolve_setting
from bioimg.verify.parsed_document import EMPTY_CELL, Cell, ParsedTable
from bioimg.verify.reference import Reference, ReferenceRow

MAX_GUESSED_ROWS = 50
"""With more rows whose settings nothing has, none of them is looked for by its numbers."""

_Identity = tuple[str | None, ...]
"""The settings of a row as the report writes them; None for a cell that names none of them."""


@dataclass(frozen=True, eq=False)
class RowPair:
    """A row of a file with that of the report.

    number:         the number of the file's row, from 1 on.
    wrong_settings: the numbers of the columns whose setting is another one in the report.
    """

    number: int
    cells: Sequence[Cell]
    reference: ReferenceRow
    wrong_settings: frozenset[int]

    def cell(self, position: int) -> Cell:
        """Return the cell at a position; a row may be shorter than the header."""
        return self.cells[position] if position < len(self.cells) else EMPTY_CELL


@dataclass(frozen=True, eq=False)
class Alignment:
    """Which rows of a file and of the report belong together.

    pairs:    rows that belong together.
    unknown:  numbers of rows of the file that the report doesn't have.
    repeated: numbers of rows of the file whose row of the report is taken by another one.
    missing:  rows of the report that the file doesn't have.
    """

    pairs: list[RowPair]
    unknown: list[int]
    repeated: list[int]
    missing: list[ReferenceRow]


def align_rows(table: ParsedTable, reference: Reference, positions: Mapping[int, int]) -> Alignment:
    """Align the rows of a file with those of the report by settings, classes and so on.

    Where several rows have the same ones, as when a column was removed, the row with the fewest
    differences is taken. Only a row whose settings none has is found by its numbers, of which at
    least half must agree.

    Args:
        table: the table of a file.
        reference: the table of the report.
        positions: where each column of the report is in the file.
    """
    return _Aligner(reference, positions).align(table)


class _Aligner:
    """Rows of a report that are given away to rows of a file, one to each."""

    def __init__(self, reference: Reference, positions: Mapping[int, int]) -> None:
        self._reference = reference
        self._positions = positions
        is_identity = [column.identity for column in reference.columns]
        self._identities = [number for number in positions if is_identity[number]]
        self._measures = [number for number in positions if not is_identity[number]]
        self._free = dict.fromkeys(reference.rows)

    def align(self, table: ParsedTable) -> Alignment:
        pairs: list[RowPair] = []
        left: list[tuple[int, list[Cell]]] = []
        repeated: list[int] = []
        for number, cells in enumerate(table.rows, start=1):
            rows = self._rows_by_identity.get(self._identity(cells))
            if rows is None:
                left.append((number, cells))
            elif free := [row for row in rows if row in self._free]:
                pairs.append(self._pair(number, cells, free))
            else:
                repeated.append(number)
        unknown: list[int] = []
        is_guess_possible = len(left) <= MAX_GUESSED_ROWS
        for number, cells in left:
            candidates = self._free if is_guess_possible else ()
            similar = [row for row in candidates if self._is_similar(cells, row)]
            if similar:
                pairs.append(self._pair(number, cells, similar))
            else:
                unknown.append(number)
        pairs.sort(key=lambda pair: pair.number)
        # not every form of the comparison shows the baseline
        missing = [row for row in self._free if not row.is_baseline]
        return Alignment(pairs, unknown, repeated, missing)

    @cached_property
    def _rows_by_identity(self) -> dict[_Identity, list[ReferenceRow]]:
        rows = defaultdict(list)
        for row in self._reference.rows:
            rows[self._reference_identity(row)].append(row)
        return rows

    def _reference_identity(self, row: ReferenceRow) -> tuple[str, ...]:
        return tuple(row.shown[number][0] for number in self._identities)

    @cached_property
    def _known_settings(self) -> dict[int, dict[str, str]]:
        """For each column, the settings in any language, and how the first language calls them."""
        known: dict[int, dict[str, str]] = {}
        for number in self._identities:
            names = known.setdefault(number, {})
            for row in self._reference.rows:
                for text in row.shown[number]:
                    names.setdefault(text, row.shown[number][0])
        return known

    def _identity(self, cells: Sequence[Cell]) -> _Identity:
        settings = []
        for number in self._identities:
            known = self._known_settings[number]
            setting = resolve_setting(self._text(cells, number), known)
            settings.append(None if setting is None else known[setting])
        return tuple(settings)

    def _pair(
        self, number: int, cells: Sequence[Cell], candidates: Sequence[ReferenceRow]
    ) -> RowPair:
        """Pair a row of the file with the candidate that has the fewest differences."""
        row = candidates[0]
        if len(candidates) > 1:
            row = min(candidates, key=lambda candidate: self._count_differences(cells, candidate))
        del self._free[row]
        return RowPair(number, cells, row, frozenset(self._wrong_settings(cells, row)))

    def _wrong_settings(self, cells: Sequence[Cell], row: ReferenceRow) -> list[int]:
        """Return the columns whose setting in the file isn't that of a row of the report."""
        settings = zip(self._identity(cells), self._reference_identity(row), strict=True)
        numbers = zip(self._identities, settings, strict=True)
        return [number for number, (found, expected) in numbers if found != expected]

    def _count_differences(self, cells: Sequence[Cell], row: ReferenceRow) -> int:
        other_measures = len(self._measures) - self._count_agreeing(cells, row)
        return len(self._wrong_settings(cells, row)) + other_measures

    def _is_similar(self, cells: Sequence[Cell], row: ReferenceRow) -> bool:
        """Return True if at least half of the numbers and words agree."""
        filled = sum(not is_blank(self._text(cells, number)) for number in self._measures)
        return 0 < filled <= 2 * self._count_agreeing(cells, row)

    def _count_agreeing(self, cells: Sequence[Cell], row: ReferenceRow) -> int:
        """Return how many cells with content agree with a row of the report."""
        agreeing = 0
        for number in self._measures:
            text = self._text(cells, number)
            column = self._reference.columns[number]
            disagreement = compare_cell(text, column, row.record, row.shown[number])
            agreeing += not is_blank(text) and disagreement in (None, "interval")
        return agreeing

    def _text(self, cells: Sequence[Cell], number: int) -> str:
        position = self._positions[number]
        return cells[position].text if position < len(cells) else ""
