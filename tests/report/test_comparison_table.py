"""Tables before they have a format: rows, columns, rounding, repeats, and notes."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.report import detail_tables
from bioimg.report.analysis import Analysis
from bioimg.report.comparison_table import build_comparison
from bioimg.report.formatting import interval_decimals
from bioimg.report.row_filter import select_rows
from bioimg.report.table_model import (
    MAX_NAME_CHARACTERS,
    Column,
    Table,
    format_cell,
    sanitise_text,
)
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


@pytest.fixture
def nine(tmp_path: Path) -> Analysis:
    return read_analysis(write_report_2023(tmp_path / "report-2023"))


def with_trials(analysis: Analysis, trials: pd.DataFrame) -> Analysis:
    return Analysis(dataclasses.replace(analysis.results, trials=trials))


def column_of(table: Table, name: str) -> list[str]:
    position = [column.name for column in table.columns].index(name)
    return [row[position] for row in table.cells()]


# rows, columns, order


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ('freeze == "none"', 6),
        ('not freeze == "none" and weights == "IMAGENET1K_V1"', 1),
        ("epochs in [40, 60] or batch_size == 64", 5),
        ("0.9 < test_accuracy <= 0.94", 3),
        ("best_val_loss > -1.5 and synthetic == False", 9),
        ("batch_size == epochs", 0),
        (None, 9),
    ],
)
def test_condition_selects_matching_rows(nine: Analysis, query: str | None, count: int) -> None:
    assert len(select_rows(nine.trials, query)) == count


@pytest.mark.parametrize(
    "query",
    [
        "__import__('os').system('true')",
        "@pd.io.common.os.system('true') == 0",
        "weights.str.len() == 3",
        "weights.map(print) == 1",
        "(lambda: 1)() == 1",
        "[x for x in (1, 2)] == 1",
        "weights[0] == 'I'",
        "f'{weights}' == 'a'",
        "(epochs := 3) == 3",
        "epochs + 1 == 2",
        "epochs == 50 & batch_size == 32",
        "epochs",
        "`weights` == 'a'",
        "epochs = 50",
        "epochs == 50\nimport os",
        "epochs == None",
        "(" * 500 + "epochs == 1" + ")" * 500,
    ],
)
def test_conditions_with_code_are_refused(nine: Analysis, query: str) -> None:
    with pytest.raises(UserError, match="the value of `rows` is"):
        select_rows(nine.trials, query)


def test_unknown_column_is_named_with_the_closest(nine: Analysis) -> None:
    for call in (
        lambda: build_comparison(nine, rows="batchsize == 32"),
        lambda: build_comparison(nine, columns=["batchsize"]),
        lambda: build_comparison(nine, sort=["batchsize"]),
        lambda: build_comparison(nine, group_by=["batchsize"]),
    ):
        with pytest.raises(UserError, match="Did you mean 'batch_size'"):
            call()


def test_comparing_text_with_numbers_is_refused(nine: Analysis) -> None:
    with pytest.raises(UserError, match="must compare text with text and numbers with numbers"):
        select_rows(nine.trials, "weights > 3")


def test_sorting_puts_best_first_and_uncompleted_last(tmp_path: Path) -> None:
    rows = [
        trial_row(TrialConfig(batch_size=1), status="failed", error="CUDA out of memory"),
        trial_row(
            TrialConfig(batch_size=2), status="stopped", epochs_run=4, best_val_accuracy=0.99
        ),
        trial_row(
            TrialConfig(batch_size=3), test_accuracy=0.8, best_val_accuracy=0.8, best_val_loss=0.3
        ),
        trial_row(
            TrialConfig(batch_size=4), test_accuracy=0.9, best_val_accuracy=0.9, best_val_loss=0.4
        ),
    ]
    results = read_analysis(write_results(tmp_path, rows))
    assert column_of(build_comparison(results, sort=["best_val_accuracy"]), "batch_size") == [
        "4",
        "3",
        "2",
        "1",
    ]
    assert column_of(build_comparison(results, sort=["best_val_loss"]), "batch_size") == [
        "3",
        "4",
        "2",
        "1",
    ]
    table = build_comparison(results, sort=["best_val_accuracy"])
    assert column_of(table, "status") == [
        "completed",
        "completed",
        "stopped after 4/50",
        "failed: CUDA out of memory",
    ]
    assert column_of(table, "verdict")[2:] == ["–", "–"]
    assert column_of(table, "test_accuracy")[2:] == ["–", "–"]


# repeats and groups


@pytest.fixture
def seeds(tmp_path: Path) -> Analysis:
    """Two configurations of three seeds each, of which one failed."""
    rows = []
    for weights, loss, accuracies in ((V1, 0.2, (0.90, 0.92, 0.94)), (V2, 0.3, (0.95, 0.97, None))):
        for seed, accuracy in enumerate(accuracies):
            config = TrialConfig(weights=weights, seed=seed)
            ended = {
                "status": "completed",
                "test_accuracy": accuracy,
                "best_val_loss": loss,
                "train_seconds": 60.0,
            }
            rows.append(
                trial_row(
                    config, **(ended if accuracy else {"status": "failed", "error": "killed"})
                )
            )
    return read_analysis(write_results(tmp_path / "seeds", rows))


def test_seeds_become_one_row_with_deviation(seeds: Analysis) -> None:
    table = build_comparison(seeds)
    assert column_of(table, "test_accuracy") == [
        "92.0 ± 2.0 [87.6, 96.1]",
        "96.0 ± 1.4 [91.5, 100.0]",
    ]
    assert column_of(table, "runs") == ["3", "2"]
    assert column_of(table, "status") == ["3 completed", "2 completed, 1 failed"]
    assert table.values["test_accuracy_sd"].tolist() == pytest.approx([0.02, 0.0141421], abs=1e-6)
    assert any("standard deviation over a row's completed runs" in note for note in table.notes)


def test_notes_of_folds_say_that_selection_is_optimistic(tmp_path: Path) -> None:
    rows = [
        trial_row(TrialConfig(folds=3, fold=fold), test_accuracy=0.9, best_val_loss=0.1)
        for fold in range(3)
    ]
    notes = build_comparison(read_analysis(write_results(tmp_path, rows))).notes
    assert any("validation images of one fold are test images of another" in note for note in notes)
    assert not any("test set isn't used to select anything" in note for note in notes)


def test_single_shows_every_repeat(seeds: Analysis) -> None:
    table = build_comparison(seeds, single=True)
    assert column_of(table, "seed") == ["0", "1", "2", "0", "1", "2"]
    assert column_of(table, "test_accuracy")[:2] == ["90.0", "92.0"]
    assert column_of(table, "verdict")[:3] == ["best"] * 3


def test_group_by_averages_trials_with_equal_settings(nine: Analysis) -> None:
    table = build_comparison(nine, group_by=["freeze"], columns=["freeze", "test_accuracy", "runs"])
    assert table.cells() == [
        ["all layers", "94.2 ± 0.8", "6"],
        ["head only", "86.5 ± 1.0", "3"],
    ]


def test_group_without_completed_trial_has_no_mean(tmp_path: Path) -> None:
    rows = [trial_row(TrialConfig(seed=seed), status="failed", error="x") for seed in (0, 1)]
    table = build_comparison(read_analysis(write_results(tmp_path, rows)))
    assert column_of(table, "test_accuracy") == ["–"]
    assert column_of(table, "status") == ["2 failed"]


# rounding


@pytest.mark.parametrize(
    ("halfwidth", "decimals"), [(12, 0), (1.8, 1), (0.43, 2), (0.01, 2), (float("nan"), 1), (0, 1)]
)
def test_decimals_follow_the_interval_width(halfwidth: float, decimals: int) -> None:
    assert interval_decimals(halfwidth) == decimals


def test_fewer_test_images_give_fewer_decimals(tmp_path: Path) -> None:
    for n, text in (
        (20, "95 [76, 99]"),
        (600, "95.0 [93.0, 96.5]"),
        (60000, "95.00 [94.82, 95.17]"),
    ):
        rows = [trial_row(TrialConfig(), test_accuracy=0.95, test_images=n)]
        assert column_of(
            build_comparison(read_analysis(write_results(tmp_path / str(n), rows))),
            "test_accuracy",
        ) == [text]


def test_minus_is_no_hyphen_and_zero_unsigned() -> None:
    column = Column(name="difference", kind="points", decimals=1)
    assert format_cell(column, {"difference": -0.013}) == "−1.3"
    assert format_cell(column, {"difference": -0.0001}) == "0.0"


def test_names_lose_control_characters_and_are_cut() -> None:
    assert sanitise_text("a\u202eb\x00c\nd") == "a\ufffdb\ufffdc d"
    assert sanitise_text("x" * 5000) == "x" * (MAX_NAME_CHARACTERS - 1) + "…"
    assert sanitise_text("שלום 腫瘤") == "שלום 腫瘤"


# notes and headline


def test_notes_state_images_selection_and_split(nine: Analysis) -> None:
    notes = "\n".join(build_comparison(nine).notes)
    for sentence in (
        "n: 2550 training, 600 validation and 600 test images of kather2016 "
        "(fingerprint 5eed5eed5eed5eed).",
        "Split: auto.",
        "WARNING: the split ignores known groups",
        "lowest validation loss",
        "No early stopping.",
        "One run each",
        f"from results {nine.digest}.",
    ):
        assert sentence in notes


def test_notes_state_early_stopping_rule_and_count(tmp_path: Path) -> None:
    rows = [
        trial_row(TrialConfig(), test_accuracy=0.9),
        trial_row(TrialConfig(batch_size=64), status="stopped", epochs_run=4),
    ]
    rule = {
        "metric": "val_accuracy",
        "grace_period": 2,
        "reduction_factor": 2,
        "alpha": 0.1,
        "compare_within": ["freeze"],
    }
    notes = build_comparison(
        read_analysis(write_results(tmp_path, rows, early_stopping=rule))
    ).notes
    assert any("(one-sided exact test of signs, p ≤ 0.1)" in note for note in notes)
    assert any(
        "ASHA on val_accuracy, from epoch 2" in note and "1 of 2 trials stopped" in note
        for note in notes
    )


def test_stopping_metric_comes_from_the_rows(
    tmp_path: Path,
) -> None:
    stopped = trial_row(
        TrialConfig(batch_size=64),
        status="stopped",
        epochs_run=4,
        rung_metric="val_loss",
        rung_score=0.9,
    )
    rows = [trial_row(TrialConfig(), test_accuracy=0.9), stopped]
    rule = {
        "metric": "val_accuracy",
        "grace_period": 2,
        "reduction_factor": 2,
        "compare_within": ["freeze"],
    }
    notes = build_comparison(
        read_analysis(write_results(tmp_path / "other", rows, early_stopping=rule))
    ).notes
    assert any("ASHA on val_loss, from epoch 2" in note for note in notes)
    notes = build_comparison(
        read_analysis(write_results(tmp_path / "none", rows, early_stopping=None))
    ).notes
    assert any("1 of 2 trials were stopped early in an earlier run" in note for note in notes)
    assert not any("No early stopping" in note for note in notes)


def test_mixed_synthetic_and_unfinished_data_are_warned_of(
    tmp_path: Path,
) -> None:
    rows = [
        trial_row(TrialConfig(), test_accuracy=0.9),
        trial_row(TrialConfig(seed=1), data_fingerprint="else", synthetic=True),
    ]
    notes = "\n".join(
        build_comparison(read_analysis(write_results(tmp_path, rows, complete=False))).notes
    )
    assert "WARNING: rows differ in data fingerprint" in notes
    assert "SYNTHETIC IMAGES" in notes
    assert "isn't complete. Trials that have ended so far: 2." in notes


def test_notes_count_copies_and_unreadable_images(tmp_path: Path) -> None:
    noticed = {
        "duplicate_images_across_splits": 3,
        "look_alike_images_across_splits": 5,
        "likely_group_pattern": r"HE-(\d+)",
        "ignored_files": 4,
        "unreadable_skipped": 2,
    }
    rows = [trial_row(TrialConfig(), test_accuracy=0.9, **noticed)]
    notes = "\n".join(build_comparison(read_analysis(write_results(tmp_path, rows))).notes)
    assert "validation and test images have an exact copy in another subset (3)" in notes
    assert "look like one in another subset, turned or changed (5)" in notes
    assert r"groups, such as slides or patients, by HE-(\d+), and" in notes
    assert "left out, for want of a known suffix or a class: 4." in notes
    assert "Unreadable images left out: 2." in notes


def test_unequal_folds_are_not_mixed_data(tmp_path: Path) -> None:
    rows = [
        trial_row(
            TrialConfig(folds=3, fold=fold),
            test_accuracy=0.9 + fold / 100,
            best_val_loss=0.1,
            test_images=100 + fold,
        )
        for fold in range(3)
    ]
    table = build_comparison(read_analysis(write_results(tmp_path, rows)))
    assert column_of(table, "test_accuracy") == ["91.0 ± 1.0"]
    assert not any("rows differ" in note for note in table.notes)


def test_failed_row_keeps_image_counts_whole(
    tmp_path: Path,
) -> None:
    failed = {"status": "failed", "error": "x", "test_images": None, "epochs_run": None}
    rows = [
        trial_row(TrialConfig(weights=V1), test_accuracy=0.90, best_val_loss=0.2),
        trial_row(TrialConfig(batch_size=64), **failed),
    ]
    results = read_analysis(write_results(tmp_path, rows))
    assert "600 test images" in build_comparison(results).notes[0]


def test_digest_changes_with_numbers_not_row_order(
    nine: Analysis,
) -> None:
    trials = nine.trials
    changed = trials.assign(test_accuracy=trials["test_accuracy"] + 1e-12)
    assert with_trials(nine, trials.iloc[::-1]).digest == nine.digest
    assert with_trials(nine, changed).digest != nine.digest


def test_headers_and_notes_in_chinese(nine: Analysis) -> None:
    table = build_comparison(nine, lang="zh-TW")
    assert table.headers[:4] == ["預訓練權重", "訓練", "批次大小", "訓練週期數"]
    assert column_of(table, "verdict")[3] == "最佳"
    assert any("資料切分未考慮已知分組" in note for note in table.notes)
    with pytest.raises(UserError, match="the value of `lang` is 'tlh'"):
        build_comparison(nine, lang="tlh")


# the other tables


@pytest.fixture
def two(tmp_path: Path) -> Analysis:
    """A completed trial with predictions and curves, and a stopped one."""
    a, b = TrialConfig(batch_size=32, workers=2), TrialConfig(batch_size=64)
    rows = [
        trial_row(a, test_accuracy=0.95, best_val_loss=0.1, train_seconds=100.0, features="cached"),
        trial_row(b, status="stopped", epochs_run=10, train_seconds=20.0),
    ]
    curves = epoch_rows(a.key, [0.3, 0.1, 0.2], [0.7, 0.9, 0.9])
    return read_analysis(
        write_results(tmp_path / "two", rows, curves, prediction_rows(a.key, range(0, 180, 6)))
    )


def test_per_class_table_has_recall_intervals(two: Analysis) -> None:
    table = detail_tables.per_class_table(two)
    assert table.cells()[0] == [
        *("32", "2", "tumour", "70.0 [60.4, 78.1]", "100.00 [99.24, 100.00]"),
        *("100.0", "82.4", "100"),
    ]
    assert len(table.values) == 6


def test_confusion_table_has_a_column_per_class(two: Analysis) -> None:
    table = detail_tables.confusion_table(two)
    assert table.headers[2:] == [
        "label",
        "tumour",
        "stroma",
        "complex",
        "lympho",
        "debris",
        "mucosa",
    ]
    assert table.cells()[0] == ["32", "2", "tumour", "70", "30", "0", "0", "0", "0"]


def test_cost_table_counts_devices_epochs_and_price(two: Analysis) -> None:
    table = detail_tables.cost_table(two, price=36.0)
    shown = table.values.set_index("status")
    assert shown.loc["completed", "device_seconds"] == 200
    assert shown.loc["completed", "epochs_cached"] == 50
    assert shown.loc["stopped", "epochs_stopped"] == 40
    assert shown.loc["stopped", "seconds_stopped"] == 80
    assert shown.loc["total", "price"] == pytest.approx(2.2)
    assert "price" not in [column.name for column in detail_tables.cost_table(two).columns]


def test_epochs_shared_by_two_trials_cost_once(tmp_path: Path) -> None:
    short, long = TrialConfig(epochs=10), TrialConfig(epochs=20)
    rows = [
        trial_row(short, train_seconds=100.0),
        trial_row(long, train_seconds=200.0, continued_from=short.key),
    ]
    total = (
        detail_tables.cost_table(read_analysis(write_results(tmp_path, rows)), price=3.6)
        .values.set_index("status")
        .loc["total"]
    )
    assert total[["train_seconds", "epochs_run", "price"]].tolist() == pytest.approx([200, 20, 0.2])


def test_features_shared_by_two_trials_cost_once(tmp_path: Path) -> None:
    rows = []
    for size in (32, 64):
        config = TrialConfig(freeze="features", batch_size=size)
        rows.append(trial_row(config, train_seconds=10.0, features_seconds=100.0))
    table = detail_tables.cost_table(read_analysis(write_results(tmp_path, rows)), price=3.6)
    assert table.values["device_seconds"].tolist() == [110, 110, 120]
    assert table.values["features_seconds"].tolist() == [100, 100, 100]
    assert table.values["price"].iloc[-1] == pytest.approx(0.12)


def test_shared_epochs_of_a_stopped_trial_cost_once(
    tmp_path: Path,
) -> None:
    short, long = TrialConfig(epochs=10), TrialConfig(epochs=20)
    stopped = {
        "status": "stopped",
        "epochs_run": 5,
        "train_seconds": 50.0,
        "continued_from": short.key,
    }
    table = detail_tables.cost_table(
        read_analysis(
            write_results(
                tmp_path, [trial_row(short, train_seconds=100.0), trial_row(long, **stopped)]
            )
        )
    )
    total = table.values.set_index("status").loc["total"]
    assert total[["train_seconds", "epochs_run"]].tolist() == [100, 10]


@pytest.mark.parametrize("score_used", ["accuracy", "balanced_accuracy"])
def test_note_states_that_validation_loss_is_a_mean_over_classes(
    tmp_path: Path, score_used: str
) -> None:
    folder = write_results(tmp_path, [trial_row(TrialConfig(), score_used=score_used)])
    notes = build_comparison(read_analysis(folder)).notes
    says_so = any("mean over the classes' mean losses" in note for note in notes)
    assert says_so == (score_used == "balanced_accuracy")


def test_notes_state_that_losses_are_weighted(tmp_path: Path) -> None:
    for weights, expected in (("none", False), ("balanced", True)):
        table = build_comparison(
            read_analysis(
                write_results(tmp_path / weights, [trial_row(TrialConfig(class_weights=weights))])
            )
        )
        assert any("the training loss is weighted" in note for note in table.notes) is expected


def test_empty_detail_tables_are_left_out(nine: Analysis, two: Analysis) -> None:
    assert {table.name for table in detail_tables.build_detail_tables(nine)} == {
        "effects",
        "differences-best",
        "differences",
        "cost",
    }
    of_two = {"effects", "per-class", "confusion", "scores", "curves", "at-epoch", "cost"}
    assert {table.name for table in detail_tables.build_detail_tables(two)} == of_two


def test_scores_can_be_comparison_columns(two: Analysis) -> None:
    table = build_comparison(two, columns=["batch_size", "balanced_accuracy", "auroc"])
    assert table.cells()[0][0] == "32"
    assert table.cells()[0][1].startswith("95.0 [92.")
    assert table.cells()[1][1:] == ["–", "–"]


def stopped_and_completed(path: Path) -> Analysis:
    """One trial of 4 epochs that was stopped after 2, and one that failed after 1."""
    full, short, failed = (TrialConfig(epochs=4, batch_size=size) for size in (16, 32, 64))
    rows = [
        trial_row(full, test_accuracy=0.9),
        trial_row(short, status="stopped", epochs_run=2),
        trial_row(failed, status="failed"),
    ]
    epochs = epoch_rows(full.key, [4, 3, 2, 1], [0.1, 0.2, 0.8, 0.9]) + epoch_rows(
        short.key, [2, 1], [0.3, 0.4]
    )
    return read_analysis(write_results(path, rows, [*epochs, *epoch_rows(failed.key, [9], [0.0])]))


def test_epoch_table_ranks_stopped_with_completed_trials(
    tmp_path,
):
    table = detail_tables.epoch_table(stopped_and_completed(tmp_path))
    assert table.values["val_accuracy"].tolist() == [0.4, 0.2], "as of epoch 2, the best first"
    assert table.values["status"].tolist() == ["stopped", "completed"]
    assert "not final results" in table.caption
    assert any("As of epoch 2, which 2 of 3 trials reached" in note for note in table.notes)
    assert "at-epoch" in [
        table.name for table in detail_tables.build_detail_tables(stopped_and_completed(tmp_path))
    ]


def test_epoch_table_of_a_later_epoch(tmp_path):
    assert detail_tables.epoch_table(stopped_and_completed(tmp_path), epoch=3).values[
        "val_accuracy"
    ].tolist() == [0.8]
    with pytest.raises(
        UserError, match="`at_epoch` is 5, but must be an epoch that some trial reached: 1 to 4"
    ):
        detail_tables.epoch_table(stopped_and_completed(tmp_path), epoch=5)


@pytest.mark.parametrize(("groups", "warned"), [(3, True), (5, False)])
def test_few_test_groups_are_counted_and_warned_of(
    tmp_path: Path, groups: int, warned: bool
) -> None:
    config = TrialConfig()
    images = prediction_rows(
        config.key, [1], groups=[f"slide-{image % groups}" for image in range(600)]
    )
    rows = [trial_row(config, test_accuracy=599 / 600)]
    results = read_analysis(
        write_results(
            tmp_path, rows, predictions=images, data={**DATA, "image_size": 150, "groups": 9}
        )
    )
    notes = build_comparison(results).notes
    assert any(f"Independent groups among the test images: {groups}." in note for note in notes)
    few = [
        note
        for note in notes
        if note.startswith("WARNING: the test images come from few groups (3, worth 3.0 of equal")
    ]
    assert bool(few) is warned
    assert [check.text("en") for check in results.checks if check.code == "few_groups"] == few


DATA = {
    "name": "kather2016",
    "fingerprint": "5eed",
    "synthetic": False,
    "classes": ["a"] * 6,
    "images": 3750,
    "image_size": 150,
}


# the caption says which trials are shown


def test_caption_names_condition_of_a_selection(nine: Analysis) -> None:
    table = build_comparison(nine, rows='freeze=="none"  and batch_size>=64')
    assert table.caption == (
        "Recipes compared on kather2016 (trials: 3 of 9), "
        "where freeze == 'none' and batch_size >= 64"
    )


def test_caption_names_settings_of_grouped_rows(nine: Analysis) -> None:
    caption = build_comparison(nine, group_by=["weights", "freeze"]).caption
    assert caption == (
        "Recipes compared on kather2016 (trials: 9 of 9, one row per weights, freeze)"
    )
