"""The geometry of the page's charts, in SVG units. Their look is in the style sheet."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bioimg.report.formatting import format_metric
from bioimg.report.report_context import ReportContext
from bioimg.report.tested_set import TestedSet
from bioimg.report.visual_encoding import MAX_LINES, PALETTE, VisualEncoding

CURVE_METRICS = ("loss", "accuracy")
CHART_WIDTH = 520
CHART_HEIGHT = 250
LEFT_MARGIN = 56
RIGHT_MARGIN = 12
TOP_MARGIN = 10
BOTTOM_MARGIN = 30
MAX_EPOCH_TICKS = 10
MAX_METRIC_TICKS = 6

CHART_FRAME = {
    "width": CHART_WIDTH,
    "height": CHART_HEIGHT,
    "left": LEFT_MARGIN,
    "right": CHART_WIDTH - RIGHT_MARGIN,
    "bottom": CHART_HEIGHT - BOTTOM_MARGIN,
}
"""The frame of a chart, for the template."""


@dataclass(frozen=True)
class LinearScale:
    """Map values to positions along one direction."""

    low: float
    high: float
    start: float
    end: float

    @property
    def span(self) -> float:
        """The range of values; 1 if it is a single value."""
        return (self.high - self.low) or 1

    def __call__(self, value: float) -> float:
        share = (value - self.low) / self.span
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, limit: int) -> list[float]:
        """Return at most `limit` values in the range, in steps of 1, 2 or 5 times a power of 10."""
        smallest_step = self.span / limit
        power = 10.0 ** np.floor(np.log10(smallest_step))
        steps = power * np.array([1, 2, 5, 10, 20])
        step = steps[self.span / steps <= limit][0]
        # the margins keep a multiple that rounding has moved just outside the range
        first = np.ceil(self.low / step - 1e-9)
        multiples = np.arange(first, self.high / step + 1e-9)
        values = step * multiples
        # adding zero removes the sign of -0.0
        return [round(float(value), 10) + 0.0 for value in values]


def curve_panels(report: ReportContext) -> list[dict[str, Any]]:
    """Lay out the validation curves: a panel of loss and of accuracy for each group of trials.

    All panels have the same scales.
    """
    drawn = report.analysis.ranked_trials.head(MAX_LINES)
    if drawn.empty:
        return []
    last_epoch = max(2, int(drawn["epochs"].max()))
    epoch_scale = LinearScale(1, last_epoch, LEFT_MARGIN + 6, CHART_WIDTH - RIGHT_MARGIN)
    panels = []
    for title, trials in report.titled_panels(drawn):
        for metric in CURVE_METRICS:
            panels.append(curve_panel(report, title, trials, metric, epoch_scale))
    return panels


def curve_panel(
    report: ReportContext, title: str, trials: pd.DataFrame, metric: str, epoch_scale: LinearScale
) -> dict[str, Any]:
    """Lay out one panel: its ticks (position and text) and its lines."""
    value_scale = metric_scale(report.analysis.results.epochs, metric)
    epoch_ticks = []
    for epoch in epoch_scale.ticks(MAX_EPOCH_TICKS):
        if epoch.is_integer():
            epoch_ticks.append((epoch_scale(epoch), f"{epoch:.0f}"))
    value_ticks = []
    for value in value_scale.ticks(MAX_METRIC_TICKS):
        value_ticks.append((value_scale(value), format_metric(value, metric)))
    lines = []
    for _, trial in trials.iterrows():
        lines.append(trial_curve(report, trial, metric, epoch_scale, value_scale))
    return {
        "title": title,
        "metric": metric,
        "epoch_ticks": epoch_ticks,
        "value_ticks": value_ticks,
        "lines": lines,
    }


def metric_scale(epochs: pd.DataFrame, metric: str) -> LinearScale:
    """Return the scale of all values of a metric.

    Loss goes from 0 to the highest validation loss, but at most to 4 times the median, so that a
    diverging trial doesn't flatten the others. Accuracy goes from the tenth below the lowest one
    to 1.
    """
    values = epochs[f"val_{metric}"].dropna()
    low = 0.0
    high = 1.0
    if len(values) and metric == "accuracy":
        tenth_below = np.floor(10 * values.min()) / 10
        low = min(0.9, float(tenth_below))
    elif len(values):
        highest_shown = min(values.max(), 4 * values.median())
        high = 1.05 * float(highest_shown)
    return LinearScale(low, high or 1.0, CHART_HEIGHT - BOTTOM_MARGIN, TOP_MARGIN)


def trial_curve(
    report: ReportContext,
    trial: pd.Series,
    metric: str,
    epoch_scale: LinearScale,
    value_scale: LinearScale,
) -> dict[str, Any]:
    """Lay out one trial: two polylines, and the points of the selected epoch and an early end."""
    rows = report.analysis.trial_epochs(trial["key"])
    validation = curve_points(rows, f"val_{metric}", epoch_scale, value_scale)
    training = curve_points(rows, f"train_{metric}", epoch_scale, value_scale)
    selected = np.flatnonzero(rows["epoch"] == trial["best_val_loss_epoch"])
    return {
        "key": trial["key"],
        "css_classes": line_css_classes(report.encoding, trial),
        "validation": polyline_points(validation),
        "training": polyline_points(training),
        "selected": validation[selected[0]] if len(selected) else None,
        "ended": validation[-1] if trial["status"] != "completed" else None,
        "points": readable_points(rows, metric, validation),
    }


def curve_points(
    rows: pd.DataFrame, column: str, epoch_scale: LinearScale, value_scale: LinearScale
) -> list[tuple[float, float]]:
    """Return the positions of a column's values. Those above the panel lie on its upper edge."""
    values = rows[column].clip(upper=value_scale.high)
    points = []
    for epoch, value in zip(rows["epoch"], values, strict=True):
        points.append((epoch_scale(epoch), value_scale(value)))
    return points


