"""What an experiment asks: a base trial, the axes along which it varies, and early stopping."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bioimg.config import (
    EXPERIMENT_FIELDS,
    TRIAL_FIELDS,
    TUNABLE_FIELDS,
    TrialConfig,
    config_field,
    validate_fields,
)
from bioimg.errors import UserError, unknown_value_error

SPLIT_FIELDS = ("split", "folds", "fold", "group_pattern")
"""Fields that determine which images a trial is validated on."""
DEFAULT_COHORT = ("freeze",)
"""Fields in which the trials agree that early stopping compares, if nothing else is asked."""
TUNED_STEP = 3
"""A rate that is tuned and has one value is tried at this fraction and this multiple of it, too."""


class StopReason(NamedTuple):
    """Say why a trial was stopped at a rung: the columns of its row, explained in the schema."""

    stopped_at_rung: int
    rung_metric: str
    rung_score: float
    lost_to: str
    lost_to_score: float
    lost_to_epochs: int
    lost_images: int
    won_images: int
    lost_p: float


def metric_sign(metric: str) -> int:
    """Return the factor that makes more of a metric better: -1 for a loss."""
    return -1 if metric == "val_loss" else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyStopping:
    """Asynchronous successive halving within cohorts, with a guard against chance.

    The rungs are the epochs `grace_period * reduction_factor ** k`. At a rung, ASHA (Li et al.
    2020, arXiv:1810.05934) would stop a trial that isn't among the best 1 / `reduction_factor` of
    the trials of its cohort that reached this rung before it. The guard lets it continue unless the
    validation images show, at the level `alpha`, that it is behind the best of its cohort.
    """

    metric: str = config_field(
        "val_score",
        "Metric compared at each rung: the score (see --score) or the loss on validation images",
        choices=("val_score", "val_loss"),
    )
    grace_period: int | None = config_field(
        None,
        "Epochs that every trial runs; larger batches run as many steps as the smallest that they "
        "compete with; by default a tenth of its epochs, at least 2",
        at_least=1,
    )
    reduction_factor: int = config_field(
        2, "Of this many trials at a rung, all but the best one may be stopped", at_least=2
    )
    alpha: float = config_field(
        0.05,
        "Stop a trial only if a test on its validation images says, with a p-value of at most "
        "this, that it is behind the best of those that it competes with",
        above=0,
        below=1,
    )
    compare_within: tuple[str, ...] | None = config_field(
        None,
        "Only trials with the same values in these fields compete",
        default_hint="freeze; with --tune, all fields that aren't tuned",
    )
    # the help of a flag that is on by default is shown for --no-...
    spare_frozen: bool = config_field(
        True,
        "Stop trials on a frozen backbone, too; by default they run in full: on cached features "
        "they cost almost nothing",
    )

    def __post_init__(self) -> None:
        validate_fields(self)
        for name in self.compare_within or ():
            if name not in TRIAL_FIELDS:
                raise unknown_value_error("compare_within", name, TRIAL_FIELDS)

    def grace_epochs(self, epochs: int) -> int:
        """Return how many epochs a trial of `epochs` epochs runs whatever its scores are."""
        return self.grace_period or max(2, epochs // 10)

    def rungs(self, epochs: int, batch_ratio: float = 1.0) -> tuple[int, ...]:
        """Return the epochs after which a trial can be stopped; its last one isn't a rung.

        batch_ratio: its batch size as a multiple of the smallest one in its cohort. A larger batch
            makes fewer steps in an epoch, so its first rungs are left out.
        """
        rungs = []
        rung = grace_epochs = self.grace_epochs(epochs)
        while rung < epochs:
            if rung >= grace_epochs * batch_ratio:
                rungs.append(rung)
            rung *= self.reduction_factor
        return tuple(rungs)

    def exempts(self, trial: TrialConfig) -> bool:
        """Return True if a trial runs to its end whatever its scores are."""
        return self.spare_frozen and trial.freeze == "features"

    def within_recipes(self, tune: Iterable[str]) -> "EarlyStopping":
        """Return the rule by which trials compete only with those that differ in tuned fields."""
        ignored = (*EXPERIMENT_FIELDS, *tune)
        within = tuple(name for name in TRIAL_FIELDS if name not in ignored)
        return dataclasses.replace(self, compare_within=within)

    def cohort_key(self, trial: TrialConfig) -> tuple[Any, ...]:
        """Return what a trial has in common with those that it competes with.

        This always includes its length, on which rungs and schedules depend, and the images that it
        is validated on, since some are easier than others. Trials that differ in their seed do
        compete: they are validated on the same images, and a recipe that is good with some seeds
        loses only the others.
        """
        within = DEFAULT_COHORT if self.compare_within is None else self.compare_within
        fields = ("epochs", *SPLIT_FIELDS, *within)
        return tuple(getattr(trial, name) for name in fields)


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """A question about recipes.

    Its grid is all combinations of the values on its axes. All other fields are as in `base`. The
    fields that it tunes are nuisance settings: no recipes differ in them, but each recipe has the
    value that is best for it (see `bioimg.tuning`).
    """

    name: str
    base: TrialConfig
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    early_stopping: EarlyStopping | None = field(default_factory=EarlyStopping)
    tune: tuple[str, ...] = config_field(
        (),
        "Settings whose values aren't compared: each recipe gets the one with the lowest "
        "validation loss. A number with one value is tried at a third, once and three times it. "
        "Without names, nothing is tuned",
        metavar="[FIELD ...]",
    )
    tune_seeds: int = config_field(
        1,
        "Number of seeds on which tuned values are tried; with the others only the chosen one runs",
        at_least=1,
    )
    aggregate: str = config_field(
        "mean",
        "How the images of a group, such as a patient, become one prediction, in the numbers over "
        "groups\n"
        "mean: the mean of their probabilities\n"
        "vote: the share of images that are predicted as a class\n"
        "max: the highest probability of each class, scaled to a sum of 1",
        choices=("mean", "vote", "max"),
    )

    def __post_init__(self) -> None:
        validate_fields(self)
        for name in self.tune:
            _check_tunable(name)
        object.__setattr__(self, "axes", _with_tuned_values(self))
        for name, values in self.axes.items():
            _check_axis(name, values)
        self._check_tuning()
        # each trial checks its own values
        self.trials()

    def _check_tuning(self) -> None:
        if len(set(self.tune)) < len(self.tune):
            raise UserError(f"the value of `tune` is {self.tune}, but must hold no field twice.")
        if self.tune and self.early_stopping and self.early_stopping.compare_within is not None:
            raise UserError(
                f"the value of `compare_within` is {self.early_stopping.compare_within}, but must "
                "be left out with `tune`: a trial then competes only with other values of "
                f"{', '.join(self.tune)} in its own recipe, so that no recipe is stopped. `tune` "
                "without names tunes nothing."
            )
        if self.tune_seeds > len(self.seeds):
            raise UserError(
                f"the value of `tune_seeds` is {self.tune_seeds}, but must be at most the number "
                f"of seeds, which is {len(self.seeds)}. Lower it, or give more seeds with --seed."
            )

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds with which each configuration is repeated."""
        return self.axes.get("seed", (self.base.seed,))

    @property
    def stopping_rule(self) -> EarlyStopping | None:
        """The rule of early stopping, with the fields in which the trials of a cohort agree.

        With tuned fields these are all others, so that each recipe keeps a trial that runs to its
        end.
        """
        rule = self.early_stopping
        if rule is None:
            return None
        if self.tune:
            return rule.within_recipes(self.tune)
        if rule.compare_within is None:
            return dataclasses.replace(rule, compare_within=DEFAULT_COHORT)
        return rule

    def trials(self) -> list[TrialConfig]:
        """Return every trial of the grid, the last axis varying fastest."""
        combinations = itertools.product(*self.axes.values())
        return [
            dataclasses.replace(self.base, **dict(zip(self.axes, values, strict=True)))
            for values in combinations
        ]

    def in_run_order(self, trials: Iterable[TrialConfig]) -> list[TrialConfig]:
        """Return trials in the order in which they run.

        Trials that cost almost nothing and run to their end come first, in the order of the grid.
        So rows appear early, and trials that share features follow each other. Then come the
        longest, so that none of them is left alone at the end. Equally long ones are ordered by
        key. That order is unrelated to the axes, so that a trial isn't compared only with trials
        of the same value, and it doesn't change when an axis grows.
        """
        return sorted(trials, key=self._run_position)

    def _run_position(self, trial: TrialConfig) -> tuple[bool, int, str]:
        rule = self.early_stopping
        is_cheap = rule.exempts(trial) if rule else trial.freeze == "features"
        return (False, 0, "") if is_cheap else (True, -trial.epochs, trial.key)

    def with_split(self, split: str) -> "Experiment":
        """Return the experiment with this split wherever it was left to the images (`auto`)."""
        base, axes = self.base, dict(self.axes)
        if base.split == "auto":
            base = dataclasses.replace(base, split=split)
        if "split" in axes:
            axes["split"] = tuple(split if value == "auto" else value for value in axes["split"])
        return dataclasses.replace(self, base=base, axes=axes)

    def with_fold_axis(self, folds: int) -> "Experiment":
        """Return the experiment with all folds of a cross-validation on a last axis `fold`."""
        base = dataclasses.replace(self.base, folds=folds, fold=0)
        return dataclasses.replace(self, base=base, axes={**self.axes, "fold": tuple(range(folds))})


