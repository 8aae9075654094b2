"""The figures of a report, from the results alone: for papers (PDF, SVG) and slides (PNG)."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from bioimg.config import unknown
from bioimg.report.captions import header
from bioimg.report.encoding import PANELS
from bioimg.report.look import COLOURS, GREY, LINES, cjk, look, style
from bioimg.report.scene import Images, Scene, printable
from bioimg.results import statistics
from bioimg.results.store import Results

FORMATS = ("png", "svg", "pdf")
MOST = 12
"""Of more trials than these, those with the lowest validation loss get curves and matrices of their own."""
MOST_EFFECTS = 24
TRAIN = {"color": COLOURS[0], "linestyle": LINES[1], "marker": "s"}
VAL = {"color": COLOURS[1], "linestyle": LINES[0], "marker": "o"}
SELECTED = {"color": "black", "linestyle": "none", "marker": "o", "markersize": 8}
ENDED = {"color": "black", "linestyle": "none", "marker": "|", "markersize": 15, "markeredgewidth": 2, "zorder": 4}
BLANK = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""What savefig is told to leave out, so that the same results give the same files."""


def write(
    results: Results, folder: Path, formats: Sequence[str] = FORMATS, lang: str = "en", images: Images | None = None
) -> list[Path]:
    """Draw all figures that these results give rise to and return their files.

    Raises:
        UserError: an unknown format or language, or no font with Chinese characters where they are needed.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown("formats", name, FORMATS)
    scene = Scene(results, lang, images)
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(style(lang, [*scene.classes, scene.source])):
        return [path for name, figure in draw(scene) for path in save(scene, figure, folder / name, formats)]


def draw(scene: Scene) -> Iterator[tuple[str, Figure]]:
    """Every figure with its name; what has nothing to show is left out."""
    for _, trial in scene.ranked.head(MOST).iterrows():
        yield f"curves_{trial['key']}", curves(scene, trial)
    if len(scene.ranked):
        yield "validation_curves", validation_curves(scene)
    for _, trial in scene.completed.head(MOST).iterrows():
        yield f"confusion_{trial['key']}", confusion(scene, trial)
    found = statistics.effects(scene.results)
    if found["effect"].notna().any():
        yield "effects", effects(scene, found[found["effect"].notna()])
    if len(scene.completed):
        yield "accuracy_against_time", accuracy_against_time(scene)
        yield "calibration", calibration(scene)
        if len(scene.mistakes(scene.completed.iloc[0])):
            yield "mistakes", mistakes(scene, scene.completed.iloc[0])


def save(scene: Scene, figure: Figure, path: Path, formats: Sequence[str]) -> list[Path]:
    """Save a figure with its origin and the warnings of its data at the foot, in each format."""
    lines = [wrap(line, figure.get_figwidth(), 6.5) for line in [*scene.warnings, scene.source]]
    figure.supxlabel("\n".join(lines), fontsize=6.5, color=GREY, x=0.01, ha="left")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once: every format gets the same figure, whichever others are asked for
    paths = [path.with_name(f"{path.name}.{name}") for name in formats]
    for file, name in zip(paths, formats, strict=True):
        figure.savefig(file, format=name, metadata={"Title": path.name, **BLANK[name]})
    return paths


def canvas(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure, sizes in inches per panel, that belongs to no window; its axes [rows, columns]."""
    figure = Figure(figsize=(width * columns, height * rows + 0.5))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def headed(figure: Figure, title: str, size: float = 10, **options: Any) -> Figure:
    """The figure with a title as wide as itself."""
    figure.suptitle(wrap(title, figure.get_figwidth(), size), fontsize=size, x=0.01, ha="left", **options)
    return figure


def wrap(text: str, inches: float, points: float) -> str:
    """Break lines at a width. A Chinese character is as wide as high, others are about 0.58 of that."""
    wide = sum(cjk(character) for character in text) / max(1, len(text))
    return textwrap.fill(text, int(inches * 72 / points / (0.58 + 0.47 * wide)))


