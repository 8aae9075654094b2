"""Numbers as shown on the page; what is missing is a dash."""

import pandas as pd


def format_percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None or pd.isna(share) else f"{100 * share:.{digits}f} %"


def format_points(difference: float | None) -> str:
    """A difference of shares in percentage points, signed."""
    return (
        "–"
        if difference is None or pd.isna(difference)
        else f"{100 * difference:+.1f}".replace("-", "−")
    )


def format_p_value(p: float | None) -> str:
    return "–" if p is None or pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.2g}"


def format_duration(seconds: float) -> str:
    """A duration: `4.2 s`, `16:15 min` or `2:03:10 h`."""
    if pd.isna(seconds) or seconds < 59.95:
        return "–" if pd.isna(seconds) else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"
        if minutes >= 60
        else f"{minutes}:{rest:02} min"
    )


def format_time(written: str | None) -> str:
    return (written or "–")[:19].replace("T", " ")
