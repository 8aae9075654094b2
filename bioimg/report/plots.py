"""Figures of the outcome: effects, accuracy against time, confusion, calibration, mistakes."""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter, StrMethodFormatter

from bioimg.report.plot_style import (
    COLOURS,
    GREY,
    LINE_PATTERNS,
    add_title,
    draw_legend,
    line_style,
    new_figure,
    set_percent_axis,
    wrap_text,
)
from bioimg.report.report_context import ReportContext, shorten_name
from bioimg.report.table_notes import format_list
from bioimg.report.visual_encoding import MAX_PANELS
from bioimg.results import statistics

MAX_EFFECTS = 24
MAX_MISTAKES = 12
MAX_POINTS = 500


def effects_figure(scene: ReportContext, found: pd.DataFrame) -> Figure:
    """How each level of an axis, and each pair of levels, changes the test accuracy, with 95 % intervals."""
    found = found.iloc[:MAX_EFFECTS][::-1]
    figure, ((axes,),) = new_figure(1, 1, 7.2, 0.32 * len(found) + 0.7)
    for place, (_, row) in enumerate(found.iterrows()):
        main = ":" not in row["axis"]
        axes.hlines(
            place, row["low"], row["high"], color=COLOURS[0] if main else GREY, linewidth=1.6
        )
        axes.plot(
            row["effect"],
            place,
            "o" if main else "D",
            color=COLOURS[0] if main else GREY,
            markersize=6 if main else 5,
        )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(found)), [scene.effect_label(row) for _, row in found.iterrows()])
    axes.set(ylim=(-0.6, len(found) - 0.4), xlabel=scene.text("figure.effect"))
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:+.0f}" if value else "0")
    )
    return add_title(figure, scene.text("figure.effects"), 8, weight="normal")


def accuracy_against_time_figure(scene: ReportContext) -> Figure:
    """Test accuracy of the completed trials against their training time."""
    points = scene.measured_trials.head(MAX_POINTS)
    shown, seconds = scene.titled_panels(points), points["train_seconds"]
    figure, grid = new_figure(1, len(shown), 3.4, 3.2, sharex=True, sharey=True)
    for (name, trials), axes in zip(shown, grid[0], strict=True):
        for _, trial in trials.iterrows():
            draw_measured_trial(axes, trial, line_style(scene.encoding.style_indices(trial)))
        axes.set_title(name)
        axes.set_xlabel(scene.text("figure.train_seconds"))
    grid[0, 0].set_ylabel(scene.text("measure.test_accuracy"))
    if seconds.min() > 0 and seconds.max() > 10 * seconds.min():
        grid[0, 0].set_xscale("log")
        grid[0, 0].xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        grid[0, 0].set_xlim(left=0)
    set_percent_axis(grid[0, 0])
    draw_legend(figure, scene)
    return add_title(figure, "; ".join(omission_notes(scene)), 8, weight="normal")


def draw_measured_trial(axes: Axes, trial: pd.Series, its: dict[str, Any]) -> None:
    """One trial with the interval of its accuracy."""
    low, high = statistics.wilson_interval(
        round(trial["test_accuracy"] * trial["test_images"]), int(trial["test_images"])
    )
    axes.vlines(trial["train_seconds"], low, high, color=its["color"], linewidth=1)
    axes.plot(
        trial["train_seconds"], trial["test_accuracy"], **{**its, "linestyle": "none"}, markersize=8
    )


def omission_notes(scene: ReportContext) -> list[str]:
    """Notes: what the bars are, and which trials aren't shown."""
    counts = scene.trials["status"].value_counts()
    rest = len(scene.measured_trials) - MAX_POINTS
    notes = [
        scene.text("figure.interval", n=format_list(scene.measured_trials["test_images"].unique()))
    ]
    if len(scene.measured_trials) < len(scene.trials):
        notes.append(
            scene.text(
                "figure.not_shown", stopped=counts.get("stopped", 0), failed=counts.get("failed", 0)
            )
        )
    if rest > 0:
        notes.append(scene.text("measure.left_out", left_out=rest))
    return notes


