"""Draw the validation score of each recipe against the values of tuned fields."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bioimg.report.formatting import format_setting
from bioimg.report.plot_style import (
    add_title,
    draw_legend,
    line_style,
    new_figure,
    set_percent_axis,
)
from bioimg.report.report_context import ReportContext
from bioimg.report.translation import setting_name

CHOSEN_MARKER_SIZE = 8
WIDE_PANEL, NARROW_PANEL = 6.4, 3.8
"""Widths in inches; the legend beside the panels takes a part of them."""


def tuning_figure(report: ReportContext) -> Figure:
    """Draw one line per recipe, with a large marker at its chosen value.

    Each tuned field has a column of panels. A point is the mean over folds; of several combinations
    with the same value of that field, it is the one with the lowest validation loss.
    """
    panels = report.titled_panels(report.analysis.first_trials)
    fields = report.analysis.tuned_fields
    size = (len(panels), len(fields))
    width = WIDE_PANEL if len(fields) == 1 else NARROW_PANEL
    figure, grid = new_figure(*size, width, 2.8, sharex="col", sharey=True)
    for (title, trials), row in zip(panels, grid, strict=True):
        for axes, field in zip(row, fields, strict=True):
            for _, trial in trials.iterrows():
                draw_tried_values(axes, report, trial, field)
            axes.set_title(title)
    for axes, field in zip(grid[-1], fields, strict=True):
        set_value_axis(axes, report, field)
    for row in grid:
        row[0].set_ylabel(report.text("measure.val_score"))
        set_percent_axis(row[0])
    mark = {"linestyle": "none", "marker": "o", "color": "grey", "markersize": CHOSEN_MARKER_SIZE}
    draw_legend(figure, report, [mark | {"label": report.text("figure.chosen_value")}])
    return add_title(figure, report.text("figure.tuning"), 8, weight="normal")


def draw_tried_values(axes: Axes, report: ReportContext, trial: pd.Series, field: str) -> None:
    """Draw the line of one recipe, whose first trial this is."""
    tried = report.analysis.tried_values
    tried = tried[tried["key"].eq(trial["key"]) & tried["completed"].gt(0)]
    combinations = tried.groupby(list(report.analysis.tuned_fields), sort=False)
    means = combinations[["best_val_loss", "val_score", "chosen"]].mean().reset_index()
    means = means.sort_values("best_val_loss", kind="stable").drop_duplicates(field)
    positions = value_positions(report, field)
    means = means.assign(position=means[field].map(positions)).sort_values("position")
    style = line_style(*report.encoding.style_indices(trial))
    axes.plot(means["position"], means["val_score"], markersize=3.5, **style)
    chosen = means[means["chosen"].gt(0)]
    style["linestyle"] = "none"
    axes.plot(chosen["position"], chosen["val_score"], markersize=CHOSEN_MARKER_SIZE, **style)


def value_positions(report: ReportContext, field: str) -> dict[object, int]:
    """Return where the values of a field are on the horizontal axis, numbers in their order."""
    values = report.analysis.tried_values[field]
    ordered = values.sort_values() if pd.api.types.is_numeric_dtype(values) else values
    return {value: position for position, value in enumerate(ordered.unique())}


def set_value_axis(axes: Axes, report: ReportContext, field: str) -> None:
    """Name the field and its values below the horizontal axis."""
    positions = value_positions(report, field)
    labels = [format_setting(value) for value in positions]
    axes.set_xticks(range(len(positions)), labels)
    axes.set_xlim(-0.4, len(positions) - 0.6)
    axes.set_xlabel(setting_name(field, report.lang))
