"""The figures of a report, from the results alone: for papers (PDF, SVG) and slides (PNG)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from bioimg.config import unknown
from bioimg.report import plots
from bioimg.report.learning_curves import curves, validation_curves
from bioimg.report.look import GREY, style, wrap
from bioimg.report.scene import Images, Scene
from bioimg.results import statistics
from bioimg.results.store import Results

FORMATS = ("png", "svg", "pdf")
MOST = 12
"""The most trials with curves and matrices of their own: those with the lowest validation loss."""
BLANK = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Metadata that savefig leaves out, so that the same results give the same files."""


def write(
    results: Results, folder: Path, formats: Sequence[str] = FORMATS, lang: str = "en", images: Images | None = None
) -> list[Path]:
    """Draw all figures of these results and return their files.

    Raises:
        UserError: an unknown format or language, or Chinese characters are needed and there is no font with them.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown("formats", name, FORMATS)
    scene = Scene(results, lang, images)
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(style(lang, [*scene.classes, scene.source])):
        return [path for name, figure in draw(scene) for path in save(scene, figure, folder / name, formats)]


def draw(scene: Scene) -> Iterator[tuple[str, Figure]]:
    """Every figure with its name; empty ones are left out."""
    for _, trial in scene.ranked.head(MOST).iterrows():
        yield f"curves_{trial['key']}", curves(scene, trial)
    if len(scene.ranked):
        yield "validation_curves", validation_curves(scene)
    for _, trial in scene.completed.head(MOST).iterrows():
        yield f"confusion_{trial['key']}", plots.confusion(scene, trial)
    found = statistics.effects(scene.results)
    if found["effect"].notna().any():
        yield "effects", plots.effects(scene, found[found["effect"].notna()])
    if len(scene.measured):
        yield "accuracy_against_time", plots.accuracy_against_time(scene)
    if len(scene.completed):
        yield "calibration", plots.calibration(scene)
        if len(scene.mistakes(scene.completed.iloc[0])):
            yield "mistakes", plots.mistakes(scene, scene.completed.iloc[0])


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
