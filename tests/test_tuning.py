"""Which values of tuned fields are tried, which is chosen, and what an experiment needs then."""

import dataclasses
import itertools

import pytest

from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.experiment import EarlyStopping, Experiment
from bioimg.experiment_settings import apply_settings
from bioimg.tuning import expected_count, wanted_trials

RATES = (1e-4, 3e-4, 1e-3)
TUNED = Experiment(
    name="tuned",
    base=TrialConfig(),
    axes={"batch_size": (16, 32), "learning_rate": RATES, "seed": (0, 1, 2)},
    tune=("learning_rate",),
)


def ended(trial: TrialConfig, loss: float | None, status: str = "completed") -> dict:
    """Return the row of a trial that has ended."""
    row = dataclasses.asdict(trial)
    return {**row, "key": trial.key, "status": status, "best_val_loss": loss}


def rows_of(experiment: Experiment, losses: dict[float, float], *seeds: int) -> list[dict]:
    """Return the rows of an experiment's trials with these rates and seeds, all completed."""
    rows = []
    for trial in experiment.trials():
        if trial.seed in seeds and trial.learning_rate in losses:
            rows.append(ended(trial, losses[trial.learning_rate]))
    return rows


def rates(trials: list[TrialConfig], **fields) -> list[float]:
    """Return the learning rates of those of some trials that have these values."""
    found = []
    for trial in trials:
        if all(getattr(trial, name) == value for name, value in fields.items()):
            found.append(trial.learning_rate)
    return found


# What is asked


def test_without_a_tuned_field_the_whole_grid_is_wanted():
    plain = dataclasses.replace(TUNED, tune=())
    assert wanted_trials(plain, []) == plain.trials()
    assert expected_count(plain) == 18


@pytest.mark.parametrize(
    ("name", "value", "values"),
    [
        ("learning_rate", 1e-4, (3.3e-5, 1e-4, 3e-4)),
        ("weight_decay", 0.0125, (0.0042, 0.0125, 0.038)),
    ],
)
def test_one_value_of_a_rate_is_tried_at_a_third_once_and_three_times_it(name, value, values):
    base = TrialConfig(**{name: value})
    experiment = Experiment(name="one", base=base, tune=(name,))
    assert experiment.axes == {name: values}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"tune": ("rate",)}, "the value of `tune` is 'rate', but must be one of"),
        ({"tune": ("seed",)}, "can't choose what it is trained and tested on"),
        ({"tune": ("image_size",)}, "can't choose what it is trained and tested on"),
        ({"tune": ("data",)}, "These fields can be tuned: model, weights, "),
        ({"tune": ("learning_rate", "learning_rate")}, "must hold no field twice"),
        ({"tune": ("optimizer",)}, "`optimizer` is 'adamw', but must be at least two values"),
        ({"tune": ("batch_size",)}, "`batch_size` is 32, but must be at least two values"),
        ({"tune": ("patience",)}, "Give more values, or leave it out of `tune`"),
        (
            {"tune": ("learning_rate",), "axes": {"learning_rate": (1e-3, 1e-3)}},
            "the axis `learning_rate` is (0.001, 0.001), but must hold",
        ),
        (
            {"tune": ("learning_rate",), "tune_seeds": 2},
            "`tune_seeds` is 2, but must be at most the number of seeds, which is 1",
        ),
        ({"tune_seeds": 0}, "the value of `tune_seeds` is 0, but must be `tune_seeds >= 1`"),
        (
            {
                "tune": ("learning_rate",),
                "early_stopping": EarlyStopping(compare_within=("weights",)),
            },
            "the value of `compare_within` is ('weights',), but must be left out with `tune`",
        ),
    ],
)
def test_what_cannot_be_tuned_is_refused(fields, text):
    with pytest.raises(UserError) as error:
        Experiment(name="bad", base=TrialConfig(), **fields)
    assert text in str(error.value)


