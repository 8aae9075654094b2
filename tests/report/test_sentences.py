"""What the report says: headline, claims, and what can't be claimed."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bioimg.config import TrialConfig
from bioimg.report import html_page, sentences
from bioimg.report.analysis import Analysis
from bioimg.report.comparison_table import build_comparison
from bioimg.report.detail_tables import effects_table
from bioimg.report.report_context import ReportContext
from bioimg.report.terminal import print_table
from support.example_results import (
    V1,
    V2,
    epoch_rows,
    prediction_rows,
    read_analysis,
    trial_row,
    write_report_2023,
    write_results,
)


def compared(
    folder: Path,
    wrong_counts: Sequence[int],
    *,
    seeds: int = 1,
    images: int = 100,
    groups: int = 0,
    **changes: object,
) -> Analysis:
    """Return recipes of which validation chose the first, each with so many wrong test images."""
    rows, predictions = [], []
    slides = [f"slide-{image % groups}" for image in range(images)] if groups else None
    for position, wrong in enumerate(wrong_counts):
        for seed in range(seeds):
            config = TrialConfig(batch_size=8 * (position + 1), seed=seed)
            wrong_images = range(seed, wrong + seed)
            accuracy = 1 - wrong / images
            row = trial_row(config, best_val_loss=0.1 + position, test_accuracy=accuracy, **changes)
            rows.append(row | {"recipe_seconds": 100.0, "test_images": images})
            predictions += prediction_rows(config.key, wrong_images, n=images, groups=slides)
    return read_analysis(write_results(folder, rows, predictions=predictions))


def details(analysis: Analysis, lang: str = "en") -> str:
    return " ".join(sentences.headline_details(ReportContext(analysis, lang)))


def claims(analysis: Analysis, lang: str = "en") -> list[str]:
    pairs = analysis.best_pairs.to_dict("records")
    return [sentences.claim(analysis, pair, lang) for pair in pairs]


def printed(analysis: Analysis, lang: str = "en") -> str:
    console = Console(width=200, highlight=False, record=True, file=io.StringIO())
    print_table(ReportContext(analysis, lang), build_comparison(analysis, lang=lang), console)
    return " ".join(console.export_text().split())


# headline


def test_headline_of_single_runs_is_about_this_trained_model(tmp_path: Path) -> None:
    analysis = compared(tmp_path, [5, 40])
    assert sentences.headline(ReportContext(analysis)) == (
        "Best by validation: this trained model of batch 8, "
        "with 95.0 % [88.8, 97.8] of 100 test images correct"
    )
    assert "run the same command with `--seed 0 1 2 3 4` added" in details(analysis)


def test_headline_of_repeats_is_about_the_recipe(tmp_path: Path) -> None:
    analysis = compared(tmp_path, [5, 40], seeds=3)
    headline = sentences.headline(ReportContext(analysis))
    assert headline.startswith("Best by validation: batch 8, with 95.0 % [")
    assert "mean of 3 runs" in details(analysis)
    assert "--seed" not in details(analysis)


@pytest.mark.parametrize(
    ("wrong_counts", "sentence"),
    [
        ([40, 0, 1, 2], "All 3 others are better on the test images."),
        ([0, 40, 41, 42], "All 3 others are worse on the test images."),
        ([10, 10, 11], "The test images don't distinguish it from any of the 2 others."),
        ([0, 40], "The other one is worse on the test images."),
        ([40, 0], "The other one is better on the test images."),
        ([9, 10], "The test images don't show whether the other one is better or worse."),
        ([20, 0, 80, 20], "of 3 others: 1 better, 1 worse, 1 not distinguishable."),
        ([5], "No other recipe was completed."),
    ],
)
def test_outcome_is_no_victory_unless_others_are_worse(
    tmp_path: Path, wrong_counts: list[int], sentence: str
) -> None:
    assert sentence in details(compared(tmp_path, wrong_counts))


def test_details_say_that_recipes_were_stopped_early(tmp_path: Path) -> None:
    completed = trial_row(
        TrialConfig(), test_accuracy=0.9, best_val_loss=0.1, recipe_seconds=9.0, val_score=0.9
    )
    stopped = [
        trial_row(TrialConfig(batch_size=64, seed=seed), status="stopped", epochs_run=4 + seed)
        for seed in range(2)
    ]
    one = read_analysis(write_results(tmp_path / "one", [completed, stopped[0]]))
    assert "1 of 2 recipes was stopped after 4 epochs and may be better." in details(one)
    two = read_analysis(write_results(tmp_path / "two", [completed, *stopped]))
    assert "1 of 2 recipes was stopped after 4–5 epochs and may be better." in details(two)
    whole = read_analysis(write_results(tmp_path / "whole", [completed]))
    assert "may be better" not in details(whole)


def test_headline_and_claims_give_one_number_with_uneven_folds(tmp_path: Path) -> None:
    rows, predictions = [], []
    for recipe in (8, 16):
        for fold, images in enumerate((10, 80, 30)):
            config = TrialConfig(batch_size=recipe, folds=3, fold=fold)
            tested = prediction_rows(config.key, range(fold * 10), n=images)
            predictions += [row | {"image": f"{fold}/{row['image']}"} for row in tested]
            accuracy = 1 - fold * 10 / images
            row = trial_row(config, test_accuracy=accuracy, best_val_loss=0.1, test_images=images)
            rows.append(row)
    analysis = read_analysis(write_results(tmp_path, rows, predictions=predictions))
    # 90 of 120 images are right, although the mean of three folds is 74 %
    assert "75.0 % [" in sentences.headline(ReportContext(analysis))
    assert "75.0 % and 75.0 % of 120 images correct" in claims(analysis)[0]
    assert build_comparison(analysis).values["test_accuracy"][0] == pytest.approx(0.75)


def test_without_completed_trial_nothing_is_claimed(tmp_path: Path) -> None:
    rows = [trial_row(TrialConfig(), status="failed", error="x")]
    analysis = read_analysis(write_results(tmp_path, rows))
    assert "No trial was completed" in sentences.headline(ReportContext(analysis))
    assert details(analysis) == ""


# claims


def test_ties_come_with_interval_and_detectable_difference(tmp_path: Path) -> None:
    (claim,) = claims(compared(tmp_path, [9, 10]))
    assert claim.startswith(
        "90.0 % and 91.0 % of 100 images correct: not distinguishable; the difference is between "
    )
    assert "points would have been found in 4 of 5 cases, p = 1" in claim
    assert "Not distinguishable doesn't mean equal" in details(compared(tmp_path / "b", [9, 10]))


def test_claims_of_single_runs_are_about_this_trained_model(tmp_path: Path) -> None:
    (claim,) = claims(compared(tmp_path, [0, 40]))
    assert "this trained model is worse by 40.0 points [" in claim
    (claim,) = claims(compared(tmp_path / "seeds", [0, 40], seeds=3))
    assert ": worse by 40.0 points" in claim


def test_interval_has_direction_of_its_verdict(tmp_path: Path) -> None:
    (claim,) = claims(compared(tmp_path, [10, 0], images=600))
    assert "better by 1.7 points [0." in claim


def test_difference_over_images_but_not_over_groups_is_named(tmp_path: Path) -> None:
    slides = [f"slide{image // 60}" for image in range(600)]
    rows, images = [], []
    for size, wrong in ((8, []), (16, range(20))):
        config = TrialConfig(batch_size=size)
        rows.append(trial_row(config, best_val_loss=size, test_accuracy=1 - len(wrong) / 600))
        images += prediction_rows(config.key, wrong, groups=slides)
    analysis = read_analysis(write_results(tmp_path, rows, predictions=images))
    assert "(a difference over single images, but not over groups)" in claims(analysis)[0]


def test_claims_name_epochs_that_differ(tmp_path: Path) -> None:
    nine = read_analysis(write_report_2023(tmp_path))
    assert any(
        claim.startswith("94.0 % and 95.3 % of 600 images correct (after 50 and 40 epochs): not")
        for claim in claims(nine)
    )


def test_worse_is_said_with_the_training_of_a_recipe_that_still_improved(tmp_path: Path) -> None:
    """The second recipe is worse than the best one, and its loss still fell."""
    analysis = compared(tmp_path, [5, 60], epochs=3, learning_rate=0.001)
    assert "still improving" not in claims(analysis)[0]
    keys = analysis.trials["key"]
    ended = epoch_rows(keys[0], [0.5, 0.4, 0.45, 0.45], [0.9] * 4)
    falling = epoch_rows(keys[1], [0.9, 0.8, 0.7, 0.6], [0.4] * 4)
    results = dataclasses.replace(analysis.results, epochs=pd.DataFrame(ended + falling))
    improving = Analysis(results)
    length = f"after {analysis.trials['epochs'][1]} epochs at a learning rate of 0.001"
    assert f"{length}, when it was still improving" in claims(improving)[0]
    assert "Of the worse ones, 1 were still improving" in details(improving)
    verdicts = build_comparison(improving).values["verdict"].dropna().tolist()
    assert verdicts[0] == "best"
    assert verdicts[1].startswith("worse (this model) after")


def test_images_of_each_class_are_counted_on_the_console(tmp_path: Path) -> None:
    analysis = compared(tmp_path, [5, 60])
    trial = analysis.trials.iloc[0]
    columns = {name: trial[name] for name in ("split", "folds", "fold")}
    columns["group_pattern"] = None
    rows = [("a", 0, "train"), ("b", 0, "test"), ("c", 1, "val"), ("d", 1, "train")]
    images = [
        columns | {"image": name, "group": None, "label": label, "subset": subset}
        for name, label, subset in rows
    ]
    results = dataclasses.replace(analysis.results, images=pd.DataFrame(images))
    first, second, *_ = results.manifest["data"]["classes"]
    expected = f"for training/validation/test: {first} 1/0/1, {second} 1/1/0"
    assert expected in printed(Analysis(results))


def test_one_test_group_allows_no_comparison_and_names_the_way_out(tmp_path: Path) -> None:
    analysis = compared(tmp_path, [0, 10, 20, 30, 40], groups=1)
    text = printed(analysis)
    reason = "all test images are of one group, so nothing can be said about other groups"
    assert f"batch 16; batch 24; batch 32; and 1 more: {reason}" in text
    assert "Cross-validate with `--folds 5`" in text
    page = html_page.write_page(analysis, tmp_path / "report.html").read_text()
    assert "<code>--folds 5</code>" in page
    assert "None of the others can be compared with it." in page


def test_balanced_score_is_named_instead_of_accuracy(tmp_path: Path) -> None:
    accurate = compared(tmp_path / "a", [6, 40])
    trials = accurate.trials.assign(score_used="balanced_accuracy")
    balanced = Analysis(dataclasses.replace(accurate.results, trials=trials))
    assert "with a balanced accuracy of 9" in sentences.headline(ReportContext(balanced))
    assert claims(balanced)[0].startswith("balanced accuracy ")
    columns = [column.name for column in build_comparison(balanced).columns]
    assert columns.index("balanced_accuracy") < columns.index("test_accuracy")
    page = html_page.write_page(balanced, tmp_path / "report.html").read_text()
    assert "balanced test accuracy of the best" in page


# what isn't compared, and the faster recipe


def with_times(
    analysis: Analysis, seconds: list[float], scores: list[float], **columns
) -> Analysis:
    trials = analysis.trials.assign(recipe_seconds=seconds, val_score=scores, **columns)
    return Analysis(dataclasses.replace(analysis.results, trials=trials))


def test_faster_recipe_is_chosen_by_validation_alone(tmp_path: Path) -> None:
    analysis = compared(tmp_path, [5, 5, 5])
    nearly = with_times(analysis, [100, 20, 10], [0.950, 0.945, 0.900])
    assert "(−0.5 points): batch 16, 20.0 s instead of 1:40 min" in details(nearly)
    worse_on_test = compared(tmp_path / "worse", [5, 50, 5])
    nearly = with_times(worse_on_test, [100, 20, 10], [0.950, 0.945, 0.900])
    assert "batch 16, 20.0 s instead" in details(nearly)
    alike = with_times(analysis, [100, 95, 100], [0.95, 0.95, 0.95])
    assert "faster recipe" not in details(alike)


def test_times_of_other_devices_are_not_compared(tmp_path: Path) -> None:
    analysis = compared(tmp_path, [5, 5])
    other = with_times(analysis, [100, 20], [0.95, 0.95], device=["cuda", "cpu"])
    assert "faster recipe" not in details(other)
    table = build_comparison(other)
    assert "device" in [column.name for column in table.columns]
    assert any("under different conditions (device): don't compare" in text for text in table.notes)


def test_batch_norm_that_follows_from_freezing_is_no_other_condition(tmp_path: Path) -> None:
    rows = []
    for freeze, scope in (("none", "local"), ("features", "frozen")):
        rows.append(trial_row(TrialConfig(freeze=freeze), test_accuracy=0.9, batch_norm=scope))
    analysis = read_analysis(write_results(tmp_path, rows))
    assert [check.code for check in analysis.checks] == []


# curves and languages


def test_curve_readings_are_put_into_words(tmp_path: Path) -> None:
    rising = epoch_rows("a", [1.0, 0.4, 0.5, 0.6, 0.7, 0.8], [0.5, 0.9, 0.8, 0.9, 0.8, 0.9])
    calm = epoch_rows("b", [0.9, 0.8, 0.7, 0.6], [0.6, 0.6, 0.6, 0.6], train=0.75)
    unknown = epoch_rows("c", [float("nan")] * 4, [0.6] * 4)
    rows = [trial_row(TrialConfig())]
    analysis = read_analysis(write_results(tmp_path, rows, rising + calm + unknown))
    readings = []
    for curve in analysis.curves.to_dict("records"):
        readings.append(sentences.curve_reading(curve, "en"))
    assert readings == [
        "validation loss fell until epoch 2 of 6; then rose by 100 % while training loss fell: "
        "over-fitting; validation accuracy moves by 10.0 points from epoch to epoch: unstable",
        "validation loss fell until epoch 4 of 4; still improving: more epochs might help",
        "no validation loss was recorded",
    ]


@pytest.mark.parametrize("out_of_patience", [None, True])
def test_recipes_that_still_improve_are_counted_with_the_command_that_continues_them(
    out_of_patience: bool | None, tmp_path: Path
) -> None:
    first, second = TrialConfig(epochs=20), TrialConfig(epochs=20, batch_size=16)
    rows = [
        trial_row(first, best_val_loss=0.1, test_accuracy=0.9),
        trial_row(second, best_val_loss=0.2, test_accuracy=0.8, out_of_patience=out_of_patience),
    ]
    calm = [0.3] * 10 + [0.1, 0.3] * 5
    epochs = epoch_rows(first.key, calm, [0.5] * 20)
    epochs += epoch_rows(second.key, list(np.linspace(1, 0.2, 20)), [0.5] * 20)
    predictions = [*prediction_rows(first.key), *prediction_rows(second.key)]
    analysis = read_analysis(write_results(tmp_path, rows, epochs, predictions))
    sentence = "1 of 2 recipes was still improving when its training ended. To continue it, run "
    sentence += "the same command with `--epochs 40`."
    assert (sentence in details(analysis)) == (out_of_patience is None)


def test_claims_on_the_console_are_translated(tmp_path: Path) -> None:
    text = printed(compared(tmp_path, [5, 40, 6]), "zh-TW")
    assert "驗證結果最佳：" in text
    assert "這個訓練好的模型低 35.0 個百分點" in text
    assert "better" not in text
    assert "worse" not in text


def test_recipes_of_one_name_keep_one_label_everywhere(tmp_path: Path) -> None:
    rows = [
        trial_row(TrialConfig(weights=name), test_accuracy=0.9, best_val_loss=loss)
        for name, loss in ((V1, 0.2), (V2, 0.1))
    ]
    analysis = read_analysis(write_results(tmp_path, rows))
    report = ReportContext(analysis)
    assert [report.recipe(key) for key in analysis.first_trials.index] == [
        "weights IMAGENET1K_V1",
        "weights IMAGENET1K_V2",
    ]


def test_refused_effect_names_the_stopped_recipes(tmp_path: Path) -> None:
    rows, predictions = [], []
    for weights in (V1, V2):
        for freeze in ("none", "features"):
            config = TrialConfig(weights=weights, freeze=freeze)
            if (weights, freeze) == (V1, "none"):
                rows.append(trial_row(config, status="stopped", epochs_run=2))
                continue
            rows.append(trial_row(config, best_val_loss=0.1, test_accuracy=0.9))
            predictions += prediction_rows(config.key, range(10))
    analysis = read_analysis(write_results(tmp_path, rows, predictions=predictions))
    reason = (
        "not estimated: early stopping ended trials that it averages over "
        f"(weights {V1}, trained: all layers)"
    )
    table = effects_table(analysis)
    assert table.values["effect"].isna().all()
    assert set(table.values["claim"]) == {reason}
    assert reason in html_page.render_page(ReportContext(analysis))
