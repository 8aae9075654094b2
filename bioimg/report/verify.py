"""Check whether a table, edited by hand or not, agrees with the results, and list every cell that doesn't."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from bioimg.config import UserError
from bioimg.report import breakdown, documents
from bioimg.report.agreement import agrees, blank, known_value, plain
from bioimg.report.captions import HEADERS, LANGUAGES, header
from bioimg.report.notes import fingerprint
from bioimg.report.table import Column, Read, Table, cell
from bioimg.report.tables import SCORES, column, comparison
from bioimg.results.store import Results

MAKERS: dict[str, tuple[Callable[[Results, str], Table], ...]] = {
    "class": (breakdown.per_class,),
    "label": (breakdown.confusion,),
    "axis": (breakdown.effects,),
    "claim": (breakdown.differences, partial(breakdown.differences, every=False)),
    "reading": (breakdown.curves,),
    "val_loss": (breakdown.at_epoch,),
    "device_seconds": (breakdown.cost,),
}
"""The functions that make a table, by a header that only this kind of table has."""


@dataclass(frozen=True)
class Finding:
    """A cell that disagrees with the results."""

    place: str
    row: str
    column: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.place}, row {self.row}, {self.column}: the file says {self.found}, the results say {self.expected}."


@dataclass(frozen=True)
class Verdict:
    """findings: cells that disagree. cells: how many were compared. unchecked: headers that aren't known.

    other: the fingerprint of the results that the file says it was made from, if it differs.
    """

    findings: tuple[Finding, ...] = ()
    cells: int = 0
    unchecked: tuple[str, ...] = ()
    other: str | None = None


def verify(path: Path, results: Results) -> Verdict:
    """Check every table of a file (.md, .tex, .csv, .docx, .xlsx) against the results.

    A row is found by its settings (or class, ...). If no trial has these, the nearest one is taken and the differences are
    listed, settings included. Blank cells aren't compared.

    Raises:
        UserError: there is no such file, it can't be read, or no table in it has a known column.
    """
    tables = [table for table in documents.read(path) if table.rows]
    verdicts = [_check(table, results) for table in tables]
    if not any(verdict.cells for verdict in verdicts):
        names = ", ".join(header(name, "en") for name in ("weights", "batch_size", "test_accuracy"))
        raise UserError(f"the file {path} contains no table with bioimg's headers, such as {names}. Use these headers.")
    return Verdict(
        tuple(finding for verdict in verdicts for finding in verdict.findings),
        sum(verdict.cells for verdict in verdicts),
        tuple(dict.fromkeys(name for verdict in verdicts for name in verdict.unchecked)),
        _other(tables, fingerprint(results)),
    )


def _other(tables: Sequence[Read], own: str) -> str | None:
    stated = [mark for table in tables for mark in re.findall(r"(?:results|結果) ([0-9a-f]{10})\b", table.around)]
    return next((mark for mark in stated if mark != own), None)


def _check(table: Read, results: Results) -> Verdict:
    """Check against the reference table that has most of its headers; of equals, the one it agrees with best."""
    verdicts = []
    for reference in _references(table, results):
        verdicts.append(_against(table, reference))
        if not verdicts[-1].unchecked and not verdicts[-1].findings:
            break
    return min(verdicts, key=lambda verdict: (len(verdict.unchecked), len(verdict.findings)))


def _references(table: Read, results: Results) -> Iterator[Table]:
    """The tables of these results that the file might be, in the language of its headers."""
    shown = set(map(_plain, table.headers))
    lang = max(LANGUAGES, key=lambda lang: sum(_plain(header(name, lang)) in shown for name in HEADERS))
    makers = next((makers for name, makers in MAKERS.items() if _place(Column(name=name), table.headers) is not None), None)
    yield from (make(results, lang) for make in makers) if makers else _comparisons(table, results, lang)


def _comparisons(table: Read, results: Results, lang: str) -> Iterator[Table]:
    """Comparisons of all trials, of those in the file (which may change which is best), and grouped as in the file."""
    settings = breakdown.settings(results)
    scores = [name for name in SCORES if _place(Column(name=name), table.headers) is not None]
    every = _with_all_columns(comparison(results, columns=[*settings, *scores, "standing"], single=True, lang=lang), settings)
    yield every
    keys = _Rows(every, _places(table, every)).keys(table)
    part = dataclasses.replace(results, trials=results.trials[results.trials["key"].isin(keys)])
    yield _with_all_columns(comparison(part, columns=[*settings, *scores, "standing"], single=True, lang=lang), settings)
    together = [name for name in settings if _place(Column(name=name), table.headers) is not None]
    if _place(Column(name="runs"), table.headers) is not None:
        yield _with_all_columns(comparison(results, group_by=together, lang=lang), together)
        yield _with_all_columns(comparison(results, lang=lang), together)


def _with_all_columns(table: Table, identities: Sequence[str]) -> Table:
    names = [name for name in HEADERS if name in table.values]
    return dataclasses.replace(table, columns=tuple(column(name, table.values, name in identities) for name in names))


def _against(table: Read, reference: Table) -> Verdict:
    places = _places(table, reference)
    known = [place for _, place in places]
    unchecked = tuple(name for place, name in enumerate(table.headers) if name and place not in known)
    if not places or reference.values.empty:
        return Verdict(unchecked=tuple(table.headers))
    rows, findings = _Rows(reference, places), []
    for number, row in enumerate(table.rows, start=1):
        name = ", ".join(_at(row, place) for _, place in rows.identity) or "?"
        findings += [Finding(table.place, f"{number} ({name})", *said) for said in rows.differences(row)]
    return Verdict(tuple(findings), len(table.rows) * len(places), unchecked)


class _Rows:
    """The rows of a reference table, found by their settings."""

    def __init__(self, reference: Table, places: Sequence[tuple[Column, int]]) -> None:
        self.headers = dict(zip((column.name for column in reference.columns), reference.headers, strict=True))
        self.identity = [(column, place) for column, place in places if column.identity]
        self.values = [(column, place) for column, place in places if not column.identity]
        values = reference.values
        self.known = {column.name: list(map(_setting, values[column.name].unique())) for column, _ in self.identity}
        self.records = reference.records()
        self.by_identity: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for record in self.records:
            name = tuple(_setting(record[column.name]) for column, _ in self.identity)
            self.by_identity.setdefault(name, []).append(record)

    def keys(self, table: Read) -> set[str]:
        """The trials that a file's rows refer to."""
        return {self._find(row)["key"] for row in table.rows} if self.identity and self.records else set()

    def differences(self, row: Sequence[str]) -> list[tuple[str, str, str]]:
        """Column, what the file says and what the results say, for each cell that disagrees."""
        return self._compare(row, self._find(row))

    def _find(self, row: Sequence[str]) -> dict[str, Any]:
        """The row with these settings, or else the one with the fewest differences."""
        candidates = self.by_identity.get(self._name(row)) or self.records
        return min(candidates, key=lambda record: len(self._compare(row, record)))

    def _name(self, row: Sequence[str]) -> tuple[str, ...]:
        return tuple(known_value(_at(row, place), self.known[column.name]) for column, place in self.identity)

    def _compare(self, row: Sequence[str], record: dict[str, Any]) -> list[tuple[str, str, str]]:
        named = zip(self.identity, self._name(row), strict=True)
        wrong = [(column, place) for (column, place), name in named if name != _setting(record[column.name])]
        cells = [(column, place) for column, place in self.values if not blank(_at(row, place))]
        wrong += [(column, place) for column, place in cells if not agrees(_at(row, place), column, record)]
        return [(self.headers[column.name], _at(row, place), cell(column, record)) for column, place in wrong]


def _setting(value: object) -> str:
    return "" if pd.isna(value) else plain(value)  # type: ignore[call-overload]


def _places(table: Read, reference: Table) -> list[tuple[Column, int]]:
    found = [(column, _place(column, table.headers)) for column in reference.columns]
    return [(column, place) for column, place in found if place is not None]


def _place(column: Column, headers: Sequence[str]) -> int | None:
    """The position of a column's header, in any language or by its name, ignoring units in parentheses."""
    names = {_plain(name) for name in (column.name, column.name.replace("_", " "), *HEADERS.get(column.name, ()))}
    names = {_plain(column.title)} if column.title else names
    return next((place for place, name in enumerate(headers) if _plain(name) in names), None)


def _plain(name: str) -> str:
    """A header without its unit, for comparisons."""
    return re.sub(r"\s*[(（][^)）]*[)）]\s*$", "", name).strip().casefold()


def _at(row: Sequence[str], place: int) -> str:
    return row[place] if place < len(row) else ""
