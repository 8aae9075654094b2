import itertools
import math

import pytest

from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.experiment import EarlyStopping, Experiment


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


def test_larger_batches_have_no_rung_before_as_many_steps_as_the_smallest_one():
    rule = EarlyStopping(grace_period=5, reduction_factor=2)
    assert rule.rungs(50, batch_ratio=1) == (5, 10, 20, 40)
    assert rule.rungs(50, batch_ratio=2) == (10, 20, 40)
    assert rule.rungs(50, batch_ratio=3) == (20, 40)


@pytest.mark.parametrize(
    ("alpha", "rule"), [(0, "alpha > 0"), (1, "alpha < 1"), (math.nan, "alpha > 0")]
)
def test_alpha_is_a_probability_between_0_and_1(alpha, rule):
    with pytest.raises(UserError, match=f"the value of `alpha` is {alpha}, but must be `{rule}`"):
        EarlyStopping(alpha=alpha)


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
