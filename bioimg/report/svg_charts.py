"""The geometry of the page's charts, in SVG units; their look is in the style sheet."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bioimg.report.report_context import ReportContext
from bioimg.report.visual_encoding import MAX_LINES, VisualEncoding

CURVE_METRICS = ("loss", "accuracy")


@dataclass(frozen=True)
class LinearScale:
    """Maps values to positions along one direction."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, most: int) -> list[float]:
        """At most `most` round values in the range, in steps of 1, 2 or 5 times a power of ten."""
        span = (self.high - self.low) or 1
        power = 10.0 ** np.floor(np.log10(span / most))
        step = next(power * m for m in (1, 2, 5, 10, 20) if span / (power * m) <= most)
        first = np.ceil(self.low / step - 1e-9)
        return [round(float(step * k), 10) + 0.0 for k in np.arange(first, self.high / step + 1e-9)]


CHART_WIDTH, CHART_HEIGHT = 520, 250
LEFT_MARGIN, RIGHT_MARGIN, TOP_MARGIN, BOTTOM_MARGIN = 56, 12, 10, 30


def curve_panels(scene: ReportContext) -> list[dict[str, Any]]:
    """The panels of validation curves: loss and accuracy for each group of trials, all on the same scales."""
    drawn = scene.ranked_trials.head(MAX_LINES)
    if drawn.empty:
        return []
    across = LinearScale(
        1, max(2, int(drawn["epochs"].max())), LEFT_MARGIN + 6, CHART_WIDTH - RIGHT_MARGIN
    )
    scales = {metric: metric_scale(scene.results.epochs, metric) for metric in CURVE_METRICS}
    return [
        {
            "title": title,
            "metric": metric,
            "across": [
                (across(tick), f"{tick:.0f}") for tick in across.ticks(10) if tick == int(tick)
            ],
            "up": [
                (scales[metric](tick), format_metric(tick, metric))
                for tick in scales[metric].ticks(6)
            ],
            "lines": [
                trial_curve(scene, trial, metric, across, scales[metric])
                for _, trial in trials.iterrows()
            ],
        }
        for title, trials in scene.titled_panels(drawn)
        for metric in CURVE_METRICS
    ]


def metric_scale(epochs: pd.DataFrame, metric: str) -> LinearScale:
    """Loss from 0 to the highest validation loss, at most 4 times the median; accuracy from the tenth below the lowest to 1."""
    values = epochs[f"val_{metric}"].dropna()
    if metric == "accuracy":
        low, high = (float(np.floor(10 * values.min()) / 10), 1.0) if len(values) else (0.0, 1.0)
    else:
        low, high = (
            0.0,
            float(min(values.max(), 4 * values.median())) * 1.05 if len(values) else 1.0,
        )
    return LinearScale(min(low, 0.9), high or 1.0, CHART_HEIGHT - BOTTOM_MARGIN, TOP_MARGIN)


def trial_curve(
    scene: ReportContext, trial: pd.Series, metric: str, across: LinearScale, up: LinearScale
) -> dict[str, Any]:
    """One trial: its two polylines, the point of the selected epoch and, if it ended early, the point where it did."""
    rows = scene.epoch_rows(trial)
    xs = [across(epoch) for epoch in rows["epoch"]]
    val, train = (
        [up(min(value, up.high)) for value in rows[f"{part}_{metric}"]] for part in ("val", "train")
    )
    points = list(zip(xs, val, strict=True))
    selected = np.flatnonzero(rows["epoch"] == trial["best_val_loss_epoch"])
    return {
        "key": trial["key"],
        "look": line_css_classes(scene.encoding, trial),
        "val": polyline_points(points),
        "train": polyline_points(zip(xs, train, strict=True)),
        "selected": points[selected[0]] if len(selected) else None,
        "ended": points[-1] if trial["status"] != "completed" else None,
        "points": [
            (*point, int(epoch), format_metric(value, metric, 1))
            for point, epoch, value in zip(
                points, rows["epoch"], rows[f"val_{metric}"], strict=True
            )
            if not np.isnan(value)
        ],
    }


def line_css_classes(encoding: VisualEncoding, trial: pd.Series) -> str:
    """The classes of the style sheet: c0 to c6 for colours, l0 to l3 for line styles."""
    colour, style = encoding.style_indices(trial)
    return f"c{colour % 7} l{style}"


def polyline_points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points if not np.isnan(y))


def format_metric(value: float, metric: str, more: int = 0) -> str:
    return f"{100 * value:.{more}f} %" if metric == "accuracy" else f"{value:.{1 + 2 * more}f}"


def interval_marks(
    rows: pd.DataFrame, column: str, low: str = "low", high: str = "high", zero: bool = True
) -> list[dict | None]:
    """For each row its interval and middle on a common scale from 0 to 100, with the position of zero; None if unknown."""
    numbers = rows[[column, low, high]].astype(float).set_axis(["middle", "low", "high"], axis=1)
    numbers = numbers.assign(
        low=numbers["low"].fillna(numbers["middle"]), high=numbers["high"].fillna(numbers["middle"])
    )
    ends = [numbers["low"].min(), numbers["high"].max(), *([0.0] if zero else [])]
    places = LinearScale(min(ends), max(ends), 3, 97)
    return [
        {name: places(value) for name, value in {**row, **({"zero": 0.0} if zero else {})}.items()}
        if not np.isnan(row["middle"])
        else None
        for row in numbers.to_dict("records")
    ]
