"""Which trials stop: ASHA names candidates, and the validation images decide."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import ASHAScheduler

from bioimg.cluster.tune_scheduler import CohortScheduler
from bioimg.cluster.tune_trial import encode_trial
from bioimg.config import TrialConfig
from bioimg.early_stopping import (
    PastTrial,
    StoppingRule,
    SuccessiveHalving,
    ValidationImages,
    find_images,
    lag_p_value,
    unfinished_cohort_leaders,
)
from bioimg.experiment import EarlyStopping, StopReason
from support import toys

IMAGES = 100


def epoch(number: int, right: int, images: int = IMAGES, **metrics: float) -> dict[str, Any]:
    """Return an epoch after which the first `right` of the validation images are recognised."""
    correct = np.arange(images) < right
    bits = np.packbits(correct).tobytes()
    return {"epoch": number, "val_score": right / images, "val_correct": bits, **metrics}


def images(count: int = IMAGES) -> Callable[[TrialConfig], ValidationImages]:
    """Return what finds validation images without groups, which all count alike."""
    return lambda trial: ValidationImages(np.full(count, 1 / count), None)


def stopping_rule(
    trials: Sequence[TrialConfig] = (), earlier: Sequence[PastTrial] = (), **rule: Any
) -> StoppingRule:
    return StoppingRule(EarlyStopping(**{"grace_period": 1, **rule}), trials, earlier, images())


def trial(**fields: Any) -> TrialConfig:
    return TrialConfig(**{"epochs": 8, **fields})


# the guard


def test_trial_that_is_clearly_behind_stops_and_says_against_whom():
    rule = stopping_rule()
    best = trial(seed=1)
    assert rule.decide(best, epoch(1, 80)) is None
    assert rule.decide(trial(seed=2), epoch(1, 70)) == StopReason(
        stopped_at_rung=1,
        rung_metric="val_score",
        rung_score=0.7,
        lost_to=best.key,
        lost_to_score=0.8,
        lost_to_epochs=1,
        lost_images=10,
        won_images=0,
        lost_p=pytest.approx(0.5**10),
    )


def test_trial_that_may_be_behind_by_chance_continues():
    rule = stopping_rule()
    rule.decide(trial(seed=1), epoch(1, 80))
    # of four images that only one recognises, all four are the other's in 1 of 16 cases
    assert rule.decide(trial(seed=2), epoch(1, 76)) is None
    assert rule.decide(trial(seed=3), epoch(1, 75)) is not None


def test_larger_alpha_needs_less_evidence():
    rule = stopping_rule(alpha=0.1)
    rule.decide(trial(seed=1), epoch(1, 80))
    assert rule.decide(trial(seed=2), epoch(1, 76)) is not None


@pytest.mark.parametrize("alpha", [0.05, 0.99])
def test_no_trial_stops_unopposed_or_by_a_tie(alpha):
    rule = stopping_rule(alpha=alpha)
    for seed in range(5):
        assert rule.decide(trial(seed=seed), epoch(1, 80)) is None
    assert rule.decide(trial(seed=0, freeze="layer4"), epoch(1, 10)) is None


def test_trial_is_judged_by_its_best_epoch_and_by_that_of_the_other():
    rule = stopping_rule(grace_period=2)
    ahead, behind = trial(seed=1), trial(seed=2)
    for number, right in enumerate((80, 60), 1):
        assert rule.decide(ahead, epoch(number, right)) is None
    assert rule.decide(behind, epoch(1, 79)) is None
    assert rule.decide(behind, epoch(2, 50)) is None
    other = trial(seed=3)
    assert rule.decide(other, epoch(1, 50)) is None
    reason = rule.decide(other, epoch(2, 62))
    assert reason is not None
    assert (reason.rung_score, reason.lost_to_score) == (0.62, 0.8)


def test_later_epochs_of_the_other_do_not_count():
    rule = stopping_rule()
    ahead = trial(seed=1)
    for number, right in enumerate((50, 90), 1):
        rule.decide(ahead, epoch(number, right))
    assert rule.decide(trial(seed=2), epoch(1, 49)) is None


def test_loss_can_name_the_candidates():
    rule = stopping_rule(metric="val_loss")
    rule.decide(trial(seed=1), epoch(1, 80, val_loss=0.5))
    assert rule.decide(trial(seed=2), epoch(1, 60, val_loss=0.4)) is None
    reason = rule.decide(trial(seed=3), epoch(1, 40, val_loss=0.9))
    assert reason is not None
    assert (reason.rung_metric, reason.rung_score) == ("val_loss", 0.9)
    # the one with the lowest loss, which isn't the one with the highest score
    assert (reason.lost_to, reason.lost_to_score) == (trial(seed=2).key, 0.4)


def test_large_batch_is_compared_after_as_many_steps():
    small, large = trial(batch_size=16), trial(batch_size=64)
    rule = stopping_rule([small, large])
    for number, right in enumerate((40, 50, 60, 70), 1):
        rule.decide(small, epoch(number, right))
    for number, right in enumerate((10, 20, 30), 1):
        assert rule.decide(large, epoch(number, right)) is None, "it has made fewer steps"
    # four of its epochs have the steps of one of the small batch
    assert rule.decide(large, epoch(4, 39)) is None
    worse = trial(batch_size=64, seed=1)
    for number in (1, 2, 3):
        rule.decide(worse, epoch(number, 10))
    reason = rule.decide(worse, epoch(4, 30))
    assert reason is not None
    assert (reason.lost_to, reason.lost_to_score, reason.lost_to_epochs) == (small.key, 0.4, 1)


def test_small_batch_is_compared_after_as_many_epochs():
    small, large = trial(batch_size=16), trial(batch_size=64)
    rule = stopping_rule([small, large], grace_period=2)
    for number, right in enumerate((20, 30, 90, 95), 1):
        rule.decide(large, epoch(number, right))
    assert rule.decide(small, epoch(1, 20)) is None
    assert rule.decide(small, epoch(2, 30)) is None


def test_epochs_of_versions_that_did_not_record_images_stop_nobody():
    rule = stopping_rule()
    rule.decide(trial(seed=1), {**epoch(1, 90), "val_correct": None})
    assert rule.decide(trial(seed=2), epoch(1, 10)) is None


# the test of the guard


def test_p_value_is_that_of_mcnemar_s_exact_test_in_one_direction():
    from statsmodels.stats.contingency_tables import mcnemar

    difference = np.repeat([1, -1, 0], [9, 3, 20])
    expected = mcnemar([[20, 9], [3, 0]], exact=True).pvalue / 2
    p = lag_p_value(difference, ValidationImages(np.full(32, 1 / 32), None))
    assert p == pytest.approx(expected)
    assert lag_p_value(-difference, ValidationImages(np.full(32, 1 / 32), None)) == 1


def test_images_of_a_group_are_one_piece_of_evidence():
    difference = np.ones(12, int)
    weights = np.full(12, 1 / 12)
    groups = np.repeat(["a", "b", "c"], 4)
    assert lag_p_value(difference, ValidationImages(weights, None)) == pytest.approx(0.5**12)
    assert lag_p_value(difference, ValidationImages(weights, groups)) == pytest.approx(0.5**3)


def test_classes_count_alike_under_balanced_accuracy():
    image_set = toys.images(per_class=40)
    kept = np.r_[0:40, 40:48, 80:88]
    uneven = dataclasses.replace(
        image_set,
        pixels=image_set.pixels[kept],
        labels=image_set.labels[kept],
        paths=tuple(image_set.paths[index] for index in kept),
        digests=tuple(image_set.digests[index] for index in kept),
    )
    by_score = {}
    for score in ("accuracy", "balanced_accuracy"):
        config = toys.trial(score=score)
        dataset = toys.dataset(config, uneven)
        by_score[score] = find_images({config: dataset})(config)
        labels = uneven.labels[dataset.split.val]
    # ahead on an image of each small class, behind on three of the large one
    difference = np.zeros(len(labels), int)
    difference[np.flatnonzero(labels == 0)[:3]] = 1
    for label in (1, 2):
        difference[np.flatnonzero(labels == label)[0]] = -1
    assert lag_p_value(difference, by_score["accuracy"]) == pytest.approx(0.5)
    assert lag_p_value(difference, by_score["balanced_accuracy"]) == 1


# ASHA, and cohorts


def test_candidates_are_those_of_ray_s_asha():
    rule, epochs = EarlyStopping(grace_period=1, reduction_factor=3), 12
    ours = SuccessiveHalving(rule)
    theirs = ASHAScheduler(
        time_attr="epoch",
        metric="score",
        mode="max",
        max_t=epochs,
        grace_period=1,
        reduction_factor=3,
    )
    draw, candidates = np.random.default_rng(0), 0
    for seed in range(40):
        ray_trial = SimpleNamespace(trial_id=str(seed))
        theirs.on_trial_add(None, ray_trial)
        for number in rule.rungs(epochs):
            score = float(draw.random())
            result = {"epoch": number, "score": score}
            stops = theirs.on_trial_result(None, ray_trial, result) == ASHAScheduler.STOP
            config = TrialConfig(epochs=epochs, seed=seed)
            assert ours.is_candidate(config, number, score) == stops
            candidates += stops
    assert candidates > 20


def test_trials_compete_within_their_cohort_only():
    rule = stopping_rule(compare_within=("weights",), spare_frozen=False)
    for seed in range(4):
        assert rule.decide(trial(weights="DEFAULT", seed=seed), epoch(1, 90)) is None
    assert rule.decide(trial(weights="none"), epoch(1, 10)) is None
    assert rule.decide(trial(weights="DEFAULT", seed=9), epoch(1, 10)) is not None


def test_folds_do_not_compete_since_they_are_validated_on_other_images():
    rule = stopping_rule()
    assert rule.decide(trial(folds=3, fold=0), epoch(1, 90)) is None
    assert rule.decide(trial(folds=3, fold=1), epoch(1, 10)) is None
    assert rule.decide(trial(split="grouped"), epoch(1, 10)) is None
    assert rule.decide(trial(folds=3, fold=0, seed=1), epoch(1, 10)) is not None


def test_frozen_trials_run_in_full_unless_told_otherwise():
    frozen = [trial(freeze="features", seed=seed) for seed in range(2)]
    for spare in (True, False):
        rule = stopping_rule(spare_frozen=spare)
        rule.decide(frozen[0], epoch(1, 90))
        assert (rule.decide(frozen[1], epoch(1, 10)) is None) == spare


def test_in_every_order_one_trial_of_a_cohort_comes_to_its_end():
    for order in itertools.permutations(range(4)):
        rule = stopping_rule(alpha=0.99)
        through = []
        for seed in order:
            config = trial(epochs=6, seed=seed)
            rows = [epoch(number, 10 * seed) for number in range(1, 6)]
            through.append(all(rule.decide(config, row) is None for row in rows))
        assert any(through)


# over the life of a results folder


def test_trials_of_an_earlier_session_are_competitors():
    ahead = PastTrial(trial(seed=1), [epoch(1, 80)])
    rule = stopping_rule(earlier=[ahead])
    reason = rule.decide(trial(seed=2), epoch(1, 40))
    assert reason is not None
    assert reason.lost_to == ahead.trial.key


def test_trial_that_starts_over_passes_the_rungs_that_it_has_passed_before():
    rule = stopping_rule()
    behind = trial(seed=2)
    assert rule.decide(behind, epoch(1, 40)) is None
    rule.decide(trial(seed=1), epoch(1, 80))
    assert rule.decide(behind, epoch(1, 40)) is None
    assert rule.decide(behind, epoch(2, 40)) is None, "nobody else has come as far"


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
        by_score: {**row, "rung_metric": "val_score", "rung_score": 0.6},
        by_loss: {**row, "rung_metric": "val_loss", "rung_score": 0.7},
    }
    assert unfinished_cohort_leaders(EarlyStopping(metric="val_score"), ended) == [by_score]
    assert unfinished_cohort_leaders(EarlyStopping(metric="val_loss"), ended) == [by_loss]


# Tune's scheduler


@pytest.fixture
def scheduler() -> CohortScheduler:
    """Make Tune's scheduler after an earlier run: one trial failed at a rung, one continued."""
    coordinator: Any = SimpleNamespace(stop_trial=lambda key, reason: None)
    earlier = [PastTrial(trial(seed=right), [epoch(1, right)]) for right in (10, 90)]
    rule = EarlyStopping(grace_period=1)
    return CohortScheduler(rule, [], earlier, images(), coordinator)