def test_a_rate_of_zero_has_no_values_around_it():
    with pytest.raises(UserError, match=r"`weight_decay` is 0\.0, but must be at least two values"):
        Experiment(name="bad", base=TrialConfig(weight_decay=0.0), tune=("weight_decay",))


def test_settings_replace_what_is_tuned():
    changed, _ = apply_settings(TUNED, {"tune": ["weight_decay"], "weight_decay": [0.1, 0.2]})
    assert changed.tune == ("weight_decay",)
    assert changed.axes["weight_decay"] == (0.1, 0.2)
    nothing, _ = apply_settings(TUNED, {"tune": []})
    assert nothing.tune == ()
    assert nothing.axes == TUNED.axes


def test_one_value_that_is_given_is_used_unless_its_field_is_to_be_tuned():
    fixed, _ = apply_settings(TUNED, {"learning_rate": 2e-3, "tune": None})
    assert fixed.tune == ()
    assert "learning_rate" not in fixed.axes
    tuned, _ = apply_settings(TUNED, {"learning_rate": 2e-3, "tune": "learning_rate"})
    assert tuned.axes["learning_rate"] == (0.00067, 2e-3, 0.006)


def test_a_trial_competes_only_with_other_values_of_its_recipe_seed_and_fold():
    rule = TUNED.stopping_rule
    assert rule is not None
    trials = TUNED.trials()
    for a, b in itertools.combinations(trials, 2):
        same_cohort = rule.cohort_key(a) == rule.cohort_key(b)
        assert same_cohort == (a.batch_size == b.batch_size and a.seed == b.seed)


def test_without_a_tuned_field_trials_compete_within_freeze():
    plain = dataclasses.replace(TUNED, tune=())
    rule = plain.stopping_rule
    assert rule is not None
    assert rule.compare_within == ("freeze",)
    assert len({rule.cohort_key(trial) for trial in plain.trials()}) == 1


# What is chosen


def test_all_values_are_tried_with_the_first_seed_only():
    wanted = wanted_trials(TUNED, [])
    assert {trial.seed for trial in wanted} == {0}
    assert rates(wanted, batch_size=16) == list(RATES)
    assert expected_count(TUNED) == 2 * 3 + 2 * 2


def test_the_other_seeds_run_with_the_value_of_the_lowest_validation_loss():
    rows = rows_of(TUNED, {1e-4: 0.5, 3e-4: 0.2, 1e-3: 0.3}, 0)
    wanted = wanted_trials(TUNED, rows)
    assert len(wanted) == expected_count(TUNED)
    for seed in (1, 2):
        assert rates(wanted, seed=seed) == [3e-4, 3e-4]


def test_each_recipe_chooses_for_itself():
    rows = []
    for trial in wanted_trials(TUNED, []):
        favourite = 1e-4 if trial.batch_size == 16 else 1e-3
        rows.append(ended(trial, abs(trial.learning_rate - favourite)))
    wanted = wanted_trials(TUNED, rows)
    assert rates(wanted, seed=1, batch_size=16) == [1e-4]
    assert rates(wanted, seed=1, batch_size=32) == [1e-3]


def test_each_fold_chooses_for_itself():
    base = TrialConfig(folds=3)
    axes = {"learning_rate": RATES, "seed": (0, 1), "fold": (0, 1, 2)}
    experiment = Experiment(name="folds", base=base, axes=axes, tune=("learning_rate",))
    rows = []
    for trial in wanted_trials(experiment, []):
        rows.append(ended(trial, abs(trial.learning_rate - RATES[trial.fold])))
    wanted = wanted_trials(experiment, rows)
    assert len(wanted) == expected_count(experiment) == 9 + 3
    assert [rates(wanted, seed=1, fold=fold) for fold in range(3)] == [[rate] for rate in RATES]


