"""Choose nuisance settings, such as the learning rate, within each recipe.

Recipes are compared at their own best values of the fields that an experiment tunes. All values
are tried on the first seeds, and on each fold. The choice is a function of the table: of those
values that were completed with the most of these seeds, the one with the lowest validation loss,
averaged over seeds. The other seeds run with the chosen value only. Test images have no part in it.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from bioimg.config import EXPERIMENT_FIELDS, TRIAL_FIELDS, TrialConfig
from bioimg.experiment import Experiment

Row = Mapping[Any, Any]
Recipe = tuple[Any, ...]
"""The values of all fields that are neither tuned nor the seed. The fold is among them."""
Values = tuple[Any, ...]
"""The values of the tuned fields, in the order of `tune`."""


class Attempt(NamedTuple):
    """One trial that has ended, as far as choices depend on it.

    loss: the lowest validation loss; None if the trial wasn't completed.
    """

    key: str
    recipe: Recipe
    values: Values
    seed: int
    loss: float | None


def read_attempts(rows: Iterable[Row], tune: Sequence[str]) -> list[Attempt]:
    """Return what choices depend on in rows of the trials table."""
    attempts = []
    for row in rows:
        trial = TrialConfig.from_row(row)
        loss = row["best_val_loss"] if row["status"] == "completed" else None
        attempts.append(
            Attempt(
                key=row["key"],
                recipe=recipe_of(trial, tune),
                values=values_of(trial, tune),
                seed=trial.seed,
                loss=loss,
            )
        )
    return attempts


def recipe_of(trial: TrialConfig, tune: Sequence[str]) -> Recipe:
    """Return what a trial has in common with those that differ in seed and tuned fields only."""
    ignored = (*EXPERIMENT_FIELDS, *tune, "seed")
    return tuple(getattr(trial, name) for name in TRIAL_FIELDS if name not in ignored)


def values_of(trial: TrialConfig, tune: Sequence[str]) -> Values:
    """Return a trial's values of the tuned fields."""
    return tuple(getattr(trial, name) for name in tune)


def choose_values(
    attempts: Iterable[Attempt], seeds: Sequence[int], tune_seeds: int
) -> dict[Recipe, Values]:
    """Return the chosen values of each recipe with a completed trial.

    seeds: those of the experiment, in order.
    tune_seeds: how many of them are for the choice.
    """
    chosen = {}
    for recipe, compared in compared_attempts(attempts, seeds, tune_seeds).items():
        losses: defaultdict[Values, list[float]] = defaultdict(list)
        for attempt in compared:
            if attempt.loss is not None:
                losses[attempt.values].append(attempt.loss)
        if losses:
            chosen[recipe] = _best_values(losses)
    return chosen


def compared_attempts(
    attempts: Iterable[Attempt], seeds: Sequence[int], tune_seeds: int
) -> dict[Recipe, list[Attempt]]:
    """Return the attempts of each recipe that decide its choice: those with its first seeds.

    A recipe that an earlier command ran with other seeds is judged by its own first ones.
    """
    attempts_by_recipe: defaultdict[Recipe, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        attempts_by_recipe[attempt.recipe].append(attempt)
    compared = {}
    for recipe, own_attempts in attempts_by_recipe.items():
        own_seeds = {attempt.seed for attempt in own_attempts}
        in_order = dict.fromkeys([*seeds, *sorted(own_seeds)])
        first_seeds = [seed for seed in in_order if seed in own_seeds][:tune_seeds]
        compared[recipe] = [attempt for attempt in own_attempts if attempt.seed in first_seeds]
    return compared


def _best_values(losses: Mapping[Values, Sequence[float]]) -> Values:
    """Return the values with the lowest mean loss among those with the most completed seeds."""
    most = max(map(len, losses.values()))
    means = {}
    for values, of_seeds in losses.items():
        if len(of_seeds) == most:
            means[values] = sum(of_seeds) / most
    # the values themselves decide between equal losses, so that the order of rows doesn't
    return min(means, key=lambda values: (means[values], repr(values)))


def wanted_trials(experiment: Experiment, ended_rows: Sequence[Row]) -> list[TrialConfig]:
    """Return the trials of an experiment that are known to be needed, ended ones included.

    Without tuned fields this is the whole grid. Otherwise the trials of a recipe with further seeds
    are known once all of its first ones have ended. Its chosen value may be one that an earlier
    command tried.

    ended_rows: the rows of trials that have ended and won't be tried again.
    """
    grid = experiment.trials()
    tune = experiment.tune
    if not tune:
        return grid
    first_seeds = experiment.seeds[: experiment.tune_seeds]
    ended_keys = {row["key"] for row in ended_rows}
    chosen = choose_values(read_attempts(ended_rows, tune), experiment.seeds, experiment.tune_seeds)
    for trial in grid:
        if trial.seed in first_seeds and trial.key not in ended_keys:
            chosen.pop(recipe_of(trial, tune), None)
    wanted = []
    for trial in grid:
        values = chosen.get(recipe_of(trial, tune))
        if trial.seed in first_seeds:
            wanted.append(trial)
        elif values is not None:
            fields = dict(zip(tune, values, strict=True))
            wanted.append(dataclasses.replace(trial, **fields))
    return list(dict.fromkeys(wanted))


def expected_count(experiment: Experiment) -> int:
    """Return how many trials an experiment has once every recipe has its values."""
    grid = experiment.trials()
    if not experiment.tune:
        return len(grid)
    first_seeds = experiment.seeds[: experiment.tune_seeds]
    tried = sum(trial.seed in first_seeds for trial in grid)
    later = {
        (recipe_of(trial, experiment.tune), trial.seed)
        for trial in grid
        if trial.seed not in first_seeds
    }
    return tried + len(later)
