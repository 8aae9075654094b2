"""Check a table, edited by hand or not, against the results, and list every cell that disagrees."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from bioimg.errors import UserError
from bioimg.report import detail_tables, documents
from bioimg.report.analysis import SCORE_COLUMNS, Analysis
from bioimg.report.comparison_table import build_comparison, trial_column
from bioimg.report.table_model import Column, ParsedTable, Table, format_cell, is_missing
from bioimg.report.translation import LANGUAGES, column_header, translated_columns
from bioimg.results.result_store import Results
from bioimg.verify.cell_matching import cell_matches, is_blank, normalise_text, resolve_setting

TABLE_BUILDERS: dict[str, tuple[Callable[[Analysis, str], Table], ...]] = {
    "class": (detail_tables.per_class_table,),
    "label": (detail_tables.confusion_table,),
    "axis": (detail_tables.effects_table,),
    "claim": (detail_tables.differences_table, detail_tables.best_differences_table),
    "reading": (detail_tables.curve_diagnosis_table,),
    "val_loss": (detail_tables.epoch_table,),
    "device_seconds": (detail_tables.cost_table,),
}
"""The functions that build a table, by a column that only this kind of table has."""

EXAMPLE_COLUMNS = ("weights", "batch_size", "test_accuracy")
DIGEST_PATTERN = re.compile(r"(?:results|結果) ([0-9a-f]{10})\b")
UNIT_PATTERN = re.compile(r"\s*[(（][^)）]*[)）]\s*$")


@dataclass(frozen=True)
class Mismatch:
    """A cell that disagrees with the results."""

    location: str
    row: str
    column: str
    found: str
    expected: str

    def __str__(self) -> str:
        return (
            f"{self.location}, row {self.row}, {self.column}: the file says {self.found}, "
            f"the results say {self.expected}."
        )


@dataclass(frozen=True)
class VerificationResult:
    """What was compared, and what disagrees.

    mismatches:      cells that disagree.
    compared_cells:  how many cells were compared.
    unknown_headers: headers of columns that weren't compared.
    foreign_digest:  digest of the results that the file names as its source, if they are others.
    """

    mismatches: tuple[Mismatch, ...] = ()
    compared_cells: int = 0
    unknown_headers: tuple[str, ...] = ()
    foreign_digest: str | None = None


class _MatchedColumn(NamedTuple):
    """A column of a reference table, with its position in the file."""

    column: Column
    position: int


def verify_file(path: Path, results: Results) -> VerificationResult:
    """Check every table of a file (.md, .tex, .csv, .docx, .xlsx) against the results.

    A row is found by its settings (or class, ...). If no trial has these, the nearest one is taken
    and the differences are listed, settings included. Blank cells aren't compared.

    Raises:
        UserError: there is no such file, it can't be read, or no table in it has a known column.
    """
    tables = [table for table in documents.read_tables(path) if table.rows]
    analysis = Analysis(results)
    compared_cells = 0
    mismatches: list[Mismatch] = []
    unknown_headers: list[str] = []
    for table in tables:
        verification = _verify_table(table, analysis)
        compared_cells += verification.compared_cells
        mismatches.extend(verification.mismatches)
        unknown_headers.extend(verification.unknown_headers)
    if not compared_cells:
        headers = ", ".join(column_header(name, "en") for name in EXAMPLE_COLUMNS)
        raise UserError(
            f"the file {path} contains no table with bioimg's headers, such as {headers}. "
            "Use these headers."
        )
    return VerificationResult(
        mismatches=tuple(mismatches),
        compared_cells=compared_cells,
        unknown_headers=tuple(dict.fromkeys(unknown_headers)),
        foreign_digest=_find_foreign_digest(tables, analysis.digest),
    )


def _find_foreign_digest(tables: Sequence[ParsedTable], own_digest: str) -> str | None:
    """Return the first digest of other results that the text around the tables names."""
    for table in tables:
        for digest in DIGEST_PATTERN.findall(table.surrounding_text):
            if digest != own_digest:
                return digest
    return None


def _verify_table(table: ParsedTable, analysis: Analysis) -> VerificationResult:
    """Check against the reference table that has most of its headers.

    Of several such tables, the one that it agrees with best counts.
    """
    verifications = []
    for reference in _reference_tables(table, analysis):
        verification = _compare_with_reference(table, reference)
        verifications.append(verification)
        if not verification.unknown_headers and not verification.mismatches:
            break
    return min(
        verifications,
        key=lambda result: (len(result.unknown_headers), len(result.mismatches)),
    )


def _reference_tables(table: ParsedTable, analysis: Analysis) -> Iterator[Table]:
    """Yield the tables that the file might hold, in the language of its headers."""
    lang = _detect_language(table.headers)
    for name, builders in TABLE_BUILDERS.items():
        if _has_column(table, name):
            for build_table in builders:
                yield build_table(analysis, lang)
            return
    yield from _comparison_tables(table, analysis, lang)


def _detect_language(headers: Sequence[str]) -> str:
    """Return the language in which most of these headers are known."""
    shown = set(map(_normalise_header, headers))
    known_counts = dict.fromkeys(LANGUAGES, 0)
    for lang, name in product(LANGUAGES, translated_columns()):
        if _normalise_header(column_header(name, lang)) in shown:
            known_counts[lang] += 1
    return max(LANGUAGES, key=lambda lang: known_counts[lang])


def _comparison_tables(table: ParsedTable, analysis: Analysis, lang: str) -> Iterator[Table]:
    """Yield comparisons of all trials, of those in the file, and grouped as in the file."""
    settings = detail_tables.varying_settings(analysis)
    scores = [name for name in SCORE_COLUMNS if _has_column(table, name)]
    columns = [*settings, *scores, "standing"]
    all_trials = build_comparison(analysis, columns=columns, single=True, lang=lang)
    all_trials = _with_all_columns(all_trials, settings)
    yield all_trials

    # with fewer trials, another one may be the best
    results = analysis.results
    reference_rows = _ReferenceRows(all_trials, _match_columns(table, all_trials))
    is_in_file = results.trials["key"].isin(reference_rows.trial_keys(table))
    selection = dataclasses.replace(results, trials=results.trials[is_in_file])
    selected = build_comparison(Analysis(selection), columns=columns, single=True, lang=lang)
    yield _with_all_columns(selected, settings)

    if _has_column(table, "runs"):
        shown_settings = [name for name in settings if _has_column(table, name)]
        grouped_as_shown = build_comparison(analysis, group_by=shown_settings, lang=lang)
        yield _with_all_columns(grouped_as_shown, shown_settings)
        grouped_by_default = build_comparison(analysis, lang=lang)
        yield _with_all_columns(grouped_by_default, shown_settings)


def _with_all_columns(table: Table, identities: Sequence[str]) -> Table:
    """Show every column that has a header."""
    columns = []
    for name in translated_columns():
        if name in table.values:
            column = trial_column(name, table.values, name in identities)
            columns.append(column)
    return dataclasses.replace(table, columns=tuple(columns))


def _compare_with_reference(table: ParsedTable, reference: Table) -> VerificationResult:
    matches = _match_columns(table, reference)
    if not matches or reference.values.empty:
        return VerificationResult(unknown_headers=tuple(table.headers))
    known_positions = {match.position for match in matches}
    unknown_headers = []
    for position, header in enumerate(table.headers):
        if header and position not in known_positions:
            unknown_headers.append(header)
    rows = _ReferenceRows(reference, matches)
    mismatches = []
    for number, row in enumerate(table.rows, start=1):
        mismatches.extend(rows.find_mismatches(row, number, table.location))
    compared_cells = len(table.rows) * len(matches)
    return VerificationResult(tuple(mismatches), compared_cells, tuple(unknown_headers))


_RecordsByIdentity = defaultdict[tuple[str, ...], list[dict[str, Any]]]
"""Records by their normalised settings."""


class _ReferenceRows:
    """The rows of a reference table, found by their settings."""

    def __init__(self, reference: Table, matches: Sequence[_MatchedColumn]) -> None:
        names = [column.name for column in reference.columns]
        self._headers = dict(zip(names, reference.headers, strict=True))
        self._identities = [match for match in matches if match.column.identity]
        self._measures = [match for match in matches if not match.column.identity]
        self._records = reference.records()
        self._known_settings: dict[str, list[str]] = {}
        for column, _ in self._identities:
            values = reference.values[column.name].unique()
            self._known_settings[column.name] = list(map(_normalise_setting, values))
        self._records_by_identity: _RecordsByIdentity = defaultdict(list)
        for record in self._records:
            settings = [record[name] for name in self._known_settings]
            identity = tuple(map(_normalise_setting, settings))
            self._records_by_identity[identity].append(record)

    def trial_keys(self, table: ParsedTable) -> set[str]:
        """Return the keys of the trials that a file's rows refer to."""
        if not self._identities or not self._records:
            return set()
        return {self._find_record(row)["key"] for row in table.rows}

    def find_mismatches(self, row: Sequence[str], number: int, location: str) -> list[Mismatch]:
        """Return the cells of a row that disagree with the results."""
        settings = [_cell_text(row, match.position) for match in self._identities]
        row_name = f"{number} ({', '.join(settings) or '?'})"
        record = self._find_record(row)
        mismatches = []
        for column, position in self._differing_columns(row, record):
            header = self._headers[column.name]
            found = _cell_text(row, position)
            expected = format_cell(column, record)
            mismatches.append(Mismatch(location, row_name, header, found, expected))
        return mismatches

    def _find_record(self, row: Sequence[str]) -> dict[str, Any]:
        """Return the record with the settings of a row, or else the one with fewest differences."""
        identity = self._row_identity(row)
        candidates = self._records_by_identity.get(identity, self._records)
        return min(candidates, key=lambda record: len(self._differing_columns(row, record)))

    def _row_identity(self, row: Sequence[str]) -> tuple[str, ...]:
        settings = []
        for column, position in self._identities:
            cell = _cell_text(row, position)
            setting = resolve_setting(cell, self._known_settings[column.name])
            settings.append(setting)
        return tuple(settings)

    def _differing_columns(
        self, row: Sequence[str], record: dict[str, Any]
    ) -> list[_MatchedColumn]:
        """Return the columns in which a row disagrees with a record, settings first."""
        differing = []
        for match, setting in zip(self._identities, self._row_identity(row), strict=True):
            expected = _normalise_setting(record[match.column.name])
            if setting != expected:
                differing.append(match)
        for match in self._measures:
            cell = _cell_text(row, match.position)
            if not is_blank(cell) and not cell_matches(cell, match.column, record):
                differing.append(match)
        return differing


