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
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn.calibration import calibration_curve
from statsmodels.stats.proportion import proportion_confint

from bioimg.config import unknown
from bioimg.report.look import COLOURS, FILLS, GREY, LINES, Encoding, encode, style
from bioimg.report.scene import Images, Scene, printable
from bioimg.report.words import words
from bioimg.results.store import Results

FORMATS = ("png", "svg", "pdf")
MOST = 12
"""Of more trials than these, those with the lowest validation loss get curves and matrices of their own."""
PANELS = 6
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
    scene = Scene(results, words(lang), images)
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
    if len(scene.completed):
        yield "accuracy_against_time", accuracy_against_time(scene)
        yield "calibration", calibration(scene)
        if len(scene.mistakes(scene.completed.iloc[0])):
            yield "mistakes", mistakes(scene, scene.completed.iloc[0])


def save(scene: Scene, figure: Figure, path: Path, formats: Sequence[str]) -> list[Path]:
    """Save a figure with its origin and the warnings of its data at the foot, in each format."""
    warnings = [scene.words[name] for name, holds in (("synthetic", scene.synthetic), ("leak", scene.leaks)) if holds]
    figure.supxlabel("\n".join([*warnings, scene.source]), fontsize=6.5, color=GREY, x=0.01, ha="left")
    paths = [path.with_name(f"{path.name}.{name}") for name in formats]
    for file, name in zip(paths, formats, strict=True):
        figure.savefig(file, format=name, metadata={"Title": path.name, **BLANK[name]})
    return paths


