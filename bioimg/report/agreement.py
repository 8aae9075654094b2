"""Whether a cell of a file agrees with a value: a number does if it rounds to what is printed."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from bioimg.report.table import Column, clean, scale

NUMBER = re.compile(r"[-−+]?\d+(?:[.,]\d+)?(?:[eE][-−+]?\d+)?(?::\d\d){0,2}")
EMPTY = {"", "-", "–", "—", "−", "n/a", "na", "nan"}
SYNONYMS = {"no": "none", "否": "none", "yes": "features", "是": "features"}
"""What the report of 2023 wrote in the column of what is frozen."""


def blank(cell: str) -> bool:
    return cell.strip().casefold() in EMPTY


def agrees(cell: str, column: Column, record: Mapping[str, Any]) -> bool:
    """Whether a cell is a true rounding of a value, or the same text. Parts of a cell (interval, epoch) may be missing."""
    value = record.get(column.name)
    if column.kind == "text" or isinstance(value, str):
        return same_text(cell, value)
    if value is None or pd.isna(value):
        return blank(cell)
    if column.kind == "p" and "<" in cell:
        return value < _number(NUMBER.findall(cell)[-1])[0] if NUMBER.search(cell) else False
    printed, true = NUMBER.findall(cell), _parts(column, record)
    return 0 < len(printed) <= len(true) and all(map(_rounds, printed, true))


def same_text(cell: str, value: object) -> bool:
    return plain(cell) == plain("" if value is None or pd.isna(value) else value)  # type: ignore[call-overload]


def known_value(cell: str, values: Iterable[object]) -> str:
    """The setting that a cell refers to: V1 is IMAGENET1K_V1 and 32.0 is 32, if that is unambiguous; else the cell itself."""
    names = list(dict.fromkeys(plain(value) for value in values))
    text = "" if blank(cell) else plain(cell)
    for candidate in (text, SYNONYMS.get(text, text), text.removesuffix(".0")):
        if candidate in names:
            return candidate
    ending = [name for name in names if name.endswith(f"_{text}")]
    return ending[0] if len(ending) == 1 else text


def plain(value: object) -> str:
    """Text for comparisons: ignoring case, and whole numbers without decimals."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return clean(value).strip().casefold()


def _parts(column: Column, record: Mapping[str, Any]) -> list[float]:
    """The numbers of a cell, in order and in the unit shown."""
    names = [column.name, *(f"{column.name}_{part}" for part in ("sd", "low", "high", "epoch"))]
    values = [record.get(name) for name in names]
    parts = [float(value) * scale(column.kind) for value in values if value is not None and not pd.isna(value)]
    epoch = record.get(f"{column.name}_epoch")
    if column.kind == "loss" and epoch is not None and not pd.isna(epoch):
        parts.append(float(record["epochs_run"]))
    return parts


def _rounds(printed: str, value: float) -> bool:
    number, unit = _number(printed)
    return abs(number - value) <= unit / 2 + 1e-9 * max(1.0, abs(value))


def _number(printed: str) -> tuple[float, float]:
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
