import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from ray.tune.schedulers import ASHAScheduler

from bioimg.config import TrialConfig, UserError
from bioimg.experiment import EarlyStopping, Experiment
from bioimg.halving import Halving


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
        ({"data": ("a", "b")}, "`data` can't be an axis"),
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


@pytest.mark.parametrize("metric", ["val_accuracy", "val_loss"])
def test_the_local_rule_decides_as_the_scheduler_of_ray_does(metric):
    rule, epochs = EarlyStopping(metric=metric, grace_period=1, reduction_factor=3), 12
    ours = Halving(rule)
    mode = "min" if metric == "val_loss" else "max"
    theirs = ASHAScheduler(time_attr="epoch", metric=metric, mode=mode, max_t=epochs, grace_period=1, reduction_factor=3)
    draw, stopped = np.random.default_rng(0), 0
    for number in range(40):
        config, ray_trial = TrialConfig(epochs=epochs, seed=number), SimpleNamespace(trial_id=str(number))
        theirs.on_trial_add(None, ray_trial)
        for epoch in range(1, epochs):
            score = float(draw.random())
            go_on = theirs.on_trial_result(None, ray_trial, {"epoch": epoch, metric: score}) == ASHAScheduler.CONTINUE
            assert ours.go_on(config, epoch, score) == go_on
            if not go_on:
                stopped += 1
                break
    assert stopped > 20


def test_trials_compete_within_their_cohort_only():
    halving = Halving(EarlyStopping(grace_period=1, compare_within=("weights",), spare_frozen=False))
    for seed in range(4):
        assert halving.go_on(TrialConfig(weights="DEFAULT", seed=seed), 1, 0.9)
    assert halving.go_on(TrialConfig(weights="none"), 1, 0.1)
    assert not halving.go_on(TrialConfig(weights="DEFAULT"), 1, 0.1)


def test_frozen_trials_run_in_full_unless_told_otherwise():
    frozen = [TrialConfig(freeze="features", seed=seed) for seed in range(2)]
    for spare in (True, False):
        halving = Halving(EarlyStopping(grace_period=1, spare_frozen=spare))
        halving.go_on(frozen[0], 1, 0.9)
        assert halving.go_on(frozen[1], 1, 0.1) == spare


def test_in_every_order_one_trial_of_a_cohort_comes_to_its_end():
    scores = {seed: 0.1 * seed for seed in range(4)}
    for order in itertools.permutations(scores):
        halving = Halving(EarlyStopping(grace_period=1))
        trials = [TrialConfig(epochs=6, seed=seed) for seed in order]
        through = [all(halving.go_on(t, e, scores[t.seed]) for e in range(1, 6)) for t in trials]
        assert any(through)
