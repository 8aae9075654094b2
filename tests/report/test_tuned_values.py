"""What the report says of tuned values: which were chosen, and whether the choice is sound."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bioimg.config import TrialConfig
from bioimg.report import sentences
from bioimg.report.analysis import Analysis
from bioimg.report.comparison_table import tuned_values_text
from bioimg.report.report_context import ReportContext
from support.example_results import prediction_rows, read_analysis, trial_row, write_results

Losses = Mapping[tuple[int, object], float | None]
"""The validation loss of each trial by batch size and tuned value; None if it failed."""

MIDDLE: Losses = {
    (32, 1e-4): 0.5,
    (32, 3e-4): 0.3,
    (32, 1e-3): 0.4,
    (64, 1e-4): 0.7,
    (64, 3e-4): 0.5,
    (64, 1e-3): 0.6,
}
"""Both recipes are best in the middle, and batch 32 is first with each of the values."""

Analyse = Callable[..., Analysis]


@pytest.fixture
def analyse(tmp_path: Path) -> Analyse:
    """Return a function that analyses two recipes, tuned with one seed; one `Losses` a fold."""

    def write_and_read(*losses_by_fold: Losses, field: str = "learning_rate") -> Analysis:
        trials, predictions = [], []
        folds = len(losses_by_fold) if len(losses_by_fold) > 1 else 0
        for fold, losses in enumerate(losses_by_fold):
            for (batch_size, value), loss in losses.items():
                tuned: dict = {field: value}
                config = TrialConfig(batch_size=batch_size, folds=folds, fold=fold, **tuned)
                status = "failed" if loss is None else "completed"
                accuracy = 1.0 if loss is not None else None
                measured = {"best_val_loss": loss, "test_accuracy": accuracy, "test_images": 12}
                trials.append(trial_row(config, status=status, recipe_seconds=9.0, **measured))
                if loss is not None:
                    predictions += fold_predictions(config)
        path = write_results(
            tmp_path / "results", trials, (), predictions, tune=[field], tune_seeds=1
        )
        return read_analysis(path)

    return write_and_read


def fold_predictions(config: TrialConfig) -> list[dict]:
    """Return right predictions of 12 images that no other fold tests."""
    rows = prediction_rows(config.key, n=12)
    return [row | {"image": f"{config.fold}-{row['image']}"} for row in rows]


def chosen_values(analysis: Analysis) -> list[str | None]:
    """Return the cells of the column of tuned values, batch 32 first."""
    first = analysis.first_trials.sort_values("batch_size")
    return [tuned_values_text(analysis, key, "en") for key in first["key"]]


def warnings(analysis: Analysis) -> str:
    return " ".join(ReportContext(analysis).warnings)


def details(analysis: Analysis) -> str:
    return " ".join(sentences.headline_details(ReportContext(analysis)))


# chosen values


def test_a_row_has_its_value_and_the_number_of_those_that_were_tried(analyse: Analyse):
    assert chosen_values(analyse(MIDDLE)) == ["learning rate 0.0003 of 3"] * 2


def test_folds_that_choose_differently_are_counted_for_each_value(analyse: Analyse):
    other = {**MIDDLE, (64, 1e-3): 0.2}
    assert chosen_values(analyse(MIDDLE, other, MIDDLE)) == [
        "learning rate 0.0003 of 3",
        "learning rate 0.0003 in 2 of 3 folds, learning rate 0.001 in 1 of 3 folds; 3 tried",
    ]


def test_a_recipe_whose_trials_all_failed_has_no_value(analyse: Analyse):
    failed = {cell: None if cell[0] == 64 else loss for cell, loss in MIDDLE.items()}
    assert chosen_values(analyse(failed)) == ["learning rate 0.0003 of 3", None]


# the range of values


def test_a_value_within_its_range_is_no_reason_to_warn(analyse: Analyse):
    assert "end of its range" not in warnings(analyse(MIDDLE))


@pytest.mark.parametrize(
    ("better", "recipes", "flag"),
    [
        ({(32, 1e-4): 0.1}, "1 of 2", "--learning-rate 3.3e-05 0.0001 0.0003 0.001"),
        ({(64, 1e-3): 0.1}, "1 of 2", "--learning-rate 0.0001 0.0003 0.001 0.0033"),
        (
            {(32, 1e-4): 0.1, (64, 1e-3): 0.1},
            "2 of 2",
            "--learning-rate 3.3e-05 0.0001 0.0003 0.001 0.0033",
        ),
    ],
)
def test_a_value_at_an_end_of_its_range_names_the_command_that_tries_the_next(
    analyse: Analyse, better: Losses, recipes: str, flag: str
):
    text = warnings(analyse({**MIDDLE, **better}))
    assert f"{recipes} recipes have a learning rate at an end of its range" in text
    assert f"`{flag}`" in text


def test_an_end_that_only_one_of_several_folds_chose_is_told(analyse: Analyse):
    text = warnings(analyse(MIDDLE, {**MIDDLE, (32, 1e-4): 0.1}, MIDDLE))
    assert "1 of 2 recipes have a learning rate at an end" in text


def test_no_weight_decay_below_zero_is_asked_for(analyse: Analyse):
    losses = {(32, 0.0): 0.1, (32, 0.01): 0.2, (32, 0.1): 0.3}
    assert "end of its range" not in warnings(analyse(losses, field="weight_decay"))


def test_names_have_no_range(analyse: Analyse):
    losses = {(32, "adamw"): 0.1, (32, "sgd"): 0.2, (64, "adamw"): 0.2, (64, "sgd"): 0.1}
    analysis = analyse(losses, field="optimizer")
    assert "end of its range" not in warnings(analysis)
    assert chosen_values(analysis) == ["optimizer adamw of 2", "optimizer sgd of 2"]


def test_a_value_that_failed_does_not_bound_the_range(analyse: Analyse):
    assert "end of its range" in warnings(analyse({**MIDDLE, (32, 1e-4): 0.1, (32, 1e-3): None}))


def test_recipes_that_had_more_values_to_choose_from_are_told(analyse: Analyse):
    fewer = {cell: loss for cell, loss in MIDDLE.items() if cell != (64, 1e-3)}
    assert "different numbers of values (2 to 3)" in warnings(analyse(fewer))
    assert "different numbers of values" not in warnings(analyse(MIDDLE))


# one value for all


def test_a_value_with_which_another_recipe_would_have_come_first_is_named(analyse: Analyse):
    text = details(analyse({**MIDDLE, (64, 1e-4): 0.4}))
    assert "With the same learning rate 0.0001 for all, batch 64 would have come first." in text
    assert text.count("With the same") == 1


def test_a_recipe_that_is_first_with_every_value_needs_no_such_sentence(analyse: Analyse):
    assert "With the same" not in details(analyse(MIDDLE))


def test_a_value_that_one_recipe_could_not_complete_decides_nothing(analyse: Analyse):
    assert "With the same" not in details(analyse({**MIDDLE, (64, 1e-4): 0.4, (32, 1e-4): None}))


def test_with_folds_the_mean_over_them_decides(analyse: Analyse):
    turned = {**MIDDLE, (64, 1e-4): 0.4}
    # batch 64 has 0.4, 0.4 and 0.8, then 0.6, with 1e-4, and batch 32 has 0.5 in each fold
    assert "With the same" not in details(analyse(turned, turned, {**MIDDLE, (64, 1e-4): 0.8}))
    assert "With the same" in details(analyse(turned, turned, {**MIDDLE, (64, 1e-4): 0.6}))
