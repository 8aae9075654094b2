"""Figures: what they show, that their files are whole, and that names from the data stay names."""

import dataclasses
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from bioimg.errors import UserError
from bioimg.report import figures, learning_curves, plot_style, plots
from bioimg.report.analysis import Analysis
from bioimg.report.report_context import ReportContext
from support import example_results

ONE = {"freeze": ("features",)}
SMALL = {"weights": ("IMAGENET1K_V1", "IMAGENET1K_V2"), "freeze": ("features",)}
HOSTILE = (
    "<script>alert(1)</script>",
    '=HYPERLINK("http://x","y")',
    r"100%_a&b $\frac$",
    "a|b--c",
    "long " * 60,
    "ورم ليفي",
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return example_results.read_analysis(
        example_results.write_simulated_results(tmp_path_factory.mktemp("results") / "grid")
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return example_results.read_analysis(
        example_results.write_simulated_results(
            tmp_path_factory.mktemp("results") / "small", axes=SMALL
        )
    )


@pytest.fixture(scope="module")
def shown(results: Analysis) -> dict[str, Figure]:
    return drawn(results)


def drawn(results: Analysis, images: dict[str, np.ndarray] | None = None) -> dict[str, Figure]:
    with matplotlib.rc_context(plot_style.rc_parameters("en", [])):
        return dict(figures.draw_figures(ReportContext(results, "en", images)))


def words(figure: Figure) -> str:
    """Return all texts of a figure, with its foot, on one line."""
    figure.draw_without_rendering()
    return " ".join(
        " ".join(text.get_text().split())
        for text in figure.findobj(matplotlib.text.Text)
        if text.get_visible()
    )


def trial(results: Analysis, **values: object) -> pd.Series:
    rows = results.trials
    for name, value in values.items():
        rows = rows[rows[name] == value]
    return rows.iloc[0]


def only(results: Analysis, status: str) -> Analysis:
    trials = results.trials[results.trials["status"] == status]
    tables = {name: getattr(results.results, name) for name in ("epochs", "predictions")}
    kept = {name: table[table["key"].isin(trials["key"])] for name, table in tables.items()}
    return Analysis(dataclasses.replace(results.results, trials=trials, **kept))


@pytest.fixture(scope="module")
def files(small: Analysis, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return figures.write_figures(small, tmp_path_factory.mktemp("figures") / "new")


def test_every_figure_is_a_valid_file_in_each_format(small: Analysis, files: list[Path]):
    assert all(file.exists() for file in files)
    names = {file.stem for file in files}
    assert {
        "validation_curves",
        "effects",
        "score_against_time",
        "calibration",
        "mistakes",
    } <= names
    assert {
        f"{kind}_{key}" for kind in ("curves", "confusion") for key in small.trials["key"]
    } <= names
    assert len(files) == 3 * len(names)
    for file in files:
        if file.suffix == ".png":
            Image.open(file).verify()
        elif file.suffix == ".svg":
            assert ET.parse(file).getroot().tag.endswith("svg")
        else:
            assert file.read_bytes().startswith(b"%PDF")
            assert b"%%EOF" in file.read_bytes()[-32:]


@pytest.mark.nightly
def test_same_results_give_same_bytes(small: Analysis, files: list[Path], tmp_path: Path):
    again = figures.write_figures(small, tmp_path, ("svg", "pdf"))
    assert {file.name: file.read_bytes() for file in again}.items() <= {
        file.name: file.read_bytes() for file in files
    }.items()


def test_curves_show_every_epoch_and_ring_the_selected_one(
    results: Analysis, shown: dict[str, Figure]
):
    row = trial(results, weights="IMAGENET1K_V2", batch_size=128, freeze="none")
    loss, accuracy = shown[f"curves_{row['key']}"].axes
    epochs = results.trial_epochs(row["key"])
    lines = {line.get_label(): line for line in loss.lines}
    assert lines["training"].get_ydata().tolist() == epochs["train_loss"].tolist()
    assert lines["validation"].get_ydata().tolist() == epochs["val_loss"].tolist()
    ring = next(line for label, line in lines.items() if label.startswith("selected"))
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (
        row["best_val_loss_epoch"],
        row["best_val_loss"],
    )
    assert accuracy.get_xlim()[1] == row["epochs"] + 0.5


def test_curves_of_stopped_trial_end_where_it_stopped(results: Analysis, shown: dict[str, Figure]):
    row = trial(results, status="stopped")
    figure = shown[f"curves_{row['key']}"]
    assert f"stopped early after {row['epochs_run']} of {row['epochs']} epochs" in words(figure)
    assert (
        figure.axes[0].lines[0].get_xdata()[-1]
        == row["epochs_run"]
        < figure.axes[0].get_xlim()[1] - 1
    )


def test_bar_ends_validation_curves_of_incomplete_trials(
    results: Analysis, shown: dict[str, Figure]
):
    figure = shown["validation_curves"]
    losses = [axes for axes in figure.axes if "loss" in axes.get_title(loc="left")]
    drawn_lines = [line for axes in losses for line in axes.lines if len(line.get_xdata()) > 1]
    ends = sorted(
        line.get_xdata()[0] for axes in losses for line in axes.lines if line.get_marker() == "|"
    )
    assert len(drawn_lines) == (results.trials["epochs_run"] > 1).sum()
    assert ends == sorted(results.trials.loc[results.trials["status"] != "completed", "epochs_run"])


def test_lines_of_a_panel_differ_in_more_than_colour(results: Analysis):
    report = ReportContext(results)
    for _, trials in report.titled_panels(results.ranked_trials):
        styles = [
            plot_style.line_style(*report.encoding.style_indices(row))
            for _, row in trials.iterrows()
        ]
        without_colour = [
            (str(style["linestyle"]), style["marker"], style["fillstyle"]) for style in styles
        ]
        assert len(set(without_colour)) == len(trials)


def test_confusion_matrix_counts_every_test_image_once(results: Analysis, shown: dict[str, Figure]):
    row = trial(results, weights="IMAGENET1K_V2", batch_size=64, freeze="features")
    axes = shown[f"confusion_{row['key']}"].axes[0]
    assert sum(int(text.get_text()) for text in axes.texts) == row["test_images"]
    assert "TUMOR (16)" in [label.get_text() for label in axes.get_yticklabels()]


def test_score_against_time_names_omitted_trials(shown: dict[str, Figure]):
    text = words(shown["score_against_time"])
    assert "2 stopped and 1 failed trials, which have no test accuracy" in text


def test_score_against_time_shows_best_of_many_trials(
    results: Analysis, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(plots, "MAX_POINTS", 4)
    figure = drawn(results)["score_against_time"]
    times = sorted(
        float(line.get_xdata()[0])
        for axes in figure.axes
        for line in axes.lines
        if len(line.get_xdata())
    )
    best = results.trials[results.trials["status"] == "completed"].nsmallest(4, "best_val_loss")
    assert times == sorted(best["recipe_seconds"])
    assert "5 more trials with a higher validation loss are not drawn" in words(figure)


def test_effects_are_labelled_with_their_levels(results: Analysis):
    """Lost trials would leave no effect, so the figure is of a table without them."""
    trials = results.results.trials[results.results.trials["status"].eq("completed")]
    completed = Analysis(dataclasses.replace(results.results, trials=trials))
    text = words(drawn(completed)["effects"])
    assert "trained: head only instead of all layers" in text
    assert "weights IMAGENET1K_V2 with trained: head only" in text


def test_mistakes_show_images_or_that_none_were_found(results: Analysis, shown: dict[str, Figure]):
    assert "image not found" in words(shown["mistakes"])
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    given = drawn(results, dict.fromkeys(results.results.predictions["image"], pixels))["mistakes"]
    assert "not found" not in words(given)
    assert np.array_equal(given.axes[0].images[0].get_array(), pixels)


def test_most_confident_mistake_comes_first(results: Analysis):
    wrong = results.wrong_predictions(results.tested_trials["key"].iloc[0])
    assert wrong["probability"].is_monotonic_decreasing
    assert (wrong["label"] != wrong["prediction"]).all()
    assert wrong["others"].between(0, len(results.tested_trials) - 1).all()


def test_figures_warn_of_synthetic_images_and_leaks(tmp_path: Path):
    folder = example_results.write_simulated_results(tmp_path / "phantom", axes=ONE, synthetic=True)
    file = figures.write_figures(
        example_results.read_analysis(folder), tmp_path / "figures", ("svg",)
    )[0]
    text = file.read_text()
    assert "SYNTHETIC IMAGES" in text
    assert "the split ignores known groups" in text


def test_hostile_names_stay_text_in_svg(tmp_path: Path):
    results = example_results.read_analysis(
        example_results.write_simulated_results(
            tmp_path / "hostile", axes=ONE, classes=HOSTILE, name="<b>&amp;$"
        )
    )
    for file in figures.write_figures(results, tmp_path / "figures", ("svg",)):
        tags = {element.tag.split("}")[-1] for element in ET.parse(file).iter()}
        assert tags.isdisjoint({"script", "b", "a"})


def test_missing_chinese_font_names_package_to_install(
    small: Analysis, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(plot_style, "CJK_FONT_FAMILIES", ("No Such Font",))
    with pytest.raises(
        UserError, match=r"no font on this machine has them.*fonts-noto-cjk.*--lang en"
    ):
        figures.write_figures(small, tmp_path, ("png",), lang="zh-TW")
    chinese = Analysis(
        dataclasses.replace(small.results, manifest={**small.manifest, "name": "比較"})
    )
    with pytest.raises(UserError, match="fonts-noto-cjk"):
        figures.write_figures(chinese, tmp_path, ("png",))


@pytest.mark.nightly
def test_chinese_is_drawn_with_an_installed_font(small: Analysis, tmp_path: Path):
    try:
        plot_style.find_cjk_family()
    except UserError:
        pytest.skip("no font with Chinese characters is installed (Debian: fonts-noto-cjk)")
    files = figures.write_figures(
        small, tmp_path, ("svg",), lang="zh-TW"
    )  # a missing glyph would be a warning, so an error here
    assert (
        "驗證損失" in next(file for file in files if file.stem == "validation_curves").read_text()
    )


def test_unknown_format_or_language_is_refused(small: Analysis, tmp_path: Path):
    with pytest.raises(UserError, match=r"`formats` is 'jpg', but must be one of: png, svg, pdf"):
        figures.write_figures(small, tmp_path, ("jpg",))
    with pytest.raises(UserError, match=r"`lang` is 'zh', but must be one of: en, zh-TW"):
        figures.write_figures(small, tmp_path, lang="zh")


def test_failed_trials_alone_give_only_curves(results: Analysis):
    assert all(
        name.startswith(("curves_", "validation_curves")) for name in drawn(only(results, "failed"))
    )
    assert drawn(only(results, "nothing")) == {}


def test_only_best_trials_get_figures_of_their_own(results: Analysis, monkeypatch):
    monkeypatch.setattr(figures, "MAX_TRIAL_FIGURES", 3)
    names = list(drawn(results))
    best = (
        results.trials[results.trials["status"] == "completed"]
        .sort_values("best_val_loss")["key"]
        .head(3)
    )
    assert [name for name in names if name.startswith("curves_")] == [
        f"curves_{key}" for key in best
    ]


def test_validation_curves_count_omitted_trials(results: Analysis, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learning_curves, "MAX_LINES", 5)
    assert "7 more trials with a higher validation loss are not drawn" in words(
        drawn(results)["validation_curves"]
    )


@pytest.mark.nightly
def test_importing_page_needs_no_matplotlib():
    check = "import sys, bioimg.report.html_page; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_importing_figures_and_page_needs_no_torch_or_ray():
    check = (
        "import sys, bioimg.report.figures, bioimg.report.html_page;"
        "sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