def _check_tunable(name: str) -> None:
    if name not in TRIAL_FIELDS:
        raise unknown_value_error("tune", name, TUNABLE_FIELDS)
    if name not in TUNABLE_FIELDS:
        raise UserError(
            f"the value of `tune` is {name!r}, but a recipe can't choose what it is trained and "
            f"tested on. These fields can be tuned: {', '.join(TUNABLE_FIELDS)}."
        )


def _with_tuned_values(experiment: Experiment) -> dict[str, tuple[Any, ...]]:
    """Return the axes, with those of tuned fields that have one value so far."""
    axes = dict(experiment.axes)
    for name in experiment.tune:
        if len(axes.get(name, ())) < 2:
            value, *_ = axes.get(name) or (getattr(experiment.base, name),)
            axes[name] = _values_around(name, value)
    return axes


def _values_around(name: str, value: Any) -> tuple[float, ...]:
    types = {field.name: field.type for field in dataclasses.fields(TrialConfig)}
    if types[name] is not float or value <= 0:
        raise UserError(
            f"the value of `{name}` is {value!r}, but must be at least two values to be tuned: "
            "only a rate above 0 is tried at a third, once and three times it. Give more values, "
            "or leave it out of `tune`."
        )
    lower, higher = value / TUNED_STEP, value * TUNED_STEP
    return float(f"{lower:.2g}"), value, float(f"{higher:.2g}")


def _check_axis(name: str, values: tuple[Any, ...]) -> None:
    if name not in TRIAL_FIELDS:
        raise unknown_value_error("axes", name, TRIAL_FIELDS)
    if name in EXPERIMENT_FIELDS:
        raise UserError(
            f"`{name}` can't be an axis: recipes are compared on one set of images and by one "
            f"score. Run one experiment for each value of `{name}`."
        )
    if len(values) != len(set(values)) or not values:
        raise UserError(
            f"the axis `{name}` is {values}, but must hold at least one value and none twice."
        )
    if name == "folds" and len(values) > 1:
        raise UserError(
            f"the value of `folds` is {values}, but must be one number: each number of folds tests "
            "on other images. The axis `fold` runs over the folds of one number. Give one, and run "
            "the command again for the other."
        )
