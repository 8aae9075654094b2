"""How figures look: lines and markers that work in grey print, fonts, titles and legends."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from bioimg.errors import UserError
from bioimg.report.formatting import shorten_name
from bioimg.report.report_context import ReportContext
from bioimg.report.translation import setting_name, setting_value
from bioimg.report.visual_encoding import PALETTE

MARKERS = ("o", "s", "^", "D", "v", "P", "h")
LINE_PATTERNS: tuple[Any, ...] = ("solid", (0, (4, 1.6)), (0, (1, 1.3)), (0, (6, 1.5, 1, 1.5)))
MARKER_FILLS = ("full", "none", "left", "bottom")
GREY = "#666666"
NEUTRAL_COLOUR = {"color": "black", "marker": "o"}
"""The look of a legend entry that shows a line style."""
NEUTRAL_LINE = {"linestyle": "solid", "fillstyle": "full"}
"""The look of a legend entry that shows a colour."""

CJK_FONT_FAMILIES = (
    "Noto Sans CJK TC",
    "Noto Sans TC",
    "Source Han Sans TC",
    "Source Han Sans TW",
    "PingFang TC",
    "Microsoft JhengHei",
    "Heiti TC",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "AR PL UMing TW",
)
CJK_FILE_WORDS = ("CJK", "Han", "TC", "wqy", "ming")

BASE_RC_PARAMETERS: dict[str, Any] = {
    "figure.constrained_layout.use": True,
    "figure.titlesize": 10,
    "figure.titleweight": "bold",
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "savefig.dpi": 200,
    "svg.hashsalt": "bioimg",
    "text.parse_math": False,
}
"""`parse_math` is off since a `$` in a class name is just a dollar sign. With the salt, the same
results give the same SVG."""


def rc_parameters(lang: str, texts: Sequence[str]) -> dict[Any, Any]:
    """Return the rcParams for figures that show these texts.

    Raises:
        UserError: the language or a text needs Chinese characters, and no font here has them.
    """
    families = ["DejaVu Sans"]
    if lang == "zh-TW" or any(contains_cjk(text) for text in texts):
        families.append(find_cjk_family())
    return {**BASE_RC_PARAMETERS, "font.family": families}


def contains_cjk(text: str) -> bool:
    """Check whether a text has Chinese, Japanese or Korean characters."""
    return any("\u2e80" <= letter <= "\u9fff" or "\uac00" <= letter <= "\ud7af" for letter in text)


def find_cjk_family() -> str:
    """Return the first known font family with Chinese characters.

    Raises:
        UserError: none is installed.
    """
    if not set(CJK_FONT_FAMILIES) & set(font_manager.get_font_names()):
        _add_new_cjk_fonts()
    installed = set(font_manager.get_font_names())
    for family in CJK_FONT_FAMILIES:
        if family in installed:
            return family
    raise UserError(
        "the figures need Chinese characters (`lang` is zh-TW, or a name in the data contains "
        "some), but no font on this machine has them. Install one (Debian, Ubuntu: "
        "`apt install fonts-noto-cjk`; Fedora: `dnf install google-noto-sans-cjk-fonts`), or use "
        "--lang en."
    )


def _add_new_cjk_fonts() -> None:
    """Add fonts that were installed after matplotlib listed those of this machine."""
    listed = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in set(font_manager.findSystemFonts()) - listed:
        if any(word in Path(path).name for word in CJK_FILE_WORDS):
            font_manager.fontManager.addfont(path)


def line_style(colour: int, line: int) -> dict[str, Any]:
    """Return the look of a line, for `Axes.plot`, from `VisualEncoding.style_indices`."""
    # beyond the last colour, the same colours come with other markers
    marker = colour + colour // len(PALETTE)
    return {
        "color": PALETTE[colour % len(PALETTE)],
        "marker": MARKERS[marker % len(MARKERS)],
        "linestyle": LINE_PATTERNS[line],
        "fillstyle": MARKER_FILLS[line],
        "markerfacecoloralt": "white",
    }


def new_figure(
    rows: int, columns: int, width: float, height: float, **options: Any
) -> tuple[Figure, np.ndarray]:
    """Make a figure without a window.

    width, height: of a panel, in inches.
    options: of `Figure.subplots`.

    Returns:
        The figure and its axes [rows, columns].
    """
    figure = Figure(figsize=(width * columns, height * rows + 0.5))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def add_title(figure: Figure, title: str, size: float = 10, **options: Any) -> Figure:
    """Give a figure a title that is wrapped to its width. By default it is bold."""
    # bold text is about a tenth wider
    lines = wrap_text(title, figure.get_figwidth(), 1.1 * size)
    figure.suptitle(lines, fontsize=size, x=0.01, ha="left", **options)
    return figure


def wrap_text(text: str, inches: float, points: float) -> str:
    """Break lines at a width. A Chinese character is as wide as high, others about 0.58 of that."""
    wide_share = sum(map(contains_cjk, text)) / max(1, len(text))
    character_points = points * (0.58 + 0.47 * wide_share)
    return textwrap.fill(text, int(inches * 72 / character_points))


def set_percent_axis(axes: Axes) -> None:
    """Show the values of the vertical axis in per cent."""
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def draw_legend(
    figure: Figure, report: ReportContext, marks: Sequence[dict[str, Any]] = ()
) -> None:
    """Draw the legend on the right: colours and markers, lines and fills, and other marks."""
    handles = [
        *legend_handles(report, report.encoding.colour_field, NEUTRAL_LINE),
        *legend_handles(report, report.encoding.line_field, NEUTRAL_COLOUR),
        *(Line2D([], [], **mark) for mark in marks),
    ]
    legend = figure.legend(handles=handles, loc="outside right upper", handlelength=3)
    for text, handle in zip(legend.get_texts(), handles, strict=True):
        is_heading = handle.get_linestyle() == handle.get_marker() == "None"
        text.set_fontweight("bold" if is_heading else "normal")


def legend_handles(
    report: ReportContext, field: str | None, neutral: dict[str, Any]
) -> list[Line2D]:
    """Return a heading with the name of a field, then its values.

    neutral: the look of what shows another field.
    """
    if field is None:
        return []
    handles = [Line2D([], [], linestyle="none", label=setting_name(field, report.lang))]
    for _, trial in report.analysis.trials.drop_duplicates(field).iterrows():
        label = setting_value(field, shorten_name(trial[field]), report.lang)
        style = line_style(*report.encoding.style_indices(trial)) | neutral
        handles.append(Line2D([], [], label=label, **style))
    return handles
