import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from ray.tune.schedulers import ASHAScheduler

from bioimg.cluster.tune_scheduler import CohortScheduler
from bioimg.cluster.tune_trial import encode_trial
from bioimg.config import TrialConfig
from bioimg.early_stopping import PastTrial, SuccessiveHalving, unfinished_cohort_leaders
from bioimg.errors import UserError
from bioimg.experiment import EarlyStopping, Experiment, StopReason


def test_the_grid_is_every_combination_of_the_axes():
    axes = {"weights": ("none", "DEFAULT"), "batch_size": (16, 32, 64)}
    trials = Experiment(name="grid", base=TrialConfig(), axes=axes).trials()
    assert [(t.weights, t.batch_size) for t in trials] == list(itertools.product(*axes.values()))
    assert len({t.key for t in trials}) == 6


@pytest.mark.parametrize(
    ("axes", "text"),
    [
        ({"batchsize": (1,)}, "Did you mean 'batch_size'?"),
        ({"seed": (1, 1)}, "none twice"),
        ({"seed": ()}, "at least one value"),
        ({"folds": (3, 5)}, "the value of `folds` is (3, 5), but must be one number"),
        ({"data": ("a", "b")}, "`data` can't be an axis"),
        ({"score": ("auto", "accuracy")}, "Run one experiment for each value of `score`"),
        ({"epochs": (1, 0)}, "the value of `epochs` is 0, but must be `epochs >= 1`"),
    ],
)
def test_axes_are_checked_when_the_experiment_is_made(axes, text):
    with pytest.raises(UserError) as error:
        Experiment(name="grid", base=TrialConfig(), axes=axes)
    assert text in str(error.value)


def test_rungs_lie_before_the_last_epoch():
    rule = EarlyStopping(grace_period=2, reduction_factor=2)
    assert rule.rungs(8) == (2, 4)
    assert rule.rungs(9) == (2, 4, 8)
    assert rule.rungs(2) == ()


@pytest.mark.parametrize(
    ("epochs", "rungs"), [(2, ()), (10, (2, 4, 8)), (50, (5, 10, 20, 40)), (100, (10, 20, 40, 80))]
)
def test_without_a_grace_period_the_first_rung_is_a_tenth_of_the_epochs(epochs, rungs):
    assert EarlyStopping().rungs(epochs) == rungs


@pytest.mark.parametrize("rule", [EarlyStopping(), None])
def test_frozen_trials_run_first_then_the_longest_and_the_rest_in_no_order_of_the_axes(rule):
    axes = {"epochs": (5, 9), "freeze": ("none", "features"), "seed": tuple(range(8))}
    experiment = Experiment(name="grid", base=TrialConfig(), axes=axes, early_stopping=rule)
    queue = experiment.in_run_order(experiment.trials())
    assert [trial.freeze for trial in queue] == ["features"] * 16 + ["none"] * 16
    assert [trial.epochs for trial in queue[16:]] == [9] * 8 + [5] * 8
    assert [trial.seed for trial in queue[:8]] == list(range(8)), (
        "features are made in the order of the grid"
    )
    assert [trial.seed for trial in queue[16:24]] != list(range(8))


def test_a_longer_axis_leaves_the_order_of_the_trials_there_were():
    few, more = (
        Experiment(name="g", base=TrialConfig(), axes={"seed": tuple(range(n))}) for n in (5, 20)
    )
    before = few.in_run_order(few.trials())
    assert [trial for trial in more.in_run_order(more.trials()) if trial in before] == before


def test_where_the_best_trial_of_a_cohort_failed_the_best_stopped_one_takes_its_place():
    failed, far, near, other = (TrialConfig(epochs=9, seed=seed) for seed in range(4))
    row = {
        "status": "stopped",
        "stopped_at_rung": 4,
        "rung_metric": "val_score",
        "rung_score": 0.5,
    }
    ended = {
        failed: {"status": "failed"},
        near: {**row, "stopped_at_rung": 2, "rung_score": 0.9},
        far: row,
    }
    assert unfinished_cohort_leaders(EarlyStopping(), ended) == [far]
    assert (
        unfinished_cohort_leaders(EarlyStopping(), ended | {other: {"status": "completed"}}) == []
    )


def test_stopped_trials_that_two_runs_judged_by_two_metrics_are_ranked_by_one_of_them():
    by_score, by_loss = (TrialConfig(epochs=9, seed=seed) for seed in range(2))
    row = {"status": "stopped", "stopped_at_rung": 4}
    ended = {
        by_score: {
            **row,
            "rung_metric": "val_score",
            "rung_score": 0.6,
        },
        by_loss: {**row, "rung_metric": "val_loss", "rung_score": 0.7},
    }
    assert unfinished_cohort_leaders(EarlyStopping(metric="val_score"), ended) == [by_score]
    assert unfinished_cohort_leaders(EarlyStopping(metric="val_loss"), ended) == [by_loss]


