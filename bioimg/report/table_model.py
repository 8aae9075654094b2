"""Describe a table before it has a format: raw values, how columns are shown, caption and notes."""

import functools
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from bioimg.report.checks import Check
from bioimg.report.formatting import (
    MISSING_TEXT,
    format_clock,
    format_fixed,
    format_number,
    format_p_value,
)
from bioimg.report.translation import column_header, setting_value

ColumnKind = Literal[
    "text", "count", "number", "share", "points", "loss", "epoch", "seconds", "p", "money"
]
"""share: a fraction shown in %. points: a difference of fractions, in percentage points.

loss: shown with its epoch, where that is known.
"""

JOINER_CHARACTERS = "\u200c\u200d"
REPLACEMENT_CHARACTER = "\ufffd"
HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Cn")
"""Unicode categories of control, format, surrogate and unassigned characters."""

MAX_NAME_CHARACTERS = 160
"""The most characters shown of a name from the data; the Parquet file has all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """How a column of the raw values is shown.

    identity: distinguishes rows (a setting, a class); `verify` finds rows by these.
    decimals: decimals in the unit shown.
    interval: shown with `NAME_low` and `NAME_high` in brackets.
    title:    the header, if it isn't the translation of the name (for instance a class).
    """

    name: str
    kind: ColumnKind = "text"
    identity: bool = False
    decimals: int = 0
    interval: bool = False
    title: str | None = None

    @property
    def is_single_number(self) -> bool:
        """True if a cell is one number, so that a spreadsheet can store it as a number."""
        return self.kind in ("count", "share", "points", "loss", "money") and not self.interval

    @property
    def is_left_aligned(self) -> bool:
        """True for settings and text; other columns are aligned to the right."""
        return self.identity or self.kind == "text"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Raw values, and how they are shown.

    Columns with the ends `_low`, `_high`, `_sd` and `_epoch` belong to the column of that name.
    """

    name: str
    values: pd.DataFrame
    columns: tuple[Column, ...]
    caption: str
    checks: tuple[Check, ...] = ()
    results_digest: str
    lang: str = "en"

    @property
    def headers(self) -> list[str]:
        """The header of each column, in the language of the table."""
        return [sanitise_text(self._header(column)) for column in self.columns]

    def _header(self, column: Column) -> str:
        if column.title is not None:
            return column.title
        return column_header(column.name, self.lang)

    @property
    def notes(self) -> list[str]:
        """What readers must know about the numbers: warnings, and what they mean."""
        return [check.text(self.lang) for check in self.checks]

    def records(self) -> list[dict[str, Any]]:
        """Return every row as raw values by column name."""
        values = self.values.rename(columns=str)
        return values.to_dict("records")  # type: ignore[return-value]

    def cells(self) -> list[list[str]]:
        """Return every row as text, rounded for reading."""
        return self._rounded_cells

    @functools.cached_property
    def _rounded_cells(self) -> list[list[str]]:
        return [self._format_row(record) for record in self.records()]

    def _format_row(self, record: Mapping[str, Any]) -> list[str]:
        return [format_cell(column, record, self.lang) for column in self.columns]


@functools.lru_cache(maxsize=10_000)
def sanitise_text(text: object) -> str:
    """Return a text from the data on one line, cut if it is very long.

    Control characters and bidirectional overrides are replaced, so that a name can't disguise
    another one.
    """
    line = " ".join(unicodedata.normalize("NFC", str(text)).split())
    line = "".join(REPLACEMENT_CHARACTER if _is_hidden(letter) else letter for letter in line)
    if len(line) > MAX_NAME_CHARACTERS:
        return line[: MAX_NAME_CHARACTERS - 1] + "…"
    return line


def _is_hidden(character: str) -> bool:
    if character in JOINER_CHARACTERS:
        return False
    return unicodedata.category(character) in HIDDEN_CATEGORIES


def display_width(text: str) -> int:
    """Return the approximate width in terminal columns: Chinese characters count twice."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide


def format_cell(column: Column, record: Mapping[str, Any], lang: str = "en") -> str:
    """Format one cell of a row: its value, and its deviation, interval or epoch where known."""
    value = record.get(column.name)
    if isinstance(value, str):
        return sanitise_text(setting_value(column.name, value, lang))
    if is_missing(value):
        return MISSING_TEXT
    text = format_value(value, column.kind, column.decimals)
    deviation = record.get(f"{column.name}_sd")
    if not is_missing(deviation):
        text += f" ± {format_value(deviation, column.kind, column.decimals)}"
    low, high = record.get(f"{column.name}_low"), record.get(f"{column.name}_high")
    if column.interval and not is_missing(low):
        low_text = format_value(low, column.kind, column.decimals)
        high_text = format_value(high, column.kind, column.decimals)
        return f"{text} [{low_text}, {high_text}]"
    epoch = record.get(f"{column.name}_epoch")
    if column.kind == "loss" and not is_missing(epoch):
        last_epoch = format_value(record["epochs_run"], "epoch", 0)
        return f"{text} ({format_value(epoch, 'epoch', 0)}/{last_epoch})"
    return text


def is_missing(value: Any) -> bool:
    """Return True for None and for what pandas uses for a missing value."""
    return value is None or bool(pd.isna(value))


def format_value(value: Any, kind: ColumnKind, decimals: int) -> str:
    """Format one value of a column of this kind, without its unit."""
    match kind:
        case "text":
            return sanitise_text(value)
        case "number":
            return format_number(value)
        case "seconds":
            return format_clock(value)
        case "p":
            return format_p_value(value)
        case "count" | "epoch":
            return format_fixed(value, 0)
        case _:
            return format_fixed(value * display_factor(kind), decimals)


def display_factor(kind: ColumnKind) -> float:
    """Return the factor by which a raw value is multiplied before it is shown."""
    return 100.0 if kind in ("share", "points") else 1.0
