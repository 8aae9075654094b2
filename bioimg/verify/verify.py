"""Check whether a table, edited by hand or not, agrees with the results, and list every cell that doesn't."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from bioimg.errors import UserError
from bioimg.report import detail_tables, documents
from bioimg.report.comparison_table import SCORE_COLUMNS, build_comparison, trial_column
from bioimg.report.table_model import Column, ParsedTable, Table, format_cell
from bioimg.report.table_notes import results_digest
from bioimg.report.translation import LANGUAGES, column_header, translated_columns
from bioimg.results.result_store import Results
from bioimg.verify.cell_matching import cell_matches, is_blank, normalise_text, resolve_setting

TABLE_BUILDERS: dict[str, tuple[Callable[[Results, str], Table], ...]] = {
    "class": (detail_tables.per_class_table,),
    "label": (detail_tables.confusion_table,),
    "axis": (detail_tables.effects_table,),
    "claim": (
        detail_tables.differences_table,
        partial(detail_tables.differences_table, every=False),
    ),
    "reading": (detail_tables.curve_diagnosis_table,),
    "val_loss": (detail_tables.epoch_table,),
    "device_seconds": (detail_tables.cost_table,),
}
"""The functions that make a table, by a header that only this kind of table has."""


@dataclass(frozen=True)
class Mismatch:
    """A cell that disagrees with the results."""

    location: str
    row: str
    column: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.location}, row {self.row}, {self.column}: the file says {self.found}, the results say {self.expected}."


@dataclass(frozen=True)
class VerificationResult:
    """findings: cells that disagree. cells: how many were compared. unchecked: headers that aren't known.

    other: the fingerprint of the results that the file says it was made from, if it differs.
    """

    mismatches: tuple[Mismatch, ...] = ()
    compared_cells: int = 0
    unknown_headers: tuple[str, ...] = ()
    foreign_digest: str | None = None


def verify_file(path: Path, results: Results) -> VerificationResult:
    """Check every table of a file (.md, .tex, .csv, .docx, .xlsx) against the results.

    A row is found by its settings (or class, ...). If no trial has these, the nearest one is taken and the differences are
    listed, settings included. Blank cells aren't compared.

    Raises:
        UserError: there is no such file, it can't be read, or no table in it has a known column.
    """
    tables = [table for table in documents.read_tables(path) if table.rows]
    verdicts = [_check_table(table, results) for table in tables]
    if not any(verdict.compared_cells for verdict in verdicts):
        names = ", ".join(
            column_header(name, "en") for name in ("weights", "batch_size", "test_accuracy")
        )
        raise UserError(
            f"the file {path} contains no table with bioimg's headers, such as {names}. Use these headers."
        )
    return VerificationResult(
        tuple(finding for verdict in verdicts for finding in verdict.mismatches),
        sum(verdict.compared_cells for verdict in verdicts),
        tuple(dict.fromkeys(name for verdict in verdicts for name in verdict.unknown_headers)),
        _foreign_digest(tables, results_digest(results)),
    )


def _foreign_digest(tables: Sequence[ParsedTable], own: str) -> str | None:
    stated = [
        mark
        for table in tables
        for mark in re.findall(r"(?:results|結果) ([0-9a-f]{10})\b", table.surrounding_text)
    ]
    return next((mark for mark in stated if mark != own), None)


def _check_table(table: ParsedTable, results: Results) -> VerificationResult:
    """Check against the reference table that has most of its headers; of equals, the one it agrees with best."""
    verdicts = []
    for reference in _reference_tables(table, results):
        verdicts.append(_compare_with_reference(table, reference))
        if not verdicts[-1].unknown_headers and not verdicts[-1].mismatches:
            break
    return min(
        verdicts, key=lambda verdict: (len(verdict.unknown_headers), len(verdict.mismatches))
    )


def _reference_tables(table: ParsedTable, results: Results) -> Iterator[Table]:
    """The tables of these results that the file might be, in the language of its headers."""
    shown = set(map(_normalise_header, table.headers))
    lang = max(
        LANGUAGES,
        key=lambda lang: sum(
            _normalise_header(column_header(name, lang)) in shown for name in translated_columns()
        ),
    )
    makers = next(
        (
            makers
            for name, makers in TABLE_BUILDERS.items()
            if _find_column(Column(name=name), table.headers) is not None
        ),
        None,
    )
    yield from (
        (make(results, lang) for make in makers)
        if makers
        else _comparison_tables(table, results, lang)
    )


def _comparison_tables(table: ParsedTable, results: Results, lang: str) -> Iterator[Table]:
    """Comparisons of all trials, of those in the file (which may change which is best), and grouped as in the file."""
    settings = detail_tables.varying_settings(results)
    scores = [
        name for name in SCORE_COLUMNS if _find_column(Column(name=name), table.headers) is not None
    ]
    every = _with_all_columns(
        build_comparison(results, columns=[*settings, *scores, "standing"], single=True, lang=lang),
        settings,
    )
    yield every
    keys = _ReferenceRows(every, _matched_columns(table, every)).trial_keys(table)
    part = dataclasses.replace(results, trials=results.trials[results.trials["key"].isin(keys)])
    yield _with_all_columns(
        build_comparison(part, columns=[*settings, *scores, "standing"], single=True, lang=lang),
        settings,
    )
    together = [
        name for name in settings if _find_column(Column(name=name), table.headers) is not None
    ]
    if _find_column(Column(name="runs"), table.headers) is not None:
        yield _with_all_columns(build_comparison(results, group_by=together, lang=lang), together)
        yield _with_all_columns(build_comparison(results, lang=lang), together)


def _with_all_columns(table: Table, identities: Sequence[str]) -> Table:
    names = [name for name in translated_columns() if name in table.values]
    return dataclasses.replace(
        table, columns=tuple(trial_column(name, table.values, name in identities) for name in names)
    )


def _compare_with_reference(table: ParsedTable, reference: Table) -> VerificationResult:
    places = _matched_columns(table, reference)
    known = [place for _, place in places]
    unchecked = tuple(
        name for place, name in enumerate(table.headers) if name and place not in known
    )
    if not places or reference.values.empty:
        return VerificationResult(unknown_headers=tuple(table.headers))
    rows, findings = _ReferenceRows(reference, places), []
    for number, row in enumerate(table.rows, start=1):
        name = ", ".join(_cell_text(row, place) for _, place in rows.identity_columns) or "?"
        findings += [
            Mismatch(table.location, f"{number} ({name})", *said)
            for said in rows.differing_cells(row)
        ]
    return VerificationResult(tuple(findings), len(table.rows) * len(places), unchecked)


class _ReferenceRows:
    """The rows of a reference table, found by their settings."""

    def __init__(self, reference: Table, places: Sequence[tuple[Column, int]]) -> None:
        self.headers = dict(
            zip((column.name for column in reference.columns), reference.headers, strict=True)
        )
        self.identity_columns = [(column, place) for column, place in places if column.identity]
        self.values = [(column, place) for column, place in places if not column.identity]
        value_columns = reference.values
        self.known_settings = {
            column.name: list(map(_normalise_setting, value_columns[column.name].unique()))
            for column, _ in self.identity_columns
        }
        self.records = reference.records()
        self.records_by_identity: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for record in self.records:
            name = tuple(
                _normalise_setting(record[column.name]) for column, _ in self.identity_columns
            )
            self.records_by_identity.setdefault(name, []).append(record)

    def trial_keys(self, table: ParsedTable) -> set[str]:
        """The trials that a file's rows refer to."""
        return (
            {self._find_record(row)["key"] for row in table.rows}
            if self.identity_columns and self.records
            else set()
        )

    def differing_cells(self, row: Sequence[str]) -> list[tuple[str, str, str]]:
        """Column, what the file says and what the results say, for each cell that disagrees."""
        return self._compare_row(row, self._find_record(row))

    def _find_record(self, row: Sequence[str]) -> dict[str, Any]:
        """The row with these settings, or else the one with the fewest differences."""
        candidates = self.records_by_identity.get(self._row_identity(row)) or self.records
        return min(candidates, key=lambda record: len(self._compare_row(row, record)))

    def _row_identity(self, row: Sequence[str]) -> tuple[str, ...]:
        return tuple(
            resolve_setting(_cell_text(row, place), self.known_settings[column.name])
            for column, place in self.identity_columns
        )

    def _compare_row(
        self, row: Sequence[str], record: dict[str, Any]
    ) -> list[tuple[str, str, str]]:
        named = zip(self.identity_columns, self._row_identity(row), strict=True)
        wrong = [
            (column, place)
            for (column, place), name in named
            if name != _normalise_setting(record[column.name])
        ]
        cells = [
            (column, place) for column, place in self.values if not is_blank(_cell_text(row, place))
        ]
        wrong += [
            (column, place)
            for column, place in cells
            if not cell_matches(_cell_text(row, place), column, record)
        ]
        return [
            (self.headers[column.name], _cell_text(row, place), format_cell(column, record))
            for column, place in wrong
        ]


def _normalise_setting(value: object) -> str:
    return "" if pd.isna(value) else normalise_text(value)  # type: ignore[call-overload]


def _matched_columns(table: ParsedTable, reference: Table) -> list[tuple[Column, int]]:
    found = [(column, _find_column(column, table.headers)) for column in reference.columns]
    return [(column, place) for column, place in found if place is not None]


def _find_column(column: Column, headers: Sequence[str]) -> int | None:
    """The position of a column's header, in any language or by its name, ignoring units in parentheses."""
    names = {
        _normalise_header(name)
        for name in (
            column.name,
            column.name.replace("_", " "),
            *(column_header(column.name, lang) for lang in LANGUAGES),
        )
    }
    names = {_normalise_header(column.title)} if column.title else names
    return next(
        (place for place, name in enumerate(headers) if _normalise_header(name) in names), None
    )


def _normalise_header(name: str) -> str:
    """A header without its unit, for comparisons."""
    return re.sub(r"\s*[(（][^)）]*[)）]\s*$", "", name).strip().casefold()


def _cell_text(row: Sequence[str], place: int) -> str:
    return row[place] if place < len(row) else ""
