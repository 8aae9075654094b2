"""Curves over epochs: training and validation of one trial, and validation of all trials."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bioimg.report.plot_style import (
    GREY,
    LINE_PATTERNS,
    add_title,
    draw_legend,
    line_style,
    new_figure,
    set_percent_axis,
)
from bioimg.report.report_context import ReportContext
from bioimg.report.visual_encoding import MAX_LINES, PALETTE

TRAIN_STYLE = {"color": PALETTE[0], "linestyle": LINE_PATTERNS[1], "marker": "s"}
VAL_STYLE = {"color": PALETTE[1], "linestyle": LINE_PATTERNS[0], "marker": "o"}
SELECTED_MARK = {"color": "black", "linestyle": "none", "marker": "o", "markersize": 8}
ENDED_MARK = {
    "color": "black",
    "linestyle": "none",
    "marker": "|",
    "markersize": 15,
    "markeredgewidth": 2,
    "zorder": 4,
}


def trial_curves_figure(report: ReportContext, trial: pd.Series) -> Figure:
    """Draw loss and accuracy of one trial, training and validation, over its planned epochs.

    All such figures of a report have the same axes, so that they can be compared side by side.
    """
    rows = report.analysis.trial_epochs(trial["key"])
    figure, ((loss, accuracy),) = new_figure(1, 2, 3.6, 2.7)
    for axes, metric in ((loss, "loss"), (accuracy, "accuracy")):
        for subset, style in (("train", TRAIN_STYLE), ("val", VAL_STYLE)):
            values = rows[f"{subset}_{metric}"]
            label = report.text(f"figure.{subset}")
            axes.plot(rows["epoch"], values, markersize=3, label=label, **style)
        set_epoch_axis(axes, report, trial["epochs"])
        axes.set_title(report.text(f"measure.{metric}"))
        mark_selected_epoch(axes, report, trial, f"val_{metric}")
        hatch_missing_epochs(axes, report, trial)
    set_axis_limits(report, loss, accuracy)
    accuracy.legend(loc="lower right", frameon=True, framealpha=1, edgecolor="none")
    label = report.trial_label(trial)
    status = status_text(report, trial)
    return add_title(figure, f"{label} ({status})")


def status_text(report: ReportContext, trial: pd.Series) -> str:
    """Say how far a trial went."""
    return report.text(
        f"figure.status_{trial['status']}", run=trial["epochs_run"], epochs=trial["epochs"]
    )


def mark_selected_epoch(axes: Axes, report: ReportContext, trial: pd.Series, column: str) -> None:
    """Draw a ring around the epoch whose checkpoint was tested."""
    if pd.isna(trial["best_val_loss_epoch"]):
        return
    epoch = int(trial["best_val_loss_epoch"])
    label = report.text("figure.selected_epoch", epoch=epoch, epochs=trial["epochs"])
    axes.axvline(epoch, color=GREY, linewidth=0.8, linestyle=LINE_PATTERNS[2], zorder=0)
    rows = report.analysis.trial_epochs(trial["key"])
    selected = rows[rows["epoch"] == epoch]
    ring = {"color": "black", "fillstyle": "none", "markersize": 10}
    axes.plot(selected["epoch"], selected[column], "o", label=label, **ring)


def hatch_missing_epochs(axes: Axes, report: ReportContext, trial: pd.Series) -> None:
    """Hatch the epochs that a stopped or failed trial didn't run."""
    if trial["status"] == "completed":
        return
    start = report.analysis.trial_epochs(trial["key"])["epoch"].max() + 0.5
    end = trial["epochs"] + 0.5
    middle = (start + end) / 2
    axes.axvspan(start, end, facecolor="none", edgecolor="#cccccc", hatch="///", linewidth=0)
    axes.text(
        middle,
        0.5,
        report.text(f"figure.{trial['status']}"),
        transform=axes.get_xaxis_transform(),
        ha="center",
        fontsize=8,
        backgroundcolor="white",
    )


def validation_curves_figure(report: ReportContext) -> Figure:
    """Draw validation loss and accuracy of all trials.

    Each panel shows the trials with the values in its title.
    """
    drawn = report.analysis.ranked_trials.head(MAX_LINES)
    panels = report.titled_panels(drawn)
    figure, grid = new_figure(len(panels), 2, 3.8, 2.6, sharex=True, sharey="col")
    for (title, trials), row in zip(panels, grid, strict=True):
        for axes, column in zip(row, ("val_loss", "val_accuracy"), strict=True):
            for _, trial in trials.iterrows():
                draw_validation_curve(axes, report, trial, column)
            measure = report.text(f"measure.{column}")
            axes.set_title(f"{title}: {measure}" if title else measure)
    for axes in grid[-1]:
        set_epoch_axis(axes, report, drawn["epochs"].max())
    set_axis_limits(report, *grid[0])
    marks = [
        SELECTED_MARK | {"label": report.text("figure.selected")},
        ENDED_MARK | {"label": report.text("figure.stopped")},
    ]
    draw_legend(figure, report, marks)
    left_out = len(report.analysis.ranked_trials) - len(drawn)
    if left_out:
        title = report.text("measure.left_out", left_out=left_out)
        add_title(figure, title, 8, weight="normal")
    return figure


def draw_validation_curve(axes: Axes, report: ReportContext, trial: pd.Series, column: str) -> None:
    """Draw one line, with a large marker at the selected epoch.

    A bar crosses the end of a trial that did not complete.
    """
    rows = report.analysis.trial_epochs(trial["key"])
    colour, line = report.encoding.style_indices(trial)
    style = line_style(colour, line)
    # about ten markers a line, since one at each of many epochs would hide it
    marker_step = max(1, len(rows) // 10)
    axes.plot(rows["epoch"], rows[column], markevery=marker_step, markersize=3.5, **style)
    selected = rows[rows["epoch"] == trial["best_val_loss_epoch"]]
    axes.plot(selected["epoch"], selected[column], markersize=SELECTED_MARK["markersize"], **style)
    if trial["status"] != "completed":
        last = rows.iloc[-1:]
        axes.plot(last["epoch"], last[column], **ENDED_MARK)


def set_axis_limits(report: ReportContext, loss: Axes, accuracy: Axes) -> None:
    """Set the range of all trials.

    The loss axis ends at 4 times the median, so that a diverging trial doesn't stretch it.
    """
    epochs = report.analysis.results.epochs
    highest_loss = epochs[["train_loss", "val_loss"]].max().max()
    highest_shown = min(highest_loss, 4 * epochs["val_loss"].median())
    loss.set_ylim(0, 1.05 * highest_shown)
    lowest_accuracy = epochs[["train_accuracy", "val_accuracy"]].min().min()
    tenth_below = np.floor(10 * lowest_accuracy) / 10
    accuracy.set_ylim(tenth_below, 1.01)
    set_percent_axis(accuracy)


def set_epoch_axis(axes: Axes, report: ReportContext, epochs: int) -> None:
    """Set the range and ticks of the horizontal axis to whole epochs."""
    axes.set_xlim(0.5, epochs + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel(report.text("measure.epoch"))