def test_a_recipe_waits_until_all_of_its_values_have_ended():
    rows = rows_of(TUNED, {1e-4: 0.5, 3e-4: 0.2, 1e-3: 0.3}, 0)
    missing = rows.pop()
    wanted = wanted_trials(TUNED, rows)
    assert rates(wanted, seed=1, batch_size=16) == [3e-4]
    assert rates(wanted, seed=1, batch_size=missing["batch_size"]) == []


@pytest.mark.parametrize("status", ["stopped", "failed"])
def test_a_value_that_was_not_completed_is_not_chosen(status):
    rows = rows_of(TUNED, {1e-4: 0.5, 3e-4: 0.2, 1e-3: 0.3}, 0)
    for row in rows:
        if row["learning_rate"] == 3e-4:
            row["status"] = status
    assert set(rates(wanted_trials(TUNED, rows), seed=1)) == {1e-3}


def test_with_several_seeds_the_mean_decides_among_values_completed_with_most_of_them():
    experiment = dataclasses.replace(TUNED, tune_seeds=2)
    rows = rows_of(experiment, {1e-4: 0.5, 3e-4: 0.3, 1e-3: 0.1}, 0)
    rows += rows_of(experiment, {1e-4: 0.3, 3e-4: 0.4, 1e-3: 0.1}, 1)
    for row in rows:
        if row["learning_rate"] == 1e-3 and row["seed"] == 1:
            row["status"] = "stopped"
    wanted = wanted_trials(experiment, rows)
    assert rates(wanted, seed=2) == [3e-4, 3e-4]
    assert len(wanted) == expected_count(experiment) == 2 * 6 + 2


def test_later_seeds_have_no_part_in_the_choice():
    rows = rows_of(TUNED, {1e-4: 0.5, 3e-4: 0.2, 1e-3: 0.3}, 0)
    rows += rows_of(TUNED, {1e-4: 0.01, 3e-4: 9.0}, 1, 2)
    assert set(rates(wanted_trials(TUNED, rows), seed=1)) == {3e-4}


def test_a_better_value_that_is_added_later_runs_with_the_other_seeds():
    rows = rows_of(TUNED, {1e-4: 0.5, 3e-4: 0.2, 1e-3: 0.3}, 0)
    rows += rows_of(TUNED, {3e-4: 0.2}, 1, 2)
    more = dataclasses.replace(TUNED, axes={**TUNED.axes, "learning_rate": (*RATES, 3e-3)})
    added = rows_of(more, {3e-3: 0.1}, 0)
    assert set(rates(wanted_trials(more, rows + added), seed=2)) == {3e-3}


def test_a_value_that_an_earlier_command_tried_can_be_chosen():
    rows = rows_of(TUNED, {1e-4: 0.1, 3e-4: 0.2, 1e-3: 0.3}, 0)
    fewer = dataclasses.replace(TUNED, axes={**TUNED.axes, "learning_rate": (3e-4, 1e-3)})
    assert set(rates(wanted_trials(fewer, rows), seed=2)) == {1e-4}


def test_the_order_of_rows_does_not_decide_between_equal_losses():
    rows = rows_of(TUNED, dict.fromkeys(RATES, 0.5), 0)
    assert wanted_trials(TUNED, rows) == wanted_trials(TUNED, rows[::-1])


def test_several_fields_are_tuned_together():
    axes = {"learning_rate": (1e-4, 1e-3), "weight_decay": (0.0, 0.1), "seed": (0, 1)}
    tune = ("learning_rate", "weight_decay")
    experiment = Experiment(name="two", base=TrialConfig(), axes=axes, tune=tune)
    rows = []
    for trial in wanted_trials(experiment, []):
        is_best = (trial.learning_rate, trial.weight_decay) == (1e-3, 0.0)
        rows.append(ended(trial, 0.1 if is_best else 0.5))
    (chosen,) = [trial for trial in wanted_trials(experiment, rows) if trial.seed == 1]
    assert (chosen.learning_rate, chosen.weight_decay) == (1e-3, 0.0)
