"""Check that a cell of a file agrees with a value: a number must be a true rounding of it."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bioimg.report.table_model import Column, display_factor, is_missing, sanitise_text

NUMBER_PATTERN = re.compile(r"[-−+]?\d+(?:[.,]\d+)?(?:[eE][-−+]?\d+)?(?::\d\d){0,2}")
BLANK_CELLS = {"", "-", "–", "—", "−", "n/a", "na", "nan"}
FREEZE_SYNONYMS = {"no": "none", "否": "none", "yes": "features", "是": "features"}
"""What the report of 2023 wrote in the column of what is frozen."""


def is_blank(cell: str) -> bool:
    """Return True if a cell is empty or holds a sign for a missing value."""
    return cell.strip().casefold() in BLANK_CELLS


def cell_matches(cell: str, column: Column, record: Mapping[str, Any]) -> bool:
    """Return True if a cell is a true rounding of a value, or the same text.

    What is shown beside the value (deviation, interval, epoch) may be missing, from the end on.
    """
    value = record.get(column.name)
    if column.kind == "text" or isinstance(value, str):
        return same_text(cell, value)
    if value is None or is_missing(value):
        return is_blank(cell)
    printed = NUMBER_PATTERN.findall(cell)
    if not printed:
        return False
    if column.kind == "p" and "<" in cell:
        upper_limit, _ = _parse_number(printed[-1])
        return value < upper_limit
    true_values = _shown_numbers(column, record)
    if len(printed) > len(true_values):
        return False
    return all(map(_is_rounding, printed, true_values))


def same_text(cell: str, value: object) -> bool:
    """Return True if a cell holds this text, ignoring case."""
    expected = "" if is_missing(value) else value
    return normalise_text(cell) == normalise_text(expected)


def resolve_setting(cell: str, values: Iterable[object]) -> str:
    """Return the setting that a cell refers to, or the cell itself if that is ambiguous.

    `V1` refers to `IMAGENET1K_V1`, and `32.0` to `32`.
    """
    names = dict.fromkeys(map(normalise_text, values))
    text = "" if is_blank(cell) else normalise_text(cell)
    synonym = FREEZE_SYNONYMS.get(text, text)
    whole_number = text.removesuffix(".0")
    for candidate in (text, synonym, whole_number):
        if candidate in names:
            return candidate
    matches = [name for name in names if name.endswith(f"_{text}")]
    if len(matches) == 1:
        return matches[0]
    return text


def normalise_text(value: object) -> str:
    """Return a text for comparisons: in one case, whole numbers without decimals."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return sanitise_text(value).strip().casefold()


def _shown_numbers(column: Column, record: Mapping[str, Any]) -> list[float]:
    """Return the numbers of a cell, in order and in the unit shown."""
    factor = display_factor(column.kind)
    numbers = []
    for suffix in ("", "_sd", "_low", "_high", "_epoch"):
        value: Any = record.get(column.name + suffix)
        if not is_missing(value):
            numbers.append(float(value) * factor)
    # beside a loss stand its epoch and the last one, as in "0.41 (3/10)"
    if column.kind == "loss" and not is_missing(record.get(f"{column.name}_epoch")):
        numbers.append(float(record["epochs_run"]))
    return numbers


def _is_rounding(printed: str, value: float) -> bool:
    number, unit = _parse_number(printed)
    float_error = 1e-9 * max(1.0, abs(value))
    return abs(number - value) <= unit / 2 + float_error


def _parse_number(printed: str) -> tuple[float, float]:
    """Return a printed number (a time in seconds) and the value of its last digit."""
    text = printed.replace("−", "-").replace(",", ".")
    if ":" in text:
        seconds = 0
        for part in text.split(":"):
            seconds = 60 * seconds + int(part)
        return float(seconds), 1.0
    mantissa, _, exponent = text.lower().partition("e")
    _, _, fraction = mantissa.partition(".")
    decimals = len(fraction) - int(exponent or 0)
    return float(text), 10.0**-decimals