def curves(scene: Scene, trial: pd.Series) -> Figure:
    """Loss and accuracy of one trial, training and validation, over the epochs that it was meant to have.

    All such figures of a report have the same axes, so that they can be laid side by side.
    """
    rows, word = scene.epochs(trial), scene.words
    figure, ((loss, accuracy),) = canvas(1, 2, 3.6, 2.7)
    for axes, metric in ((loss, "loss"), (accuracy, "accuracy")):
        for part, its in (("train", TRAIN), ("val", VAL)):
            axes.plot(rows["epoch"], rows[f"{part}_{metric}"], markersize=3, label=word[part], **its)
        epoch_axis(axes, word, trial["epochs"])
        axes.set_title(word[metric])
        mark_selected(axes, rows, trial, f"val_{metric}", word)
        mark_end(axes, rows, trial, word)
    limits(scene, loss, accuracy)
    accuracy.legend(loc="lower right", frameon=True, framealpha=1, edgecolor="none")
    return headed(figure, f"{scene.label(trial)} ({status(trial, word)})")


def limits(scene: Scene, loss: Axes, accuracy: Axes) -> None:
    """The range of all trials; for losses that of validation, which a diverging trial doesn't stretch beyond measure."""
    epochs = scene.results.epochs
    losses, accuracies = epochs[["train_loss", "val_loss"]], epochs[["train_accuracy", "val_accuracy"]]
    loss.set_ylim(0, 1.05 * min(losses.max().max(), 4 * epochs["val_loss"].median()))
    accuracy.set_ylim(np.floor(10 * accuracies.min().min()) / 10, 1.01)
    percent(accuracy)


def status(trial: pd.Series, word: Any) -> str:
    return word[f"status_{trial['status']}"].format(run=trial["epochs_run"], epochs=trial["epochs"])