def confusion_figure(scene: ReportContext, trial: pd.Series) -> Figure:
    """Counts of test images by label and prediction, shaded by their share of the label's images."""
    counts = statistics.confusion_counts(scene.results, trial["key"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(3.2, 1.6 + 0.45 * len(counts))
    figure, ((axes,),) = new_figure(1, 1, side + 1, side)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        dark = "white" if shares[row, column] > 0.55 else "black"
        axes.text(
            column, row, counts[row, column], ha="center", va="center", fontsize=8, color=dark
        )
    axes.set_xticks(
        range(len(counts)), scene.classes, rotation=40, ha="right", rotation_mode="anchor"
    )
    axes.set_yticks(
        range(len(counts)),
        [f"{name} ({n})" for name, n in zip(scene.classes, counts.sum(axis=1), strict=True)],
    )
    axes.set(xlabel=scene.text("measure.prediction"), ylabel=scene.text("measure.label"))
    axes.grid(False)
    bar = figure.colorbar(image, shrink=0.8, format=PercentFormatter(1, symbol=" %"))
    bar.set_label(scene.text("figure.share"), fontsize=8)
    bar.outline.set_visible(False)  # type: ignore[operator]
    title = f"{scene.trial_label(trial)}: {scene.text('measure.test_accuracy')} {100 * trial['test_accuracy']:.1f} %"
    return add_title(figure, title)


def calibration_figure(scene: ReportContext) -> Figure:
    """How often predictions with a given confidence are correct, in ten bins of width 0.1, for the best trials."""
    shown = scene.tested_trials.head(MAX_PANELS)
    columns = min(3, len(shown))
    figure, grid = new_figure(
        -(-len(shown) // columns), columns, 2.8, 2.8, sharex=True, sharey=True
    )
    for axes, (_, trial) in zip(grid.flat, shown.iterrows(), strict=False):
        draw_reliability(axes, scene, trial)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel(scene.text("figure.confidence"))
    for axes in grid[:, 0]:
        axes.set_ylabel(scene.text("figure.share_correct"))
    return figure


def draw_reliability(axes: Axes, scene: ReportContext, trial: pd.Series) -> None:
    """One panel: the area of a point grows with the number of images in its bin."""
    bins = statistics.calibration_table(scene.results, trial["key"])
    ece, bins = bins.attrs["ece"], bins[bins["n"] > 0]
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=LINE_PATTERNS[1])
    area = 15 + 300 * bins["n"] / bins["n"].sum()
    axes.plot(bins["confidence"], bins["accuracy"], color=COLOURS[0], linewidth=1)
    axes.scatter(
        bins["confidence"], bins["accuracy"], s=area, color=COLOURS[0], edgecolor="white", zorder=3
    )
    axes.text(1.02, 0.03, scene.text("figure.calibration_error", ece=ece), ha="right", fontsize=7.5)
    axes.set(xlim=(0, 1.04), ylim=(0, 1.04), aspect="equal")
    axes.set_title(wrap_text(scene.trial_label(trial), 2.4, 8), fontsize=8)


def mistakes_figure(scene: ReportContext, trial: pd.Series) -> Figure:
    """The most confident wrong predictions on test images."""
    wrong = scene.wrong_predictions(trial)
    shown = wrong.head(MAX_MISTAKES)
    figure, grid = new_figure(-(-len(shown) // 4), 4, 1.7, 2.0)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (_, row) in zip(grid.flat, shown.iterrows(), strict=False):
        draw_mistake(axes, scene, row)
    title = scene.text(
        "figure.mistakes", n=len(shown), wrong=len(wrong), images=len(scene.test_predictions(trial))
    )
    return add_title(figure, f"{title}: {scene.trial_label(trial)}")


def draw_mistake(axes: Axes, scene: ReportContext, row: pd.Series) -> None:
    label, prediction = (
        shorten_name(scene.classes[row[part]], 16) for part in ("label", "prediction")
    )
    axes.set_title(
        scene.text(
            "figure.mistake",
            label=label,
            prediction=prediction,
            probability=100 * row["probability"],
        ),
        fontsize=7.5,
    )
    pixels = (scene.images or {}).get(row["image"])
    if pixels is None:
        axes.imshow(np.full((1, 1, 3), 232, np.uint8))
        text = f"{scene.text('figure.image_not_found')}\n\n{textwrap.fill(shorten_name(row['image'], 60), 18)}"
        axes.text(0, 0, text, ha="center", va="center", fontsize=6, color=GREY)
    else:
        axes.imshow(pixels)
