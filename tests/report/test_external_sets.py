"""What a report says of recipes on external sets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bioimg.config import TrialConfig
from bioimg.report import sentences
from bioimg.report.analysis import Analysis
from bioimg.report.html_page import render_page
from bioimg.report.methods.describe_methods import describe_methods
from bioimg.report.report_context import ReportContext
from bioimg.report.translation import LANGUAGES
from bioimg.report.write import ReportOptions, write_report
from bioimg.results.statistics import difference_interval, wilson_interval
from bioimg.verify.verify import verify_file
from support.example_results import prediction_rows, read_analysis, trial_row, write_results

RECORD = {
    "data": "clinic-b",
    "fingerprint": "0123456789abcdef",
    "images": 300,
    "groups": None,
    "classes": {"tumour": 150, "stroma": 150},
    "class_map": {},
    "copies_left_out": 0,
    "look_alikes": 0,
    "known_groups": 0,
    "synthetic": False,
    "evaluations": [{"time": "2026-03-02T09:14:07+00:00", "completed": 2}],
}


def write_example(
    folder: Path, wrong: Mapping[str, tuple[int, int]], lost: Sequence[str] = (), **record: Any
) -> Path:
    """Write results of one recipe for each value of `freeze`; the first is best by validation.

    wrong: how many of 300 images each gets wrong at home and on `b`.
    lost: values of `freeze` without weights.
    """
    trials, predictions = [], []
    for position, (freeze, counts) in enumerate(wrong.items()):
        config = TrialConfig(data="kather2016", freeze=freeze)
        accuracy = 1 - counts[0] / 300
        trials.append(
            trial_row(
                config,
                best_val_loss=0.1 * (1 + position),
                test_accuracy=accuracy,
                test_score=accuracy,
                test_images=300,
                val_score=0.9,
                recipe_seconds=10.0,
            )
        )
        subsets = ("test",) if freeze in lost else ("test", "external:b")
        for subset, count in zip(subsets, counts, strict=False):
            predictions += prediction_rows(
                config.key, range(count), n=300, classes=2, subset=subset
            )
    return write_results(
        folder,
        trials,
        predictions=predictions,
        classes=("tumour", "stroma"),
        external={"b": RECORD | record},
    )


def describe(analysis: Analysis) -> str:
    (tested,) = analysis.external_sets
    return " ".join(sentences.describe_external_set(ReportContext(analysis), tested))


def test_change_is_from_the_test_images_to_the_set(tmp_path: Path):
    analysis = read_analysis(write_example(tmp_path, {"none": (30, 90), "features": (45, 45)}))
    (tested,) = analysis.external_sets
    assert tested.scores["change"].tolist() == pytest.approx([-0.2, 0])
    first = tested.scores.iloc[0]
    assert first["change_low"] < -0.2 < first["change_high"] < 0
    assert analysis.best is not None
    assert analysis.best.score == pytest.approx(0.9)


def test_order_that_turns_round_is_said_and_the_best_stays(tmp_path: Path):
    analysis = read_analysis(write_example(tmp_path, {"none": (30, 90), "features": (45, 45)}))
    assert analysis.best is not None
    assert analysis.first_trials.loc[analysis.best.key, "freeze"] == "none"
    said = describe(analysis)
    assert "has 70.0 % [64.6, 74.9] of 300 images correct: −20.0 points" in said
    assert "There the order turns round: trained: head only has 15.0 points more" in said
    assert "all layers −20.0 points, head only +0.0 points" in said
    assert "“Best” remains what validation at home chose" in said


def test_higher_score_that_chance_explains_is_no_turn(tmp_path: Path):
    analysis = read_analysis(write_example(tmp_path, {"none": (30, 47), "features": (45, 45)}))
    said = describe(analysis)
    assert "but these images don't show that this is more than chance" in said


def test_set_on_which_the_best_leads_keeps_the_order(tmp_path: Path):
    analysis = read_analysis(write_example(tmp_path, {"none": (30, 40), "features": (45, 90)}))
    assert "No other recipe has a higher score there." in describe(analysis)


def test_best_recipe_without_weights_is_said(tmp_path: Path):
    folder = write_example(tmp_path, {"none": (30, 0), "features": (45, 45)}, lost=["none"])
    analysis = read_analysis(folder)
    assert "wasn't evaluated on b, since its weights weren't kept" in describe(analysis)
    assert render_page(ReportContext(analysis))


def test_external_predictions_leave_all_other_tables_as_they_are(tmp_path: Path):
    wrong = {"none": (30, 90), "features": (45, 45)}
    with_set = read_analysis(write_example(tmp_path / "a", wrong))
    without = read_analysis(write_example(tmp_path / "b", wrong, lost=list(wrong)))
    assert not without.external_sets
    for name in ("configuration_scores", "best_pairs", "trial_scores", "class_metrics"):
        pd.testing.assert_frame_equal(getattr(with_set, name), getattr(without, name))


@pytest.mark.parametrize("folds", [1, 3])
def test_folds_that_count_as_runs_are_a_doubt(tmp_path: Path, folds: int):
    analysis = read_analysis(write_example(tmp_path, {"none": (30, 90), "features": (45, 45)}))
    trials = analysis.results.trials
    trials["fold"] = range(len(trials)) if folds > 1 else 0
    (tested,) = analysis.external_sets
    page = render_page(ReportContext(analysis))
    assert tested.has_folds == (folds > 1)
    assert ("but they share most training images" in page) == (folds > 1)


def test_page_and_methods_show_the_set_in_each_language(tmp_path: Path):
    folder = write_example(
        tmp_path,
        {"none": (30, 90), "features": (45, 45)},
        copies_left_out=7,
        look_alikes=3,
        evaluations=[*RECORD["evaluations"], {"time": "2026-04-01T00:00:00", "completed": 5}],
    )
    analysis = read_analysis(folder)
    page = render_page(ReportContext(analysis))
    assert 'href="#external"' in page
    assert "Left out of b as copies of training or validation images: 7." in page
    assert "look like training or validation images, turned or changed (3)" in page
    assert "2 times, first on 2026-03-02; trials added after its results could be known: 3" in page
    assert "在外部影像上的表現" in render_page(ReportContext(analysis, "zh-TW"))
    for lang in LANGUAGES:
        texts = [sentence.text for sentence in describe_methods(analysis, [], lang).sentences()]
        assert any("70.0 %" in text for text in texts)


def test_verify_finds_a_changed_number_of_an_external_set(tmp_path: Path):
    folder = write_example(tmp_path, {"none": (30, 90), "features": (45, 45)})
    write_report(str(folder), ReportOptions(tables=("external",), format=("md",)))
    file = folder / "report" / "external.md"
    analysis = read_analysis(folder)
    assert not verify_file(file, analysis).errors
    assert verify_file(file, analysis).compared_cells
    text = file.read_text()
    assert "| 70.0 [" in text
    file.write_text(text.replace("| 70.0 [", "| 79 ["))
    assert verify_file(file, analysis).errors


def test_interval_of_a_difference_is_newcombes():
    """Newcombe (1998), Stat. Med. 17, method 10, for 56/70 and 48/80: 0.0524 to 0.3339."""
    limits = difference_interval(0.8, wilson_interval(56, 70), 0.6, wilson_interval(48, 80))
    assert np.round(limits, 4).tolist() == [0.0524, 0.3339]