def _normalise_setting(value: object) -> str:
    return "" if is_missing(value) else normalise_text(value)


def _match_columns(table: ParsedTable, reference: Table) -> list[_MatchedColumn]:
    """Return the columns of a reference table that the file has."""
    matches = []
    for column in reference.columns:
        position = _find_column(column, table.headers)
        if position is not None:
            matches.append(_MatchedColumn(column, position))
    return matches


def _has_column(table: ParsedTable, name: str) -> bool:
    return _find_column(Column(name=name), table.headers) is not None


def _find_column(column: Column, headers: Sequence[str]) -> int | None:
    """Return the position of a column's header, in any language or by its name, or None.

    Units in parentheses are ignored.
    """
    if column.title:
        names = [column.title]
    else:
        translations = [column_header(column.name, lang) for lang in LANGUAGES]
        names = [column.name, column.name.replace("_", " "), *translations]
    known = set(map(_normalise_header, names))
    for position, header in enumerate(headers):
        if _normalise_header(header) in known:
            return position
    return None


def _normalise_header(name: str) -> str:
    """Return a header without its unit, for comparisons."""
    return UNIT_PATTERN.sub("", name).strip().casefold()


def _cell_text(row: Sequence[str], position: int) -> str:
    """Return the text of a cell; a row may be shorter than the header."""
    return row[position] if position < len(row) else ""
