"""Whether two contenders that tuned the same recipes say the same of them."""

import collections
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from benchmarks.baselines.task import ConfigurationResult
from benchmarks.harness import Target
from bioimg.results.statistics.standard_error import sign_flip_test

LEVEL = 0.05
"""The level of the tests of what is worse by more than chance."""

Recipe = tuple[str, int, str]
"""Weights, batch size and what is frozen."""


def choose_rates(rows: Iterable[ConfigurationResult]) -> dict[Recipe, ConfigurationResult]:
    """Return the row of each recipe with the lowest validation loss of those trained in full."""
    by_recipe = collections.defaultdict(list)
    for row in rows:
        if row.is_tested:
            by_recipe[row.configuration.recipe].append(row)
    return {recipe: min(tried, key=lambda row: row.val_loss) for recipe, tried in by_recipe.items()}


def recipe_targets(
    ours: Sequence[ConfigurationResult], full: Sequence[ConfigurationResult]
) -> list[Target]:
    """Require that what was stopped early changes no conclusion of the full run beyond chance.

    The best recipe is that with the lowest validation loss. Recipes are compared on the same test
    images by McNemar's exact test, rates on the same validation images by their mean loss.
    """
    own_choice, full_choice = choose_rates(ours), choose_rates(full)
    own_best = min(own_choice.values(), key=lambda row: row.val_loss)
    full_best = min(full_choice.values(), key=lambda row: row.val_loss)
    difference = compare_images(full_best, own_best)
    pairs = list(itertools.combinations(full_choice, 2))
    reversals = 0
    for a, b in pairs:
        own_sign = significant_sign(own_choice[a], own_choice[b])
        reversals += own_sign * significant_sign(full_choice[a], full_choice[b]) < 0
    return [
        Target(
            "the full run's best recipe isn't better than ours: McNemar's p",
            sign_flip_test(difference) if difference.sum() > 0 else 1.0,
            LEVEL,
            "",
        ),
        Target(
            "chosen rates whose loss in the full run is higher than its best by more than chance",
            len(worse_rates(own_choice, full)),
            0,
            f"of {len(full_choice)} recipes",
            at_most=True,
        ),
        Target(
            "pairs of recipes that both order, one against the other, by more than chance",
            reversals,
            0,
            f"of {len(pairs)} pairs",
            at_most=True,
        ),
    ]


def worse_rates(
    chosen: Mapping[Recipe, ConfigurationResult], full: Sequence[ConfigurationResult]
) -> list[Recipe]:
    """Return the recipes whose chosen rate is worse in the full run than the rate chosen there.

    It is if its validation loss is higher by more than its standard error over images explains, at
    a level that counts how many recipes there are (Bonferroni's).
    """
    by_configuration = {row.configuration: row for row in full}
    worse = []
    limit = norm.ppf(1 - LEVEL / len(chosen))
    for recipe, best in choose_rates(full).items():
        own = by_configuration[chosen[recipe].configuration]
        difference = np.array(own.val_losses) - np.array(best.val_losses)
        standard_error = difference.std(ddof=1) / np.sqrt(len(difference))
        if difference.mean() > limit * standard_error:
            worse.append(recipe)
    return worse


def compare_images(a: ConfigurationResult, b: ConfigurationResult) -> np.ndarray:
    """Return for each test image 1 if only `a` is right, -1 if only `b` is, else 0."""
    return np.array(a.test_correct, float) - np.array(b.test_correct, float)


def significant_sign(a: ConfigurationResult, b: ConfigurationResult) -> int:
    """Return 1 if `a` is better by more than chance, -1 if `b` is, else 0."""
    difference = compare_images(a, b)
    if sign_flip_test(difference) > LEVEL:
        return 0
    return int(np.sign(difference.sum()))


def compare_recipes(
    ours: Sequence[ConfigurationResult], full: Sequence[ConfigurationResult]
) -> list[dict[str, Any]]:
    """Return a row for each recipe: the rate that each side chose, and its test accuracy."""
    own_choice, rows = choose_rates(ours), []
    for recipe, chosen in choose_rates(full).items():
        own = own_choice[recipe]
        row: dict[str, Any] = {
            **chosen.configuration._asdict(),
            "weights": Path(chosen.configuration.weights).stem,
            "learning_rate": own.configuration.learning_rate,
            "test_accuracy": own.test_accuracy,
            "full_learning_rate": chosen.configuration.learning_rate,
            "full_test_accuracy": chosen.test_accuracy,
        }
        rows.append(row)
    return rows


def describe_recipe(row: Mapping[str, Any]) -> str:
    """Return what `compare_recipes` says of a recipe as a line."""
    return (
        f"{row['weights']}, batch {row['batch_size']}, freeze {row['freeze']}: test accuracy "
        f"{row['test_accuracy']:.3f} at rate {row['learning_rate']:g}; "
        f"sequential {row['full_test_accuracy']:.3f} at {row['full_learning_rate']:g}"
    )
