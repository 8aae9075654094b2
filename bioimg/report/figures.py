"""The figures of a report, from the results alone: for papers (PDF, SVG) and slides (PNG)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from bioimg.errors import unknown_value_error
from bioimg.report import plots
from bioimg.report.analysis import Analysis
from bioimg.report.checks import uncontrolled_columns
from bioimg.report.comparison_table import build_comparison
from bioimg.report.learning_curves import trial_curves_figure, validation_curves_figure
from bioimg.report.plot_style import GREY, rc_parameters, wrap_text
from bioimg.report.report_context import ImagesByPath, ReportContext
from bioimg.report.tuning_figure import tuning_figure

FIGURE_FORMATS = ("png", "svg", "pdf")
MAX_TRIAL_FIGURES = 12
"""The most trials with curves and matrices of their own: those with the lowest validation loss."""
OMITTED_METADATA = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Metadata that savefig leaves out, so that the same results give the same files."""
FOOT_POINTS = 6.5


def write_figures(
    analysis: Analysis,
    folder: Path,
    formats: Sequence[str] = FIGURE_FORMATS,
    lang: str = "en",
    images: ImagesByPath | None = None,
) -> list[Path]:
    """Draw all figures of these results and return their files.

    Raises:
        UserError: a format or the language is unknown, or no font has the Chinese characters.
    """
    for name in formats:
        if name not in FIGURE_FORMATS:
            raise unknown_value_error("formats", name, FIGURE_FORMATS)
    report = ReportContext(analysis, lang, images)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with matplotlib.rc_context(rc_parameters(lang, [*report.classes, report.source_line])):
        for name, figure in draw_figures(report):
            add_foot(report, figure)
            files += save_figure(figure, folder / name, formats)
    return files


def draw_figures(report: ReportContext) -> Iterator[tuple[str, Figure]]:
    """Yield every figure with its name. Empty ones are left out."""
    for _, trial in report.analysis.ranked_trials.head(MAX_TRIAL_FIGURES).iterrows():
        yield f"curves_{trial['key']}", trial_curves_figure(report, trial)
    if len(report.analysis.ranked_trials):
        yield "validation_curves", validation_curves_figure(report)
    for _, trial in report.analysis.tested_trials.head(MAX_TRIAL_FIGURES).iterrows():
        yield f"confusion_{trial['key']}", plots.confusion_figure(report, trial)
    if report.analysis.tuned_fields and report.analysis.best:
        yield "tuning", tuning_figure(report)
    effects = report.analysis.effects
    effects = effects[effects["effect"].notna()]
    if len(effects):
        yield "effects", plots.effects_figure(report, effects)
    measured = measured_trials(report.analysis)
    if len(measured):
        yield "score_against_time", plots.score_against_time_figure(report, measured)
    if len(report.analysis.tested_trials):
        yield "calibration", plots.calibration_figure(report)
        best = report.analysis.tested_trials.iloc[0]
        if len(report.analysis.wrong_predictions(best["key"])):
            yield "mistakes", plots.mistakes_figure(report, best)


def measured_trials(analysis: Analysis) -> pd.DataFrame:
    """Return the tested trials whose times can be compared, with the intervals of their scores."""
    if uncontrolled_columns(analysis.trials):
        return pd.DataFrame()
    trials = build_comparison(analysis, single=True, sort=["best_val_loss"]).values
    return trials.dropna(subset=["key", analysis.test_column, "test_images", "recipe_seconds"])


def add_foot(report: ReportContext, figure: Figure) -> None:
    """Write the warnings of the data and the origin of the results at the foot of a figure."""
    lines = [*map(str, report.warnings), report.source_line]
    wrapped = [wrap_text(line, figure.get_figwidth(), FOOT_POINTS) for line in lines]
    figure.supxlabel("\n".join(wrapped), fontsize=FOOT_POINTS, color=GREY, x=0.01, ha="left")


def save_figure(figure: Figure, path: Path, formats: Sequence[str]) -> list[Path]:
    """Save a figure in each format and return the files.

    path: of the files, without the ending.
    """
    # laid out once: every format gets the same figure, whichever others are asked for
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    files = []
    for name in formats:
        file = path.with_name(f"{path.name}.{name}")
        metadata = {"Title": path.name, **OMITTED_METADATA[name]}
        figure.savefig(file, format=name, metadata=metadata)
        files.append(file)
    return files
