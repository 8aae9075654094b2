"""Curves over epochs: training and validation of one trial, and the validation curves of all trials together."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bioimg.report.plot_style import (
    COLOURS,
    GREY,
    LINE_PATTERNS,
    add_title,
    draw_legend,
    line_style,
    new_figure,
    set_percent_axis,
)
from bioimg.report.report_context import ReportContext
from bioimg.report.visual_encoding import MAX_LINES

TRAIN_STYLE = {"color": COLOURS[0], "linestyle": LINE_PATTERNS[1], "marker": "s"}
VAL_STYLE = {"color": COLOURS[1], "linestyle": LINE_PATTERNS[0], "marker": "o"}
SELECTED_MARK = {"color": "black", "linestyle": "none", "marker": "o", "markersize": 8}
ENDED_MARK = {
    "color": "black",
    "linestyle": "none",
    "marker": "|",
    "markersize": 15,
    "markeredgewidth": 2,
    "zorder": 4,
}


def trial_curves_figure(scene: ReportContext, trial: pd.Series) -> Figure:
    """Loss and accuracy of one trial, training and validation, over its planned epochs.

    All such figures of a report have the same axes, so that they can be compared side by side.
    """
    rows = scene.epoch_rows(trial)
    figure, ((loss, accuracy),) = new_figure(1, 2, 3.6, 2.7)
    for axes, metric in ((loss, "loss"), (accuracy, "accuracy")):
        for part, its in (("train", TRAIN_STYLE), ("val", VAL_STYLE)):
            axes.plot(
                rows["epoch"],
                rows[f"{part}_{metric}"],
                markersize=3,
                label=scene.text(f"figure.{part}"),
                **its,
            )
        set_epoch_axis(axes, scene, trial["epochs"])
        axes.set_title(scene.text(f"measure.{metric}"))
        mark_selected_epoch(axes, rows, trial, f"val_{metric}", scene)
        hatch_missing_epochs(axes, rows, trial, scene)
    set_axis_limits(scene, loss, accuracy)
    accuracy.legend(loc="lower right", frameon=True, framealpha=1, edgecolor="none")
    return add_title(figure, f"{scene.trial_label(trial)} ({status_text(trial, scene)})")


def status_text(trial: pd.Series, scene: ReportContext) -> str:
    return scene.text(
        f"figure.status_{trial['status']}", run=trial["epochs_run"], epochs=trial["epochs"]
    )


def mark_selected_epoch(
    axes: Axes, rows: pd.DataFrame, trial: pd.Series, column: str, scene: ReportContext
) -> None:
    """A ring around the epoch whose checkpoint was tested."""
    if pd.isna(trial["best_val_loss_epoch"]):
        return
    epoch = int(trial["best_val_loss_epoch"])
    text = scene.text("figure.selected_epoch", epoch=epoch, epochs=trial["epochs"])
    axes.axvline(epoch, color=GREY, linewidth=0.8, linestyle=LINE_PATTERNS[2], zorder=0)
    value = rows.loc[rows["epoch"] == epoch, column]
    axes.plot(
        [epoch] * len(value), value, "o", markersize=10, fillstyle="none", color="black", label=text
    )


def hatch_missing_epochs(
    axes: Axes, rows: pd.DataFrame, trial: pd.Series, scene: ReportContext
) -> None:
    """Hatch the epochs that a stopped or failed trial didn't run."""
    if trial["status"] != "completed":
        start = rows["epoch"].max() + 0.5
        axes.axvspan(
            start,
            trial["epochs"] + 0.5,
            facecolor="none",
            edgecolor="#cccccc",
            hatch="///",
            linewidth=0,
        )
        centre = (start + trial["epochs"] + 0.5) / 2
        label = scene.text(f"figure.{trial['status']}")
        axes.text(
            centre,
            0.5,
            label,
            transform=axes.get_xaxis_transform(),
            ha="center",
            fontsize=8,
            backgroundcolor="white",
        )


def validation_curves_figure(scene: ReportContext) -> Figure:
    """Validation loss and accuracy of all trials; each panel shows the trials with the values in its title."""
    drawn = scene.ranked_trials.head(MAX_LINES)
    shown = scene.titled_panels(drawn)
    figure, grid = new_figure(len(shown), 2, 3.8, 2.6, sharex=True, sharey="col")
    for (name, trials), (loss, accuracy) in zip(shown, grid, strict=True):
        for axes, column in ((loss, "val_loss"), (accuracy, "val_accuracy")):
            for _, trial in trials.iterrows():
                draw_validation_curve(
                    axes,
                    scene.epoch_rows(trial),
                    trial,
                    column,
                    line_style(scene.encoding.style_indices(trial)),
                )
            axes.set_title(
                f"{name}: {scene.text(f'measure.{column}')}"
                if name
                else scene.text(f"measure.{column}")
            )
    for axes in grid[-1]:
        set_epoch_axis(axes, scene, drawn["epochs"].max())
    set_axis_limits(scene, *grid[0])
    draw_legend(
        figure,
        scene,
        [
            SELECTED_MARK | {"label": scene.text("figure.selected")},
            ENDED_MARK | {"label": scene.text("figure.stopped")},
        ],
    )
    if len(scene.ranked_trials) > len(drawn):
        return add_title(
            figure,
            scene.text("measure.left_out", left_out=len(scene.ranked_trials) - len(drawn)),
            8,
            weight="normal",
        )
    return figure


def draw_validation_curve(
    axes: Axes, rows: pd.DataFrame, trial: pd.Series, column: str, its: dict[str, Any]
) -> None:
    """One line, with a large marker at the selected epoch and a bar across its end if the trial did not complete."""
    selected = rows[rows["epoch"] == trial["best_val_loss_epoch"]]
    axes.plot(rows["epoch"], rows[column], markevery=max(1, len(rows) // 10), markersize=3.5, **its)
    axes.plot(selected["epoch"], selected[column], markersize=SELECTED_MARK["markersize"], **its)
    if trial["status"] != "completed":
        axes.plot(rows["epoch"].iloc[-1:], rows[column].iloc[-1:], **ENDED_MARK)


def set_axis_limits(scene: ReportContext, loss: Axes, accuracy: Axes) -> None:
    """Set the range of all trials; the loss axis is cut at 4 times the median, so that a diverging trial doesn't stretch it."""
    epochs = scene.results.epochs
    losses, accuracies = (
        epochs[["train_loss", "val_loss"]],
        epochs[["train_accuracy", "val_accuracy"]],
    )
    loss.set_ylim(0, 1.05 * min(losses.max().max(), 4 * epochs["val_loss"].median()))
    accuracy.set_ylim(np.floor(10 * accuracies.min().min()) / 10, 1.01)
    set_percent_axis(accuracy)


def set_epoch_axis(axes: Axes, scene: ReportContext, epochs: int) -> None:
    axes.set_xlim(0.5, epochs + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel(scene.text("measure.epoch"))
