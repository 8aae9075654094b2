"""Figures of the outcome: effects, accuracy against time, confusion, calibration, mistakes."""

import math
import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter, StrMethodFormatter

from bioimg.report.analysis import MAX_MISTAKES
from bioimg.report.formatting import format_list, shorten_name
from bioimg.report.plot_style import (
    GREY,
    LINE_PATTERNS,
    add_title,
    draw_legend,
    line_style,
    new_figure,
    set_percent_axis,
    wrap_text,
)
from bioimg.report.report_context import ReportContext
from bioimg.report.visual_encoding import MAX_PANELS, PALETTE
from bioimg.results import statistics

MAX_EFFECTS = 24
MAX_POINTS = 500
CALIBRATION_COLUMNS = 3
MISTAKE_COLUMNS = 4
DARK_SHARE = 0.55
"""The share from which a cell of a confusion matrix is so dark that its text is white."""


def effects_figure(report: ReportContext, effects: pd.DataFrame) -> Figure:
    """Draw how each level of an axis, and each pair of levels, changes the test accuracy.

    effects: from `statistics.estimate_effects`, without unknown ones.
    """
    effects = effects.iloc[:MAX_EFFECTS][::-1]
    figure, ((axes,),) = new_figure(1, 1, 7.2, 0.32 * len(effects) + 0.7)
    labels = []
    for height, (_, row) in enumerate(effects.iterrows()):
        draw_effect(axes, height, row)
        labels.append(report.effect_label(row))
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(effects)), labels)
    axes.set(
        ylim=(-0.6, len(effects) - 0.4),
        xlabel=report.text("figure.effect", score=report.score_name),
    )
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_formatter(FuncFormatter(_format_tick_points))
    return add_title(figure, report.text("figure.effects"), 8, weight="normal")


def draw_effect(axes: Axes, height: int, row: pd.Series) -> None:
    """Draw one effect with its 95 % interval. An interaction is a grey diamond."""
    colour = PALETTE[0]
    marker = "o"
    size = 6
    is_interaction = ":" in row["axis"]
    if is_interaction:
        colour = GREY
        marker = "D"
        size = 5
    axes.hlines(height, row["low"], row["high"], color=colour, linewidth=1.6)
    axes.plot(row["effect"], height, marker, color=colour, markersize=size)


def _format_tick_points(value: float, position: int | None) -> str:
    return f"{100 * value:+.0f}" if value else "0"


def score_against_time_figure(report: ReportContext, trials: pd.DataFrame) -> Figure:
    """Draw the score of completed trials on the test images against the time they took.

    trials: rows of the comparison of single trials.
    """
    drawn = trials.head(MAX_POINTS)
    panels = report.titled_panels(drawn)
    figure, grid = new_figure(1, len(panels), 3.4, 3.2, sharex=True, sharey=True)
    for (title, rows), axes in zip(panels, grid[0], strict=True):
        for _, trial in rows.iterrows():
            draw_measured_trial(axes, report, trial)
        axes.set_title(title)
        axes.set_xlabel(report.text("figure.seconds"))
    first = grid[0, 0]
    first.set_ylabel(report.text(f"measure.{report.analysis.test_column}"))
    set_time_axis(first, drawn["recipe_seconds"])
    set_percent_axis(first)
    draw_legend(figure, report)
    title = "; ".join(measured_notes(report, trials))
    return add_title(figure, title, 8, weight="normal")


def set_time_axis(axes: Axes, seconds: pd.Series) -> None:
    """Make the horizontal axis logarithmic if the times differ by more than a factor of ten."""
    if seconds.min() > 0 and seconds.max() > 10 * seconds.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        axes.set_xlim(left=0)


def draw_measured_trial(axes: Axes, report: ReportContext, trial: pd.Series) -> None:
    """Draw one trial with the interval of its score."""
    name = report.analysis.test_column
    colour, line = report.encoding.style_indices(trial)
    style = line_style(colour, line)
    style["linestyle"] = "none"
    seconds = trial["recipe_seconds"]
    axes.vlines(seconds, trial[f"{name}_low"], trial[f"{name}_high"], color=style["color"])
    axes.plot(seconds, trial[name], markersize=8, **style)


def measured_notes(report: ReportContext, measured: pd.DataFrame) -> list[str]:
    """Say what the bars are, and which trials aren't shown."""
    images = format_list(measured["test_images"].unique())
    notes = [report.text("figure.interval", n=images)]
    if len(measured) < len(report.analysis.trials):
        statuses = report.analysis.trials["status"]
        stopped = statuses.eq("stopped").sum()
        failed = statuses.eq("failed").sum()
        notes.append(report.text("figure.not_shown", stopped=stopped, failed=failed))
    left_out = len(measured) - MAX_POINTS
    if left_out > 0:
        notes.append(report.text("measure.left_out", left_out=left_out))
    return notes