@pytest.mark.parametrize("metric", ["val_score", "val_loss"])
def test_the_local_rule_decides_as_the_scheduler_of_ray_does(metric):
    rule, epochs = EarlyStopping(metric=metric, grace_period=1, reduction_factor=3), 12
    ours = SuccessiveHalving(rule)
    mode = "min" if metric == "val_loss" else "max"
    theirs = ASHAScheduler(
        time_attr="epoch",
        metric=metric,
        mode=mode,
        max_t=epochs,
        grace_period=1,
        reduction_factor=3,
    )
    draw, stopped = np.random.default_rng(0), 0
    for number in range(40):
        config, ray_trial = (
            TrialConfig(epochs=epochs, seed=number),
            SimpleNamespace(trial_id=str(number)),
        )
        theirs.on_trial_add(None, ray_trial)
        for epoch in range(1, epochs):
            score = float(draw.random())
            stop = (
                theirs.on_trial_result(None, ray_trial, {"epoch": epoch, metric: score})
                == ASHAScheduler.STOP
            )
            assert bool(ours.decide(config, epoch, score)) == stop
            if stop:
                stopped += 1
                break
    assert stopped > 20


def test_trials_compete_within_their_cohort_only():
    halving = SuccessiveHalving(
        EarlyStopping(grace_period=1, compare_within=("weights",), spare_frozen=False)
    )
    for seed in range(4):
        assert not halving.decide(TrialConfig(weights="DEFAULT", seed=seed), 1, 0.9)
    assert not halving.decide(TrialConfig(weights="none"), 1, 0.1)
    assert halving.decide(TrialConfig(weights="DEFAULT", seed=9), 1, 0.1) == StopReason(
        1, 0.1, 0.9, (0.9,) * 4
    )


def test_folds_do_not_compete_since_they_are_validated_on_other_images():
    halving = SuccessiveHalving(EarlyStopping(grace_period=1))
    assert not halving.decide(TrialConfig(folds=3, fold=0), 1, 0.9)
    assert not halving.decide(TrialConfig(folds=3, fold=1), 1, 0.1)
    assert not halving.decide(TrialConfig(split="grouped"), 1, 0.1)
    assert halving.decide(TrialConfig(folds=3, fold=0, batch_size=64), 1, 0.1) == StopReason(
        1, 0.1, 0.9, (0.9,)
    )


def test_a_trial_that_is_judged_again_after_an_interruption_counts_once():
    halving = SuccessiveHalving(EarlyStopping(metric="val_loss", grace_period=1))
    for _ in range(2):
        assert halving.decide(TrialConfig(seed=1), 1, 0.1) is None
    assert halving.decide(TrialConfig(seed=2), 1, 0.9) == StopReason(
        1, 0.9, 0.1, (0.1,), "val_loss"
    )


def test_a_trial_that_starts_over_passes_the_rungs_that_it_has_passed_before():
    halving = SuccessiveHalving(EarlyStopping(grace_period=1))
    scores = {seed: seed / 10 for seed in (1, 9)}
    for seed, score in scores.items():
        assert halving.decide(TrialConfig(seed=seed), 1, score) is None
    assert halving.decide(TrialConfig(seed=1), 1, 0.1) is None
    assert halving.decide(TrialConfig(seed=4), 1, 0.4) == StopReason(1, 0.4, 0.5, (0.9, 0.1))


@pytest.fixture
def cohorts() -> CohortScheduler:
    """Make Tune's scheduler after an earlier run: one trial failed at a rung, one continued."""
    coordinator = SimpleNamespace(stop_trial=lambda key, reason: None)
    scores = {1: 0.1, 9: 0.9}
    known = [
        PastTrial(TrialConfig(seed=s), [{"epoch": 1, "val_score": score}])
        for s, score in scores.items()
    ]
    return CohortScheduler(EarlyStopping(grace_period=1), known, coordinator)


def result(cohorts: CohortScheduler, seed: int, score: float) -> str:
    """What the scheduler decides on a trial after its first epoch."""
    trial = SimpleNamespace(
        trial_id=f"tune's own {seed}", config={"trial": encode_trial(TrialConfig(seed=seed))}
    )
    cohorts.on_trial_add(None, trial)
    return cohorts.on_trial_result(None, trial, {"epoch": 1, "val_score": score})


def test_a_failed_trial_that_starts_over_counts_once_in_ray_s_scheduler_too(cohorts):
    assert result(cohorts, 1, 0.1) == "CONTINUE", "it has passed this rung before"
    assert result(cohorts, 4, 0.4) == "STOP", (
        "the median is 0.5; with the first trial counted twice it would be 0.1"
    )
    assert cohorts.stopped_keys == {TrialConfig(seed=4).key}


def test_it_is_an_error_if_ray_s_scheduler_and_the_local_rule_ever_disagree(cohorts, monkeypatch):
    monkeypatch.setattr(SuccessiveHalving, "decide", lambda *_: None)
    with pytest.raises(
        AssertionError, match=r"ASHA says STOP of trial .* at epoch 1, and SuccessiveHalving None"
    ):
        result(cohorts, 4, 0.4)


def test_frozen_trials_run_in_full_unless_told_otherwise():
    frozen = [TrialConfig(freeze="features", seed=seed) for seed in range(2)]
    for spare in (True, False):
        halving = SuccessiveHalving(EarlyStopping(grace_period=1, spare_frozen=spare))
        halving.decide(frozen[0], 1, 0.9)
        assert (halving.decide(frozen[1], 1, 0.1) is None) == spare


def test_in_every_order_one_trial_of_a_cohort_comes_to_its_end():
    scores = {seed: 0.1 * seed for seed in range(4)}
    for order in itertools.permutations(scores):
        halving = SuccessiveHalving(EarlyStopping(grace_period=1))
        trials = [TrialConfig(epochs=6, seed=seed) for seed in order]
        through = [
            all(halving.decide(t, e, scores[t.seed]) is None for e in range(1, 6)) for t in trials
        ]
        assert any(through)