def canvas(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure, sizes in inches per panel, that belongs to no window; its axes [rows, columns]."""
    figure = Figure(figsize=(width * columns, height * rows + 0.5))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def curves(scene: Scene, trial: pd.Series) -> Figure:
    """Loss and accuracy of one trial, training and validation, over the epochs that it was meant to have."""
    rows, word = scene.epochs(trial), scene.words
    figure, ((loss, accuracy),) = canvas(1, 2, 3.6, 2.7)
    for axes, metric in ((loss, "loss"), (accuracy, "accuracy")):
        for part, colour, line, marker in (("train", COLOURS[0], LINES[1], "s"), ("val", COLOURS[1], LINES[0], "o")):
            axes.plot(rows["epoch"], rows[f"{part}_{metric}"], color=colour, linestyle=line, marker=marker, markersize=3, label=word[part])
        epoch_axis(axes, word, trial["epochs"])
        axes.set_title(word[metric])
        mark_selected(axes, rows, trial, f"val_{metric}", word)
        mark_end(axes, rows, trial, word)
    loss.set_ylim(bottom=0)
    percent(accuracy)
    figure.suptitle(textwrap.fill(f"{scene.label(trial)} ({status(trial, word)})", 90), x=0.01, ha="left")
    figure.legend(*loss.get_legend_handles_labels(), loc="outside lower right", ncols=4)
    return figure


def status(trial: pd.Series, word: Any) -> str:
    return word[f"status_{trial['status']}"].format(run=trial["epochs_run"], epochs=trial["epochs"])


def epoch_axis(axes: Axes, word: Any, epochs: int) -> None:
    axes.set_xlim(0.5, epochs + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel(word["epoch"])


def percent(axes: Axes, digits: int = 0) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=digits))


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
    shown, code = panels(scene, scene.ranked)
    figure, grid = canvas(len(shown), 2, 3.8, 2.6, sharex=True, sharey="col")
    for (name, trials), (loss, accuracy) in zip(shown, grid, strict=True):
        for axes, column in ((loss, "val_loss"), (accuracy, "val_accuracy")):
            for _, trial in trials.iterrows():
                validation_curve(axes, scene.epochs(trial), trial, column, code.look(trial))
            axes.set_title(f"{name}: {scene.words[column]}" if name else scene.words[column])
    for axes in grid[-1]:
        epoch_axis(axes, scene.words, scene.ranked["epochs"].max())
    grid[0, 0].set_ylim(bottom=0)
    percent(grid[0, 1])
    marks = [
        Line2D([], [], color="black", marker="o", label=scene.words["selected"]),
        Line2D([], [], color="black", marker="|", markersize=13, markeredgewidth=2, label=scene.words["ended"]),
    ]
    key(figure, scene, code, marks)
    return figure


def validation_curve(axes: Axes, rows: pd.DataFrame, trial: pd.Series, column: str, look: dict[str, Any]) -> None:
    """One line, its marker where the epoch was selected, a bar across its end where the trial did not complete."""
    selected = np.flatnonzero(rows["epoch"] == trial["best_val_loss_epoch"]).tolist()
    axes.plot(rows["epoch"], rows[column], markevery=selected, **look)
    if trial["status"] != "completed":
        axes.plot(rows["epoch"].iloc[-1:], rows[column].iloc[-1:], "|", markersize=13, markeredgewidth=2, color=look["color"])


def panels(scene: Scene, trials: pd.DataFrame) -> tuple[list[tuple[str, pd.DataFrame]], Encoding]:
    """The panels of a figure with their titles, no more than `PANELS`: those with the best trials."""
    code = encode(scene.trials, scene.axes)
    parts = code.panels(trials)[:PANELS]
    return [(", ".join(scene.value(part.iloc[0], field) for field in code.panel), part) for _, part in parts], code


def key(figure: Figure, scene: Scene, code: Encoding, marks: Sequence[Line2D]) -> None:
    """The legend at the right: one part for what colour and marker mean, one for line and fill, one for other marks."""
    handles = [*legend_part(scene, code, code.colour), *legend_part(scene, code, code.line), *marks]
    figure.legend(handles=handles, loc="outside right upper", handlelength=3)


def legend_part(scene: Scene, code: Encoding, field: str | None) -> list[Line2D]:
    if field is None:
        return []
    firsts = scene.trials.drop_duplicates(field)
    looks = [(printable(trial[field]), code.look(trial)) for _, trial in firsts.iterrows()]
    if field != code.colour:
        looks = [(name, {**look, "color": "black", "marker": "o"}) for name, look in looks]
    else:
        looks = [(name, {**look, "linestyle": "solid", "fillstyle": "full"}) for name, look in looks]
    title = Line2D([], [], linestyle="none", label=scene.word(field))
    return [title, *(Line2D([], [], label=name, **look) for name, look in looks)]


def accuracy_against_time(scene: Scene) -> Figure:
    """Test accuracy of the completed trials against what their training took."""
    shown, code = panels(scene, scene.completed)
    figure, grid = canvas(1, len(shown), 3.4, 3.2, sharex=True, sharey=True)
    for (name, trials), axes in zip(shown, grid[0], strict=True):
        for _, trial in trials.iterrows():
            low, high = interval(trial)
            axes.vlines(trial["train_seconds"], low, high, color=code.look(trial)["color"], linewidth=1)
            axes.plot(trial["train_seconds"], trial["test_accuracy"], **{**code.look(trial), "linestyle": "none"}, markersize=8)
        axes.set_title(name)
        axes.set_xlabel(scene.words["train_seconds"])
    grid[0, 0].set_ylabel(scene.words["test_accuracy"])
    grid[0, 0].set_xlim(left=0)
    percent(grid[0, 0])
    key(figure, scene, code, [])
    counts = scene.trials["status"].value_counts()
    notes = [scene.words["interval"].format(n=scene.completed["test_images"].iloc[0])]
    if len(scene.completed) < len(scene.trials):
        notes.append(scene.words["not_shown"].format(stopped=counts.get("stopped", 0), failed=counts.get("failed", 0)))
    figure.suptitle("\n".join(notes), fontsize=8, weight="normal", x=0.01, ha="left")
    return figure


def interval(trial: pd.Series) -> tuple[float, float]:
    right = round(trial["test_accuracy"] * trial["test_images"])
    return proportion_confint(right, trial["test_images"], method="wilson")  # type: ignore[return-value]


def confusion(scene: Scene, trial: pd.Series) -> Figure:
    """Counts of test images by label and prediction, shaded by their share of the label's images."""
    counts = scene.confusion(trial)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(3.2, 1.6 + 0.45 * len(counts))
    figure, ((axes,),) = canvas(1, 1, side + 1, side)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        dark = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=8, color=dark)
    axes.set_xticks(range(len(counts)), scene.classes, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(counts)), scene.classes)
    axes.set(xlabel=scene.words["prediction"], ylabel=scene.words["label"])
    axes.grid(False)
    bar = figure.colorbar(image, shrink=0.8, format=PercentFormatter(1))
    bar.set_label(scene.words["share"], fontsize=8)
    bar.outline.set_visible(False)  # type: ignore[operator]
    title = f"{scene.label(trial)}: {scene.words['test_accuracy']} {trial['test_accuracy']:.1%}"
    figure.suptitle(textwrap.fill(title, 60), x=0.01, ha="left")
    return figure


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
    rows = scene.tested(trial)
    right = rows["label"] == rows["prediction"]
    share, confidence = calibration_curve(right, rows["probability"], n_bins=10)
    held = np.histogram(rows["probability"], bins=np.linspace(0, 1, 11))[0]
    held = held[held > 0] / len(rows)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=LINES[1])
    axes.plot(confidence, share, color=COLOURS[0], linewidth=1)
    axes.scatter(confidence, share, s=20 + 300 * held, color=COLOURS[0], alpha=0.8, zorder=3)
    axes.set(xlim=(0, 1.04), ylim=(0, 1.04), aspect="equal")
    axes.set_title(textwrap.fill(scene.label(trial), 38), fontsize=8)


def mistakes(scene: Scene, trial: pd.Series) -> Figure:
    """The surest of the wrong predictions on test images."""
    wrong = scene.mistakes(trial)
    shown = wrong.head(MOST)
    columns = min(4, len(shown))
    figure, grid = canvas(-(-len(shown) // columns), columns, 1.7, 2.0)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (_, row) in zip(grid.flat, shown.iterrows(), strict=False):
        mistake(axes, scene, row)
    title = scene.words["mistakes"].format(n=len(shown), wrong=len(wrong), images=len(scene.tested(trial)))
    figure.suptitle(textwrap.fill(f"{title}: {scene.label(trial)}", 24 * columns), x=0.01, ha="left")
    return figure


def mistake(axes: Axes, scene: Scene, row: pd.Series) -> None:
    label, prediction = (printable(scene.classes[row[part]], 16) for part in ("label", "prediction"))
    axes.set_title(
        scene.words["mistake"].format(label=label, prediction=prediction, probability=row["probability"]), fontsize=7.5
    )
    pixels = (scene.images or {}).get(row["image"])
    if pixels is None:
        axes.imshow(np.full((1, 1, 3), 232, np.uint8))
        text = f"{scene.words['no_images']}\n\n{textwrap.fill(printable(row['image'], 60), 18)}"
        axes.text(0, 0, text, ha="center", va="center", fontsize=6, color=GREY)
    else:
        axes.imshow(pixels)
