"""Whether a cell of a file agrees with a value: a number does if it rounds to what is printed."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from bioimg.report.table_model import Column, display_factor, sanitise_text

NUMBER_PATTERN = re.compile(r"[-−+]?\d+(?:[.,]\d+)?(?:[eE][-−+]?\d+)?(?::\d\d){0,2}")
BLANK_CELLS = {"", "-", "–", "—", "−", "n/a", "na", "nan"}
FREEZE_SYNONYMS = {"no": "none", "否": "none", "yes": "features", "是": "features"}
"""What the report of 2023 wrote in the column of what is frozen."""


def is_blank(cell: str) -> bool:
    return cell.strip().casefold() in BLANK_CELLS


def cell_matches(cell: str, column: Column, record: Mapping[str, Any]) -> bool:
    """Whether a cell is a true rounding of a value, or the same text. Parts of a cell (interval, epoch) may be missing."""
    value = record.get(column.name)
    if column.kind == "text" or isinstance(value, str):
        return same_text(cell, value)
    if value is None or pd.isna(value):
        return is_blank(cell)
    if column.kind == "p" and "<" in cell:
        return (
            value < _parse_number(NUMBER_PATTERN.findall(cell)[-1])[0]
            if NUMBER_PATTERN.search(cell)
            else False
        )
    printed, true = NUMBER_PATTERN.findall(cell), _shown_numbers(column, record)
    return 0 < len(printed) <= len(true) and all(map(_is_rounding, printed, true))


def same_text(cell: str, value: object) -> bool:
    return normalise_text(cell) == normalise_text("" if value is None or pd.isna(value) else value)  # type: ignore[call-overload]


def resolve_setting(cell: str, values: Iterable[object]) -> str:
    """The setting that a cell refers to: V1 is IMAGENET1K_V1 and 32.0 is 32, if that is unambiguous; else the cell itself."""
    names = list(dict.fromkeys(normalise_text(value) for value in values))
    text = "" if is_blank(cell) else normalise_text(cell)
    for candidate in (text, FREEZE_SYNONYMS.get(text, text), text.removesuffix(".0")):
        if candidate in names:
            return candidate
    ending = [name for name in names if name.endswith(f"_{text}")]
    return ending[0] if len(ending) == 1 else text


def normalise_text(value: object) -> str:
    """Text for comparisons: ignoring case, and whole numbers without decimals."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return sanitise_text(value).strip().casefold()


def _shown_numbers(column: Column, record: Mapping[str, Any]) -> list[float]:
    """The numbers of a cell, in order and in the unit shown."""
    names = [column.name, *(f"{column.name}_{part}" for part in ("sd", "low", "high", "epoch"))]
    values = [record.get(name) for name in names]
    parts = [
        float(value) * display_factor(column.kind)
        for value in values
        if value is not None and not pd.isna(value)
    ]
    epoch = record.get(f"{column.name}_epoch")
    if column.kind == "loss" and epoch is not None and not pd.isna(epoch):
        parts.append(float(record["epochs_run"]))
    return parts


def _is_rounding(printed: str, value: float) -> bool:
    number, unit = _parse_number(printed)
    return abs(number - value) <= unit / 2 + 1e-9 * max(1.0, abs(value))


def _parse_number(printed: str) -> tuple[float, float]:
    """A printed number (or time, in seconds) and the value of its last digit."""
    text = printed.replace("−", "-").replace(",", ".")
    if ":" in text:
        seconds = 0
        for part in text.split(":"):
            seconds = 60 * seconds + int(part)
        return float(seconds), 1.0
    mantissa, _, exponent = text.lower().partition("e")
    decimals = len(mantissa.partition(".")[2]) - int(exponent or 0)
    return float(text), 10.0**-decimals
