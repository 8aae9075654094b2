"""Format numbers and names for readers: the one place for tables, page, figures and console.

A minus is a minus sign, since a hyphen would begin a formula in a spreadsheet. A missing value is
a dash.
"""

import math
from collections.abc import Iterable

import pandas as pd

MISSING_TEXT = "–"
MAX_DECIMALS = 2


def interval_decimals(halfwidth: float, default: int = 1) -> int:
    """Return the decimals of a value from the half-width of its 95 % interval.

    They reach the second significant digit of the half-width, but there are at most two.
    """
    if not 1e-9 < halfwidth < math.inf:
        return default
    # 12 has its first digit at 10^1, 0.034 at 10^-2
    first_digit = math.floor(math.log10(halfwidth))
    decimals = 1 - first_digit
    return min(MAX_DECIMALS, max(0, decimals))


def column_decimals(values: pd.DataFrame, name: str) -> int:
    """Return the decimals of a column of percentages, from the median width of its 95 % intervals.

    The ends of the intervals are in the columns `NAME_low` and `NAME_high`, as fractions.
    """
    if f"{name}_low" not in values:
        return interval_decimals(math.nan)
    widths = (values[f"{name}_high"] - values[f"{name}_low"]).astype(float)
    # half of the width, in per cent
    return interval_decimals(50 * float(widths.median()))


def format_fixed(value: float, decimals: int) -> str:
    """Format a number with this many decimals. Zero has no sign."""
    text = f"{value:.{decimals}f}"
    if not float(text):
        text = text.removeprefix("-")
    return _with_minus_sign(text)


def format_count(number: float) -> str:
    """Format a whole number with commas between thousands."""
    return f"{int(number):,}"


def format_number(value: float) -> str:
    """Format a setting such as a learning rate: up to six significant digits."""
    return _with_minus_sign(f"{value:g}")


def format_setting(value: object) -> str:
    """Format the value of a setting: a number as `format_number`, anything else as it is."""
    return format_number(value) if isinstance(value, float) else str(value)


def format_percent(share: float | None, decimals: int = 1) -> str:
    """Format a fraction as a percentage: `93.5 %`."""
    if share is None or pd.isna(share):
        return MISSING_TEXT
    return f"{format_fixed(100 * share, decimals)} %"


def format_percent_interval(low: float, high: float) -> str:
    """Return an interval of a share in brackets after a space; nothing if it is unknown."""
    if pd.isna(low):
        return ""
    ends = [format_percent(end).removesuffix(" %") for end in (low, high)]
    return f" [{ends[0]}, {ends[1]}]"


def format_metric(value: float, metric: str, extra_decimals: int = 0) -> str:
    """Format a value of an axis, or, with an extra decimal, one that is read from a curve."""
    if metric == "accuracy":
        return f"{100 * value:.{extra_decimals}f} %"
    decimals = 1 + 2 * extra_decimals
    return f"{value:.{decimals}f}"


def format_points(difference: float | None, *, sign: bool = True) -> str:
    """Format a difference of fractions in percentage points: `+1.3`, or `1.3` without a plus."""
    if difference is None or pd.isna(difference):
        return MISSING_TEXT
    text = format_fixed(100 * difference, 1)
    return f"+{text}" if sign and difference >= 0 else text


def format_p_value(p: float | None) -> str:
    """Format a p-value with two significant digits, or as `< 0.001`."""
    if p is None or pd.isna(p):
        return MISSING_TEXT
    if p < 0.001:
        return "< 0.001"
    return f"{p:.2g}"


def format_p_equation(name: str, p: float) -> str:
    """Format a p-value with its name: `p = 0.032` or `p < 0.001`."""
    text = format_p_value(p)
    return f"{name} {text}" if text.startswith("<") else f"{name} = {text}"


def format_clock(seconds: float) -> str:
    """Format a duration in whole seconds: `16:15`, or `2:03:10` from one hour on."""
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{whole_seconds:02}"
    return f"{minutes}:{whole_seconds:02}"


def format_duration(seconds: float) -> str:
    """Format a duration with its unit: `4.2 s`, `16:15 min` or `2:03:10 h`."""
    if pd.isna(seconds):
        return MISSING_TEXT
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    clock = format_clock(seconds)
    if round(seconds) >= 3600:
        return f"{clock} h"
    return f"{clock} min"


def format_time(timestamp: str | None) -> str:
    """Format an ISO timestamp to the second: `2025-03-01 12:00:00`."""
    if not timestamp:
        return MISSING_TEXT
    return timestamp[:19].replace("T", " ")


def format_list(values: Iterable[object], limit: int = 8) -> str:
    """Join a few values with commas. Of many, show only the first ones; of none, a dash."""
    texts = list(map(str, values))
    text = ", ".join(texts[:limit])
    if len(texts) > limit:
        text += ", …"
    return text or MISSING_TEXT


def shorten_name(text: object, max_characters: int = 28) -> str:
    """Return a name from the data on one line, without control characters.

    A long one loses its middle.
    """
    line = " ".join(str(text).split())
    for character in set(line):
        if not character.isprintable():
            line = line.replace(character, "\ufffd")
    if len(line) <= max_characters:
        return line
    start = max_characters * 2 // 3
    end = max_characters - start - 1
    return f"{line[:start]}…{line[-end:]}"


def _with_minus_sign(text: str) -> str:
    return text.replace("-", "−")