def confusion_figure(report: ReportContext, trial: pd.Series) -> Figure:
    """Draw the counts of test images by label and prediction, shaded by the share of the label."""
    counts = statistics.confusion_counts(report.analysis.results, trial["key"])
    label_counts = counts.sum(axis=1)
    # a label without test images has a row of zeros
    divisors = np.maximum(label_counts, 1)
    shares = counts / divisors[:, np.newaxis]
    side = max(3.2, 1.6 + 0.45 * len(counts))
    figure, ((axes,),) = new_figure(1, 1, side + 1, side)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for label, prediction in np.argwhere(counts):
        is_dark = shares[label, prediction] > DARK_SHARE
        colour = "white" if is_dark else "black"
        text = counts[label, prediction]
        axes.text(prediction, label, text, ha="center", va="center", fontsize=8, color=colour)
    ticks = range(len(counts))
    axes.set_xticks(ticks, report.classes, rotation=40, ha="right", rotation_mode="anchor")
    labels = [f"{name} ({n})" for name, n in zip(report.classes, label_counts, strict=True)]
    axes.set_yticks(ticks, labels)
    axes.set(xlabel=report.text("measure.prediction"), ylabel=report.text("measure.label"))
    axes.grid(False)
    bar = figure.colorbar(image, shrink=0.8, format=PercentFormatter(1, symbol=" %"))
    bar.set_label(report.text("figure.share"), fontsize=8)
    bar.outline.set_visible(False)  # type: ignore[operator]
    measure = report.text("measure.test_accuracy")
    percentage = 100 * trial["test_accuracy"]
    return add_title(figure, f"{report.trial_label(trial)}: {measure} {percentage:.1f} %")


def calibration_figure(report: ReportContext) -> Figure:
    """Draw how often predictions of a given confidence are correct, for the best trials."""
    drawn = report.analysis.tested_trials.head(MAX_PANELS)
    columns = min(CALIBRATION_COLUMNS, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure, grid = new_figure(rows, columns, 2.8, 2.8, sharex=True, sharey=True)
    for axes, (_, trial) in zip(grid.flat, drawn.iterrows(), strict=False):
        draw_reliability(axes, report, trial)
    unused = grid.flat[len(drawn) :]
    for axes in unused:
        axes.set_visible(False)
    bottom_row = grid[-1]
    for axes in bottom_row:
        axes.set_xlabel(report.text("figure.confidence"))
    left_column = grid[:, 0]
    for axes in left_column:
        axes.set_ylabel(report.text("figure.share_correct"))
    return figure


def draw_reliability(axes: Axes, report: ReportContext, trial: pd.Series) -> None:
    """Draw one panel. The area of a point grows with the number of images in its bin."""
    table = statistics.calibration_table(report.analysis.results, trial["key"])
    bins = table[table["n"] > 0]
    x = bins["confidence"]
    y = bins["accuracy"]
    area = 15 + 300 * bins["n"] / bins["n"].sum()
    # perfect calibration is the diagonal
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=LINE_PATTERNS[1])
    axes.plot(x, y, color=PALETTE[0], linewidth=1)
    axes.scatter(x, y, s=area, color=PALETTE[0], edgecolor="white", zorder=3)
    error = report.text("figure.calibration_error", ece=table.attrs["ece"])
    axes.text(1.02, 0.03, error, ha="right", fontsize=7.5)
    axes.set(xlim=(0, 1.04), ylim=(0, 1.04), aspect="equal")
    title = wrap_text(report.trial_label(trial), 2.4, 8)
    axes.set_title(title, fontsize=8)


def mistakes_figure(report: ReportContext, trial: pd.Series) -> Figure:
    """Draw the most confident wrong predictions on test images."""
    mistakes = report.analysis.wrong_predictions(trial["key"])
    drawn = mistakes.head(MAX_MISTAKES)
    rows = math.ceil(len(drawn) / MISTAKE_COLUMNS)
    figure, grid = new_figure(rows, MISTAKE_COLUMNS, 1.7, 2.0)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (_, mistake) in zip(grid.flat, drawn.iterrows(), strict=False):
        draw_mistake(axes, report, mistake)
    images = len(report.analysis.test_predictions(trial["key"]))
    title = report.text("figure.mistakes", n=len(drawn), wrong=len(mistakes), images=images)
    return add_title(figure, f"{title}: {report.trial_label(trial)}")


def draw_mistake(axes: Axes, report: ReportContext, mistake: pd.Series) -> None:
    """Draw one image with its label and prediction, or its path if the image isn't available."""
    label = report.classes[mistake["label"]]
    prediction = report.classes[mistake["prediction"]]
    title = report.text(
        "figure.mistake",
        label=shorten_name(label, 16),
        prediction=shorten_name(prediction, 16),
        probability=100 * mistake["probability"],
    )
    axes.set_title(title, fontsize=7.5)
    images = report.images or {}
    path = mistake["image"]
    pixels = images.get(path)
    if pixels is not None:
        axes.imshow(pixels)
        return
    grey_pixel = np.full((1, 1, 3), 232, np.uint8)
    axes.imshow(grey_pixel)
    message = report.text("figure.image_not_found")
    short_path = textwrap.fill(shorten_name(path, 60), 18)
    text = f"{message}\n\n{short_path}"
    axes.text(0, 0, text, ha="center", va="center", fontsize=6, color=GREY)
