"""The figures of a report, from the results alone: for papers (PDF, SVG) and slides (PNG)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from bioimg.errors import unknown_value_error
from bioimg.report import plots
from bioimg.report.learning_curves import trial_curves_figure, validation_curves_figure
from bioimg.report.plot_style import GREY, rc_parameters, wrap_text
from bioimg.report.report_context import ImagesByPath, ReportContext
from bioimg.results import statistics
from bioimg.results.result_store import Results

FIGURE_FORMATS = ("png", "svg", "pdf")
MAX_TRIAL_FIGURES = 12
"""The most trials with curves and matrices of their own: those with the lowest validation loss."""
OMITTED_METADATA = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Metadata that savefig leaves out, so that the same results give the same files."""


def write_figures(
    results: Results,
    folder: Path,
    formats: Sequence[str] = FIGURE_FORMATS,
    lang: str = "en",
    images: ImagesByPath | None = None,
) -> list[Path]:
    """Draw all figures of these results and return their files.

    Raises:
        UserError: an unknown format or language, or Chinese characters are needed and there is no font with them.
    """
    for name in formats:
        if name not in FIGURE_FORMATS:
            raise unknown_value_error("formats", name, FIGURE_FORMATS)
    scene = ReportContext(results, lang, images)
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(rc_parameters(lang, [*scene.classes, scene.source_line])):
        return [
            path
            for name, figure in draw_figures(scene)
            for path in save_figure(scene, figure, folder / name, formats)
        ]


def draw_figures(scene: ReportContext) -> Iterator[tuple[str, Figure]]:
    """Every figure with its name; empty ones are left out."""
    for _, trial in scene.ranked_trials.head(MAX_TRIAL_FIGURES).iterrows():
        yield f"curves_{trial['key']}", trial_curves_figure(scene, trial)
    if len(scene.ranked_trials):
        yield "validation_curves", validation_curves_figure(scene)
    for _, trial in scene.tested_trials.head(MAX_TRIAL_FIGURES).iterrows():
        yield f"confusion_{trial['key']}", plots.confusion_figure(scene, trial)
    found = statistics.estimate_effects(scene.results)
    if found["effect"].notna().any():
        yield "effects", plots.effects_figure(scene, found[found["effect"].notna()])
    if len(scene.measured_trials):
        yield "accuracy_against_time", plots.accuracy_against_time_figure(scene)
    if len(scene.tested_trials):
        yield "calibration", plots.calibration_figure(scene)
        if len(scene.wrong_predictions(scene.tested_trials.iloc[0])):
            yield "mistakes", plots.mistakes_figure(scene, scene.tested_trials.iloc[0])


def save_figure(
    scene: ReportContext, figure: Figure, path: Path, formats: Sequence[str]
) -> list[Path]:
    """Save a figure with its origin and the warnings of its data at the foot, in each format."""
    lines = [
        wrap_text(line, figure.get_figwidth(), 6.5)
        for line in [*map(str, scene.warnings), scene.source_line]
    ]
    figure.supxlabel("\n".join(lines), fontsize=6.5, color=GREY, x=0.01, ha="left")
    figure.draw_without_rendering()
    figure.set_layout_engine(
        "none"
    )  # laid out once: every format gets the same figure, whichever others are asked for
    paths = [path.with_name(f"{path.name}.{name}") for name in formats]
    for file, name in zip(paths, formats, strict=True):
        figure.savefig(file, format=name, metadata={"Title": path.name, **OMITTED_METADATA[name]})
    return paths