def schedule(scheduler: CohortScheduler, seed: int, right: int) -> str:
    """Return what the scheduler decides on a trial after its first epoch."""
    tune_trial = SimpleNamespace(config={"trial": encode_trial(trial(seed=seed))})
    return scheduler.on_trial_result(None, tune_trial, epoch(1, right))


def test_scheduler_counts_a_trial_that_starts_over_once(scheduler):
    assert schedule(scheduler, 10, 10) == "CONTINUE", "it has passed this rung before"
    assert schedule(scheduler, 4, 40) == "STOP", (
        "the median is 50; with the first trial counted twice it would be 10"
    )
    assert scheduler.stopped_keys == {trial(seed=4).key}


def test_scheduler_lets_candidates_continue_that_may_be_behind_by_chance(scheduler):
    assert schedule(scheduler, 5, 89) == "CONTINUE"
    assert schedule(scheduler, 4, 88) == "CONTINUE", "ASHA alone would have stopped it"


def test_it_is_an_error_if_ray_s_scheduler_and_the_local_rule_ever_disagree(scheduler, monkeypatch):
    monkeypatch.setattr(SuccessiveHalving, "is_candidate", lambda *_: False)
    with pytest.raises(
        AssertionError,
        match=r"ASHA says STOP of trial .* at epoch 1, and SuccessiveHalving CONTINUE",
    ):
        schedule(scheduler, 4, 40)
