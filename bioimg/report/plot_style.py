"""How figures look: colours that colour-blind readers can distinguish, lines and markers that work in grey print, fonts."""

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
from bioimg.report.report_context import ReportContext, shorten_name
from bioimg.report.translation import setting_name, setting_value

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's, without the yellow, which is hard to see on white paper."""

MARKERS = ("o", "s", "^", "D", "v", "P", "h")
LINE_PATTERNS: tuple[Any, ...] = ("solid", (0, (4, 1.6)), (0, (1, 1.3)), (0, (6, 1.5, 1, 1.5)))
MARKER_FILLS = ("full", "none", "left", "bottom")
GREY = "#666666"

CJK_FONT_FAMILIES = (
    *(
        "Noto Sans CJK TC",
        "Noto Sans TC",
        "Source Han Sans TC",
        "Source Han Sans TW",
        "PingFang TC",
        "Microsoft JhengHei",
    ),
    *(
        "Heiti TC",
        "Noto Sans CJK JP",
        "Noto Sans CJK SC",
        "WenQuanYi Micro Hei",
        "WenQuanYi Zen Hei",
        "AR PL UMing TW",
    ),
)

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
"""`parse_math` is off since a `$` in a class name is just a dollar sign; with the salt, the same results give the same SVG."""


def rc_parameters(lang: str, texts: Sequence[str]) -> dict[Any, Any]:
    """The rcParams for figures that show these texts.

    Raises:
        UserError: the language or a text needs Chinese characters and no font on this machine has them.
    """
    needed = lang == "zh-TW" or any(contains_cjk(text) for text in texts)
    families = ["DejaVu Sans", *([find_cjk_family()] if needed else [])]
    return {**BASE_RC_PARAMETERS, "font.family": families}


def contains_cjk(text: str) -> bool:
    return any(
        "\u2e80" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7af" for character in text
    )


def find_cjk_family() -> str:
    """The first known family with Chinese characters; also one that was installed after matplotlib listed the fonts."""
    known = set(font_manager.get_font_names())
    if not known.intersection(CJK_FONT_FAMILIES):
        listed = {entry.fname for entry in font_manager.fontManager.ttflist}
        for path in set(font_manager.findSystemFonts()) - listed:
            if any(word in Path(path).name for word in ("CJK", "Han", "TC", "wqy", "ming")):
                font_manager.fontManager.addfont(path)
        known = set(font_manager.get_font_names())
    found = next((family for family in CJK_FONT_FAMILIES if family in known), None)
    if found is None:
        raise UserError(
            "the figures need Chinese characters (`lang` is zh-TW, or a name in the data contains some), but no font on this "
            "machine has them. Install one (Debian, Ubuntu: `apt install fonts-noto-cjk`; Fedora: "
            "`dnf install google-noto-sans-cjk-fonts`), or use --lang en."
        )
    return found


def line_style(code: tuple[int, int]) -> dict[str, Any]:
    """The look of a line, for `Axes.plot`, from `Encoding.code`."""
    colour, line = code
    return {
        "color": COLOURS[colour % len(COLOURS)],
        "marker": MARKERS[(colour + colour // len(COLOURS)) % len(MARKERS)],
        "linestyle": LINE_PATTERNS[line],
        "fillstyle": MARKER_FILLS[line],
        "markerfacecoloralt": "white",
    }


def new_figure(
    rows: int, columns: int, width: float, height: float, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure without a window, and its axes [rows, columns]; sizes are in inches per panel."""
    figure = Figure(figsize=(width * columns, height * rows + 0.5))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def add_title(figure: Figure, title: str, size: float = 10, **options: Any) -> Figure:
    """The figure with a title that is wrapped to its width; bold by default, and so a bit wider than other text."""
    figure.suptitle(
        wrap_text(title, figure.get_figwidth(), 1.1 * size),
        fontsize=size,
        x=0.01,
        ha="left",
        **options,
    )
    return figure


def wrap_text(text: str, inches: float, points: float) -> str:
    """Break lines at a width. A Chinese character is as wide as it is high, others about 0.58 of that."""
    wide = sum(contains_cjk(character) for character in text) / max(1, len(text))
    return textwrap.fill(text, int(inches * 72 / points / (0.58 + 0.47 * wide)))


def set_percent_axis(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def draw_legend(figure: Figure, scene: ReportContext, marks: Sequence[dict[str, Any]] = ()) -> None:
    """The legend on the right: the meaning of colours and markers, of lines and fills, and of other marks."""
    neutral = {"color": "black", "marker": "o"}, {"linestyle": "solid", "fillstyle": "full"}
    parts = [
        legend_handles(scene, scene.encoding.line_field, neutral[0]),
        legend_handles(scene, scene.encoding.colour_field, neutral[1]),
    ]
    handles = [*parts[1], *parts[0], *(Line2D([], [], **mark) for mark in marks)]
    legend = figure.legend(handles=handles, loc="outside right upper", handlelength=3)
    for text, handle in zip(legend.get_texts(), handles, strict=True):
        text.set_fontweight(
            "bold" if handle.get_linestyle() == handle.get_marker() == "None" else "normal"
        )


def legend_handles(
    scene: ReportContext, field: str | None, neutral: dict[str, Any]
) -> list[Line2D]:
    """The values of a field under its name; `neutral` is the look of what shows another field."""
    if field is None:
        return []
    firsts = [trial for _, trial in scene.trials.drop_duplicates(field).iterrows()]
    handles = [
        Line2D(
            [],
            [],
            label=setting_value(field, shorten_name(trial[field]), scene.lang),
            **{**line_style(scene.encoding.style_indices(trial)), **neutral},
        )
        for trial in firsts
    ]
    return [Line2D([], [], linestyle="none", label=setting_name(field, scene.lang)), *handles]
