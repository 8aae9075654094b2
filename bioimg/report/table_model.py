"""A table before it has a format: raw values, how columns are shown, caption and notes; and the one rule of rounding."""

import functools
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from bioimg.report.captions import column_header

ColumnKind = Literal[
    "text", "count", "number", "share", "points", "loss", "epoch", "seconds", "p", "money"
]
"""share: a fraction shown in %. points: a difference of fractions, in percentage points. loss: with the epoch, where given."""

MISSING_TEXT = "–"
JOINER_CHARACTERS = "\u200c\u200d"
MAX_NAME_CHARACTERS = 160
"""The most characters shown of a name from the data; the Parquet file has all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """How a column of the raw values is shown.

    identity: distinguishes rows (a setting, a class); `verify` finds rows by these.
    digits:   decimals in the unit shown, from `digits`; interval: shown with `NAME_low` and `NAME_high` in brackets.
    title:    the header, if it isn't the translation of the name (for instance a class).
    """

    name: str
    kind: ColumnKind = "text"
    identity: bool = False
    digits: int = 0
    interval: bool = False
    title: str | None = None

    @property
    def is_single_number(self) -> bool:
        """Whether a cell is one number, so that a spreadsheet can store it as a number."""
        return self.kind in ("count", "share", "points", "loss", "money") and not self.interval


@dataclass(frozen=True, kw_only=True)
class Table:
    """Raw values (with `_low`, `_high`, `_sd`, `_epoch` columns for those shown), and what is shown with them."""

    name: str
    values: pd.DataFrame
    columns: tuple[Column, ...]
    caption: str
    notes: tuple[str, ...] = ()
    results_digest: str
    lang: str = "en"

    @property
    def headers(self) -> list[str]:
        return [
            sanitise_text(column.title or column_header(column.name, self.lang))
            for column in self.columns
        ]

    def records(self) -> list[dict[str, Any]]:
        """Every row as raw values by column name."""
        return [
            {str(name): value for name, value in row.items()}
            for row in self.values.to_dict("records")
        ]

    def cells(self) -> list[list[str]]:
        """Every row as text, rounded for reading."""
        return self._rounded_cells

    @functools.cached_property
    def _rounded_cells(self) -> list[list[str]]:
        return [
            [format_cell(column, record) for column in self.columns] for record in self.records()
        ]


@dataclass(frozen=True)
class ParsedTable:
    """A table read back from a file, as text, with its place in the file and the text around it."""

    headers: list[str]
    rows: list[list[str]]
    location: str
    surrounding_text: str


def interval_decimals(halfwidth: float, default: int = 1) -> int:
    """Decimals for a value, from the half-width of its 95 % interval: up to the second digit of that, at most two."""
    if not 1e-9 < halfwidth < math.inf:
        return default
    return min(2, max(0, 1 - math.floor(math.log10(halfwidth))))


def column_decimals(low: pd.Series, high: pd.Series) -> int:
    """Decimals for a column of percentages, from the median width of its 95 % intervals (given as fractions)."""
    return interval_decimals(50 * float((high - low).astype(float).median()))


@functools.lru_cache(maxsize=10_000)
def sanitise_text(text: object) -> str:
    """A text from the data on one line, without control characters and bidirectional overrides, cut if very long."""
    line = " ".join(unicodedata.normalize("NFC", str(text)).split())
    line = "".join(
        "\ufffd"
        if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Cn") and c not in JOINER_CHARACTERS
        else c
        for c in line
    )
    return line if len(line) <= MAX_NAME_CHARACTERS else line[: MAX_NAME_CHARACTERS - 1] + "…"


def display_width(text: str) -> int:
    """Approximate width in terminal columns: Chinese characters are twice as wide as Latin ones."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def format_cell(column: Column, record: Mapping[str, Any]) -> str:
    """One cell as text."""
    value = record.get(column.name)
    if isinstance(value, str):
        return sanitise_text(value)
    if value is None or pd.isna(value):
        return MISSING_TEXT
    text = _FORMATTERS[column.kind](value, column.digits)
    low, high, sd, epoch = (
        record.get(f"{column.name}_{part}") for part in ("low", "high", "sd", "epoch")
    )
    if sd is not None and not pd.isna(sd):
        return f"{text} ± {_FORMATTERS[column.kind](sd, column.digits)}"
    if column.interval and low is not None and not pd.isna(low):
        return f"{text} [{_FORMATTERS[column.kind](low, column.digits)}, {_FORMATTERS[column.kind](high, column.digits)}]"
    if column.kind == "loss" and epoch is not None and not pd.isna(epoch):
        return f"{text} ({int(epoch)}/{int(record['epochs_run'])})"
    return text


def display_factor(kind: ColumnKind) -> float:
    """The factor by which a raw value is multiplied before it is shown."""
    return 100.0 if kind in ("share", "points") else 1.0


def _format_fixed(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    text = text.removeprefix("-") if not float(text) else text
    return text.replace("-", "−")  # a hyphen would begin a formula in a spreadsheet


def _format_seconds(value: float, digits: int) -> str:
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _format_p_value(value: float, digits: int) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


_FORMATTERS = {
    "text": lambda value, digits: sanitise_text(value),
    "count": lambda value, digits: _format_fixed(value, 0),
    "number": lambda value, digits: f"{value:g}".replace("-", "−"),
    "share": lambda value, digits: _format_fixed(100 * value, digits),
    "points": lambda value, digits: _format_fixed(100 * value, digits),
    "loss": _format_fixed,
    "epoch": lambda value, digits: _format_fixed(value, 0),
    "seconds": _format_seconds,
    "p": _format_p_value,
    "money": _format_fixed,
}