def epoch_axis(axes: Axes, word: Any, epochs: int) -> None:
    axes.set_xlim(0.5, epochs + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel(word["epoch"])


def percent(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def mark_selected(axes: Axes, rows: pd.DataFrame, trial: pd.Series, column: str, word: Any) -> None:
    """A ring around the epoch whose checkpoint was tested."""
    if pd.isna(trial["best_val_loss_epoch"]):
        return
    epoch = int(trial["best_val_loss_epoch"])
    text = word["selected_epoch"].format(epoch=epoch, epochs=trial["epochs"])
    axes.axvline(epoch, color=GREY, linewidth=0.8, linestyle=LINES[2], zorder=0)
    value = rows.loc[rows["epoch"] == epoch, column]
    axes.plot([epoch] * len(value), value, "o", markersize=10, fillstyle="none", color="black", label=text)


def mark_end(axes: Axes, rows: pd.DataFrame, trial: pd.Series, word: Any) -> None:
    """Hatch the epochs that a stopped or failed trial never had."""
    if trial["status"] != "completed":
        start = rows["epoch"].max() + 0.5
        axes.axvspan(start, trial["epochs"] + 0.5, facecolor="none", edgecolor="#cccccc", hatch="///", linewidth=0)
        centre = (start + trial["epochs"] + 0.5) / 2
        label = word["ended" if trial["status"] == "stopped" else "failed_at"]
        axes.text(centre, 0.5, label, transform=axes.get_xaxis_transform(), ha="center", fontsize=8, backgroundcolor="white")


def validation_curves(scene: Scene) -> Figure:
    """Validation loss and accuracy of all trials; each panel has the trials that agree in the fields of its title."""
    shown = scene.panels(scene.ranked)
    figure, grid = canvas(len(shown), 2, 3.8, 2.6, sharex=True, sharey="col")
    for (name, trials), (loss, accuracy) in zip(shown, grid, strict=True):
        for axes, column in ((loss, "val_loss"), (accuracy, "val_accuracy")):
            for _, trial in trials.iterrows():
                validation_curve(axes, scene.epochs(trial), trial, column, look(scene.encoding.code(trial)))
            axes.set_title(f"{name}: {scene.words[column]}" if name else scene.words[column])
    for axes in grid[-1]:
        epoch_axis(axes, scene.words, scene.ranked["epochs"].max())
    limits(scene, *grid[0])
    key(figure, scene, [SELECTED | {"label": scene.words["selected"]}, ENDED | {"label": scene.words["ended"]}])
    return figure


def validation_curve(axes: Axes, rows: pd.DataFrame, trial: pd.Series, column: str, its: dict[str, Any]) -> None:
    """One line, its marker large where the epoch was selected, a bar across its end where the trial did not complete."""
    selected = rows[rows["epoch"] == trial["best_val_loss_epoch"]]
    axes.plot(rows["epoch"], rows[column], markevery=max(1, len(rows) // 10), markersize=3.5, **its)
    axes.plot(selected["epoch"], selected[column], markersize=SELECTED["markersize"], **its)
    if trial["status"] != "completed":
        axes.plot(rows["epoch"].iloc[-1:], rows[column].iloc[-1:], **ENDED)


def key(figure: Figure, scene: Scene, marks: Sequence[dict[str, Any]] = ()) -> None:
    """The legend at the right: what colour and marker mean, what line and fill mean, and other marks."""
    neutral = {"color": "black", "marker": "o"}, {"linestyle": "solid", "fillstyle": "full"}
    parts = [legend_part(scene, scene.encoding.line, neutral[0]), legend_part(scene, scene.encoding.colour, neutral[1])]
    handles = [*parts[1], *parts[0], *(Line2D([], [], **mark) for mark in marks)]
    legend = figure.legend(handles=handles, loc="outside right upper", handlelength=3)
    for text, handle in zip(legend.get_texts(), handles, strict=True):
        text.set_fontweight("bold" if handle.get_linestyle() == handle.get_marker() == "None" else "normal")


def legend_part(scene: Scene, field: str | None, neutral: dict[str, Any]) -> list[Line2D]:
    """The values of a field under its name; `neutral` is the look of what another field tells."""
    if field is None:
        return []
    firsts = [trial for _, trial in scene.trials.drop_duplicates(field).iterrows()]
    handles = [
        Line2D([], [], label=printable(trial[field]), **{**look(scene.encoding.code(trial)), **neutral}) for trial in firsts
    ]
    return [Line2D([], [], linestyle="none", label=header(field, scene.lang)), *handles]


def effects(scene: Scene, found: pd.DataFrame) -> Figure:
    """What each level of an axis, and each pair of levels, changes in the test accuracy, with 95 % intervals."""
    found = found.iloc[:MOST_EFFECTS][::-1]
    figure, ((axes,),) = canvas(1, 1, 7.2, 0.32 * len(found) + 0.7)
    for place, (_, row) in enumerate(found.iterrows()):
        main = ":" not in row["axis"]
        axes.hlines(place, row["low"], row["high"], color=COLOURS[0] if main else GREY, linewidth=1.6)
        axes.plot(row["effect"], place, "o" if main else "D", color=COLOURS[0] if main else GREY, markersize=6 if main else 5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(found)), [scene.effect(row) for _, row in found.iterrows()])
    axes.set(ylim=(-0.6, len(found) - 0.4), xlabel=scene.words["effect"])
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.0f}" if value else "0"))
    return headed(figure, scene.words["effects"], 8, weight="normal")


def accuracy_against_time(scene: Scene) -> Figure:
    """Test accuracy of the completed trials against what their training took."""
    shown = scene.panels(scene.completed)
    figure, grid = canvas(1, len(shown), 3.4, 3.2, sharex=True, sharey=True)
    for (name, trials), axes in zip(shown, grid[0], strict=True):
        for _, trial in trials.iterrows():
            low, high = statistics.wilson(round(trial["test_accuracy"] * trial["test_images"]), trial["test_images"])
            axes.vlines(trial["train_seconds"], low, high, color=look(scene.encoding.code(trial))["color"], linewidth=1)
            axes.plot(
                trial["train_seconds"],
                trial["test_accuracy"],
                **{**look(scene.encoding.code(trial)), "linestyle": "none"},
                markersize=8,
            )
        axes.set_title(name)
        axes.set_xlabel(scene.words["train_seconds"])
    grid[0, 0].set_ylabel(scene.words["test_accuracy"])
    grid[0, 0].set_xlim(left=0)
    percent(grid[0, 0])
    key(figure, scene)
    counts = scene.trials["status"].value_counts()
    notes = [scene.words["interval"].format(n=scene.completed["test_images"].iloc[0])]
    if len(scene.completed) < len(scene.trials):
        notes.append(scene.words["not_shown"].format(stopped=counts.get("stopped", 0), failed=counts.get("failed", 0)))
    return headed(figure, "; ".join(notes), 8, weight="normal")


def confusion(scene: Scene, trial: pd.Series) -> Figure:
    """Counts of test images by label and prediction, shaded by their share of the label's images."""
    counts = statistics.confusion(scene.results, trial["key"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(3.2, 1.6 + 0.45 * len(counts))
    figure, ((axes,),) = canvas(1, 1, side + 1, side)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        dark = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=8, color=dark)
    axes.set_xticks(range(len(counts)), scene.classes, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(counts)), [f"{name} ({n})" for name, n in zip(scene.classes, counts.sum(axis=1), strict=True)])
    axes.set(xlabel=scene.words["prediction"], ylabel=scene.words["label"])
    axes.grid(False)
    bar = figure.colorbar(image, shrink=0.8, format=PercentFormatter(1, symbol=" %"))
    bar.set_label(scene.words["share"], fontsize=8)
    bar.outline.set_visible(False)  # type: ignore[operator]
    title = f"{scene.label(trial)}: {scene.words['test_accuracy']} {100 * trial['test_accuracy']:.1f} %"
    return headed(figure, title)


def calibration(scene: Scene) -> Figure:
    """How often the predictions of a confidence are right, in ten bins of width 0.1, for the best trials."""
    shown = scene.completed.head(PANELS)
    columns = min(3, len(shown))
    figure, grid = canvas(-(-len(shown) // columns), columns, 2.8, 2.8, sharex=True, sharey=True)
    for axes, (_, trial) in zip(grid.flat, shown.iterrows(), strict=False):
        reliability(axes, scene, trial)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel(scene.words["confidence"])
    for axes in grid[:, 0]:
        axes.set_ylabel(scene.words["right"])
    return figure


def reliability(axes: Axes, scene: Scene, trial: pd.Series) -> None:
    """One panel: the area of a point is proportional to the images of its bin."""
    bins = statistics.calibration(scene.results, trial["key"])
    ece, bins = bins.attrs["ece"], bins[bins["n"] > 0]
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=LINES[1])
    area = 15 + 300 * bins["n"] / bins["n"].sum()
    axes.plot(bins["confidence"], bins["accuracy"], color=COLOURS[0], linewidth=1)
    axes.scatter(bins["confidence"], bins["accuracy"], s=area, color=COLOURS[0], edgecolor="white", zorder=3)
    axes.text(1.02, 0.03, scene.words["ece"].format(ece=ece), ha="right", fontsize=7.5)
    axes.set(xlim=(0, 1.04), ylim=(0, 1.04), aspect="equal")
    axes.set_title(wrap(scene.label(trial), 2.4, 8), fontsize=8)


def mistakes(scene: Scene, trial: pd.Series) -> Figure:
    """The surest of the wrong predictions on test images."""
    wrong = scene.mistakes(trial)
    shown = wrong.head(MOST)
    figure, grid = canvas(-(-len(shown) // 4), 4, 1.7, 2.0)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (_, row) in zip(grid.flat, shown.iterrows(), strict=False):
        mistake(axes, scene, row)
    title = scene.words["mistakes"].format(n=len(shown), wrong=len(wrong), images=len(scene.tested(trial)))
    return headed(figure, f"{title}: {scene.label(trial)}")


def mistake(axes: Axes, scene: Scene, row: pd.Series) -> None:
    label, prediction = (printable(scene.classes[row[part]], 16) for part in ("label", "prediction"))
    axes.set_title(
        scene.words["mistake"].format(label=label, prediction=prediction, probability=100 * row["probability"]), fontsize=7.5
    )
    pixels = (scene.images or {}).get(row["image"])
    if pixels is None:
        axes.imshow(np.full((1, 1, 3), 232, np.uint8))
        text = f"{scene.words['no_images']}\n\n{textwrap.fill(printable(row['image'], 60), 18)}"
        axes.text(0, 0, text, ha="center", va="center", fontsize=6, color=GREY)
    else:
        axes.imshow(pixels)