def readable_points(
    rows: pd.DataFrame, metric: str, points: Sequence[tuple[float, float]]
) -> list[tuple[float, float, int, str]]:
    """Return position, epoch and text of each known validation value."""
    values = rows[f"val_{metric}"]
    readable = []
    for (x, y), epoch, value in zip(points, rows["epoch"], values, strict=True):
        if not np.isnan(value):
            text = format_metric(value, metric, extra_decimals=1)
            readable.append((x, y, int(epoch), text))
    return readable


def line_css_classes(encoding: VisualEncoding, trial: pd.Series) -> str:
    """Return the classes of the style sheet: c0 to c6 for colours, l0 to l3 for line styles."""
    colour, style = encoding.style_indices(trial)
    return f"{colour_css_class(colour)} {line_style_css_class(style)}"


def colour_css_class(index: int) -> str:
    """Return the class of a colour."""
    return f"c{index % len(PALETTE)}"


def line_style_css_class(index: int) -> str:
    """Return the class of a line style."""
    return f"l{index}"


def polyline_points(points: Iterable[tuple[float, float]]) -> str:
    """Return the `points` of a polyline. Unknown values are left out."""
    return " ".join(f"{x:g},{y:g}" for x, y in points if not np.isnan(y))


def home_and_away(report: ReportContext, tested: TestedSet) -> dict[str, Any]:
    """Lay out a line for each recipe, from its score on test images to that on an external set."""
    columns = ["score_home", "score_away"]
    scores = tested.scores[columns]
    low = float(np.floor(10 * np.nanmin(scores.to_numpy())) / 10)
    scale = LinearScale(min(0.9, low), 1.0, CHART_HEIGHT - BOTTOM_MARGIN, TOP_MARGIN)
    ticks = [(scale(value), format_metric(value, "accuracy")) for value in scale.ticks(6)]
    home, away = LEFT_MARGIN + 60, CHART_WIDTH - 80
    lines = []
    for key, (at_home, there) in scores.iterrows():
        points = [(home, scale(at_home)), (away, scale(there))]
        trial: Any = report.analysis.first_trials.loc[str(key)]
        css_classes = line_css_classes(report.encoding, trial)
        lines.append(
            {"css_classes": css_classes, "points": polyline_points(points), "ends": points}
        )
    return {"home": home, "away": away, "ticks": ticks, "lines": lines}


def interval_marks(
    rows: pd.DataFrame, column: str, low: str = "low", high: str = "high", zero: bool = True
) -> list[dict[str, float] | None]:
    """Lay out the interval of each row on a common scale from 0 to 100.

    Returns:
        For each row the positions `middle`, `low`, `high` and, with `zero`, that of zero; None if
        the middle is unknown.
    """
    numbers = rows[[column, low, high]].astype(float)
    numbers = numbers.set_axis(["middle", "low", "high"], axis=1)
    numbers["low"] = numbers["low"].fillna(numbers["middle"])
    numbers["high"] = numbers["high"].fillna(numbers["middle"])
    if zero:
        numbers["zero"] = 0.0
    scale = LinearScale(numbers.min().min(), numbers.max().max(), 3, 97)
    return [interval_mark(row, scale) for row in numbers.to_dict("records")]


def interval_mark(row: dict[Any, float], scale: LinearScale) -> dict[str, float] | None:
    """Return the positions of one interval; None if its middle is unknown."""
    if np.isnan(row["middle"]):
        return None
    return {str(name): scale(value) for name, value in row.items()}
