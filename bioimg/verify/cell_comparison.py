"""Compare a cell of a file with a value of the results.

A cell agrees if it is what the report writes, in any language. A number may also have other
decimals, if it is a right rounding and has at least two significant digits (or as many as the
report shows, if that is one). Counts, epochs and times must be exact.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from bioimg.report.formatting import MISSING_TEXT
from bioimg.report.table_model import Column, format_cell, sanitise_text

Disagreement = Literal["value", "words", "digits", "empty", "interval"]

MIN_SIGNIFICANT_DIGITS = 2
EXACT_KINDS = ("count", "epoch", "seconds")
MANY_DECIMALS = 12
BLANK_CELLS = ("", "-", "–", "—", "−", "n/a", "na", "nan")
FREEZE_SYNONYMS = {
    "none": "all layers",
    "features": "head only",
    "head-first": "head first, then all layers",
}
"""Values of the setting `freeze`, and how the report shows them."""

NUMBER = (
    r"[-−+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?|[.,]\d+)"
    r"(?:[eE][-−+]?\d+)?(?::\d\d){0,2}"
)
CELL_PATTERN = re.compile(
    rf"(?P<less><)?\s*(?P<value>{NUMBER})"
    rf"(?:\s*(?:±|\+/?[-−])\s*(?P<deviation>{NUMBER}))?"
    rf"(?:\s*[\[(]\s*(?P<low>{NUMBER})\s*[,;–-]\s*(?P<high>{NUMBER})\s*[\])])?"
    r"(?:\s*\(\s*(?P<epoch>\d+)\s*(?:/\s*(?P<epochs>\d+)\s*)?\))?"
)
"""A number, and beside it a deviation, an interval, or the epoch of all epochs."""

THOUSANDS_PATTERN = re.compile(r"[-−+]?\d{1,3}(,\d{3})+(\.\d+)?")
NUMBER_PARTS = ("value", "deviation", "low", "high", "epoch", "epochs")
UNCERTAINTY_PARTS = ("deviation", "low", "high")


def compare_cell(
    text: str, column: Column, record: Mapping[str, Any], shown: Sequence[str]
) -> Disagreement | None:
    """Return how a cell disagrees with the results, or None if it agrees.

    Args:
        text: what the cell says.
        column: how the report shows the value.
        record: the values of the row.
        shown: what the report writes, in each language.

    Returns:
        `interval` if only the interval or deviation that the report shows is missing. The epochs
        beside a loss may be missing.
    """
    if any(same_text(text, expected) for expected in shown):
        return None
    is_missing = shown[0] == MISSING_TEXT
    if is_blank(text):
        return None if is_missing else "empty"
    expected = CELL_PATTERN.fullmatch(shown[0])
    if column.kind == "text" or expected is None:
        return "value"
    found = CELL_PATTERN.fullmatch(text.strip())
    if found is None:
        return "words" if re.search(r"\d", text) else "value"
    exact = CELL_PATTERN.fullmatch(_exact_text(column, record)) or expected
    return _compare_numbers(found, expected, exact, column)


def leading_number(text: str) -> float | None:
    """Return the number that a cell of the report begins with, or None."""
    match = CELL_PATTERN.fullmatch(text)
    return None if match is None else _readings(match["value"])[0][0]


def same_text(text: str, expected: str) -> bool:
    """Return True if two texts read the same, but for case and the shape of quotes and dashes."""
    return normalise_text(text).casefold() == normalise_text(expected).casefold()


def normalise_text(text: str) -> str:
    """Return a text for comparisons: on one line, with one kind of quotes, dashes, separators.

    CSV can't keep all of these in a comment, and Word changes some while one types.
    """
    line = " ".join(unicodedata.normalize("NFC", text).split())
    return line.translate(PLAIN_CHARACTERS)


PLAIN_CHARACTERS = str.maketrans('“”„‘’"−–—;；', "''''''---,,")


def is_blank(text: str) -> bool:
    """Return True if a cell is empty or holds a sign for a missing value."""
    return text.strip().casefold() in BLANK_CELLS


def resolve_setting(text: str, known: Iterable[str]) -> str | None:
    """Return which of the known settings a cell refers to, or None.

    The same text comes first. Then case is ignored, `32.0` refers to `32`, `V1` to `IMAGENET1K_V1`,
    `none` to `all layers`, and a blank cell to a missing value. It must be clear which one is
    meant.
    """
    settings = list(dict.fromkeys(known))
    cell = sanitise_text(text).strip()
    if cell in settings:
        return cell
    lower = normalise_text(cell).casefold()
    synonym = FREEZE_SYNONYMS.get(lower)
    for is_meant in (
        lambda setting: same_text(setting, cell),
        lambda setting: _same_number(setting, lower),
        lambda setting: setting.casefold().endswith(f"_{lower}"),
        lambda setting: setting == synonym,
        lambda setting: setting == MISSING_TEXT and is_blank(cell),
    ):
        meant = list(filter(is_meant, settings))
        if len(meant) == 1:
            return meant[0]
    return None


def _same_number(setting: str, text: str) -> bool:
    try:
        return float(setting) == float(text)
    except ValueError:
        return False


# Numbers


def _exact_text(column: Column, record: Mapping[str, Any]) -> str:
    """Return the cell with all its digits."""
    if column.kind == "p":
        return f"{record[column.name]:.12g}"
    return format_cell(dataclasses.replace(column, decimals=MANY_DECIMALS), record)


def _compare_numbers(
    found: re.Match[str], expected: re.Match[str], exact: re.Match[str], column: Column
) -> Disagreement | None:
    """Compare the number of a cell, and each number beside it."""
    if bool(found["less"]) != bool(expected["less"]):
        return "value"
    lacks_uncertainty = False
    for part in NUMBER_PARTS:
        if found[part] is None:
            is_missing = expected[part] is not None and part in UNCERTAINTY_PARTS
            lacks_uncertainty = lacks_uncertainty or is_missing
            continue
        if expected[part] is None:
            return "value"
        must_be_exact = column.kind in EXACT_KINDS or part in ("epoch", "epochs")
        true_text = expected[part] if found["less"] else exact[part]
        disagreement = _compare_number(found[part], expected[part], true_text, must_be_exact)
        if disagreement:
            return disagreement
    return "interval" if lacks_uncertainty else None


def _compare_number(found: str, shown: str, true: str, must_be_exact: bool) -> Disagreement | None:
    """Compare a printed number with what the report shows, and with the number it rounds."""
    if (":" in found) != (":" in shown):
        return "value"
    shown_value, shown_unit = _readings(shown)[0]
    true_value, _ = _readings(true)[0]
    for value, unit in _readings(found):
        if must_be_exact:
            is_right = value == shown_value and unit <= 1
        elif unit >= shown_unit:
            # who rounds what the report shows may round twice
            is_right = _rounds_to(true_value, value, unit) or _rounds_to(shown_value, value, unit)
        else:
            is_right = _rounds_to(true_value, value, unit)
        if is_right:
            needed = min(MIN_SIGNIFICANT_DIGITS, _count_significant_digits(shown))
            return None if _count_significant_digits(found) >= needed else "digits"
    return "value"


def _rounds_to(value: float, printed: float, unit: float) -> bool:
    float_error = 1e-9 * max(1.0, abs(value))
    return abs(printed - value) <= unit / 2 + float_error


def _readings(printed: str) -> list[tuple[float, float]]:
    """Return what a printed number may mean, each with the value of its last digit.

    A comma separates thousands or decimals. A time is read in seconds.
    """
    text = printed.replace("−", "-")
    if ":" in text:
        seconds = 0
        for part in text.split(":"):
            seconds = 60 * seconds + int(part)
        return [(float(seconds), 1.0)]
    spellings = [text.replace(",", "")] if THOUSANDS_PATTERN.fullmatch(text) else []
    if text.count(",") <= 1 and not ("," in text and "." in text):
        spellings.append(text.replace(",", "."))
    return [(float(spelling), _last_digit(spelling)) for spelling in spellings]


def _last_digit(number: str) -> float:
    """Return the value of one in the last digit: 0.01 for `1.25`, 100 for `1e2`."""
    mantissa, _, exponent = number.lower().partition("e")
    _, _, fraction = mantissa.partition(".")
    return 10.0 ** (int(exponent or 0) - len(fraction))


def _count_significant_digits(printed: str) -> int:
    """Return how many digits follow from the first that isn't 0 on."""
    mantissa = re.split("[eE]", printed)[0]
    digits = re.sub(r"\D", "", mantissa)
    return len(digits.lstrip("0"))
