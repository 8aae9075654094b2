"""Compare a table of a file with the table of the report that it claims to be."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter

from bioimg.report.row_filter import more_is_better
from bioimg.verify.cell_comparison import (
    Disagreement,
    compare_cell,
    leading_number,
)
from bioimg.verify.findings import Finding, FindingCode, Level
from bioimg.verify.headers import has_header, match_columns
from bioimg.verify.parsed_document import ParsedTable
from bioimg.verify.reference import Reference, ReferenceRow
from bioimg.verify.row_alignment import Alignment, RowPair, align_rows

RECIPE_TABLES = ("comparison", "scores")
"""The tables with one row for each recipe. Bold marks what is best there."""
RANKED_KINDS = ("share", "loss", "seconds")
"""The kinds of columns that have a best value."""

MAX_NAMED_ROWS = 5
REASONS: dict[Disagreement, str] = {
    "words": " Words and units belong into the header or a note.",
    "digits": " Two significant digits must be left.",
}


@dataclass(frozen=True, eq=False)
class TableComparison:
    """A table of a file beside that of the report, and what is found in it."""

    table: ParsedTable
    reference: Reference

    @cached_property
    def findings(self) -> list[Finding]:
        """What the table says, hides or lacks against the results."""
        return [
            *self._missing_columns(),
            *self._unknown_columns(),
            *self._row_problems(),
            *self._missing_rows(),
            *self._wrong_cells(),
            *self._missing_intervals(),
            *self._wrong_emphasis(),
        ]

    @property
    def error_count(self) -> int:
        """The number of findings that are errors."""
        return sum(finding.level == "error" for finding in self.findings)

    @property
    def compared_cells(self) -> int:
        """How many cells were compared."""
        return len(self._alignment.pairs) * len(self._positions)

    @cached_property
    def _positions(self) -> dict[int, int]:
        """Where each column of the report is in the file."""
        return match_columns(self.reference.columns, self.table.headers)

    @cached_property
    def _alignment(self) -> Alignment:
        return align_rows(self.table, self.reference, self._positions)

    # Columns

    def _missing_columns(self) -> Iterator[Finding]:
        """Yield the columns that tell rows apart and that the file lacks."""
        for number, column in enumerate(self.reference.columns):
            if not column.identity or number in self._positions:
                continue
            shown = {row.shown[number] for row in self.reference.rows if not row.is_baseline}
            if len(shown) > 1:
                yield self._finding(
                    "missing-column",
                    f"the column {self._header(number)} is missing, which tells rows apart.",
                )

    def _unknown_columns(self) -> Iterator[Finding]:
        """Yield the columns that nothing was compared with. A note is enough for mere words."""
        matched = set(self._positions.values())
        known = [self.reference.columns[number] for number in self._positions]
        for position, header in enumerate(self.table.headers):
            texts = [row[position].text for row in self.table.rows if position < len(row)]
            if position in matched or not (header or any(texts)):
                continue
            if any(has_header(column, header) for column in known):
                yield self._finding("repeated-column", f"the column {header} is there twice.")
            elif any(character.isdigit() for text in texts for character in text):
                yield self._finding(
                    "unknown-column",
                    f"the column {header or '(without a header)'} has numbers, but no header of "
                    "the report. Use such a header.",
                )
            else:
                message = f"the column {header} wasn't compared: its header isn't of the report."
                yield self._finding("unknown-column", message, level="note")

    # Rows

    def _row_problems(self) -> Iterator[Finding]:
        """Yield rows that the results don't have, that are there twice, or that are too long."""
        for number in self._alignment.unknown:
            name = self._row_name(number)
            yield self._finding("unknown-row", f"{name}: the results have no such row.")
        for number in self._alignment.repeated:
            name = self._row_name(number)
            yield self._finding("repeated-row", f"{name}: another row has the same settings.")
        for number, cells in enumerate(self.table.rows, start=1):
            extra = [cell.text for cell in cells[len(self.table.headers) :] if cell.text]
            if extra:
                name = self._row_name(number)
                message = f"{name}: cells without a header: {', '.join(extra)}."
                yield self._finding("long-row", message)

    def _missing_rows(self) -> Iterator[Finding]:
        missing = self._alignment.missing
        if not missing:
            return
        names = [self._reference_name(row) for row in missing[:MAX_NAMED_ROWS]]
        if len(missing) > MAX_NAMED_ROWS:
            names.append("...")
        advice = ""
        if self.reference.name == "comparison":
            advice = " Show them, or choose rows with `bioimg report --rows`: the caption says so."
        yield self._finding(
            "missing-row",
            f"of {len(self.reference.rows)} rows of the results, {len(missing)} are missing: "
            f"{'; '.join(names)}.{advice}",
        )

    # Cells

    @cached_property
    def _disagreements(self) -> list[tuple[RowPair, int, Disagreement]]:
        """The cells that disagree with the results: row, number of the column, and how."""
        cells = []
        for pair in self._alignment.pairs:
            for number in self._positions:
                disagreement = self._compare_cell(pair, number)
                if disagreement is not None:
                    cells.append((pair, number, disagreement))
        return cells

    def _compare_cell(self, pair: RowPair, number: int) -> Disagreement | None:
        """Return how a cell disagrees, as it is shown or as a spreadsheet stores it."""
        column = self.reference.columns[number]
        if column.identity:
            return "value" if number in pair.wrong_settings else None
        cell = pair.cell(self._positions[number])
        record, shown = pair.reference.record, pair.reference.shown[number]
        disagreement = compare_cell(cell.text, column, record, shown)
        if disagreement is None and cell.stored:
            disagreement = compare_cell(cell.stored, column, record, shown)
            # a stored number has no zeros at its end
            return None if disagreement == "digits" else disagreement
        return disagreement

    def _wrong_cells(self) -> Iterator[Finding]:
        for pair, number, disagreement in self._disagreements:
            if disagreement == "interval":
                continue
            cell = pair.cell(self._positions[number])
            found = cell.text or "nothing"
            if cell.stored and float(cell.stored) != leading_number(cell.text):
                found = f"{cell.text} (stored as {cell.stored})"
            expected = pair.reference.shown[number][0]
            yield self._finding(
                "setting" if self.reference.columns[number].identity else disagreement,
                f"{self._row_name(pair.number)}, {self._header(number)}: the file says {found}, "
                f"the results say {expected}.{REASONS.get(disagreement, '')}",
            )

    def _missing_intervals(self) -> Iterator[Finding]:
        """Yield the columns with cells that lack their interval or deviation."""
        counts = Counter(
            number for _, number, disagreement in self._disagreements if disagreement == "interval"
        )
        for number, count in counts.items():
            yield self._finding(
                "interval",
                f"{self._header(number)}: the interval or deviation is missing in {count} cells.",
            )

    def _wrong_emphasis(self) -> Iterator[Finding]:
        """Yield bold numbers that are neither the best of their column nor in the best row.

        A column that is bold as a whole means nothing.
        """
        if self.reference.name not in RECIPE_TABLES:
            return
        pairs = self._alignment.pairs
        for number, position in self._positions.items():
            column = self.reference.columns[number]
            bold = [pair for pair in pairs if pair.cell(position).is_bold]
            if column.kind not in RANKED_KINDS or len(bold) == len(pairs):
                continue
            choose = max if more_is_better(column.name) else min
            values = [_value(pair, number) for pair in pairs]
            best = choose((value for value in values if value is not None), default=None)
            for pair in bold:
                if _value(pair, number) != best and not pair.reference.is_best:
                    yield self._finding(
                        "bold",
                        f"{self._row_name(pair.number)}, {self._header(number)}: "
                        f"{pair.cell(position).text} is bold, but isn't the best.",
                    )

    # Names

    def _finding(self, code: FindingCode, text: str, level: Level = "error") -> Finding:
        return Finding(code, f"{self.table.location}, {text}", level)

    def _header(self, number: int) -> str:
        return self.reference.tables[0].headers[number]

    def _row_name(self, number: int) -> str:
        """Return the number of a row and its settings as the file has them."""
        cells = self.table.rows[number - 1]
        settings = []
        for number_of_column, position in sorted(self._positions.items(), key=itemgetter(1)):
            is_identity = self.reference.columns[number_of_column].identity
            if is_identity and position < len(cells):
                settings.append(cells[position].text)
        return f"row {number} ({', '.join(settings)})"

    def _reference_name(self, row: ReferenceRow) -> str:
        identities = [column.identity for column in self.reference.columns]
        texts = zip(row.shown, identities, strict=True)
        return ", ".join(shown[0] for shown, is_identity in texts if is_identity)


def _value(pair: RowPair, number: int) -> float | None:
    """Return the number that the report shows for a row."""
    return leading_number(pair.reference.shown[number][0])
