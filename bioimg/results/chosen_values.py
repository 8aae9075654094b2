"""Reduce results to the chosen values of tuned fields, with which recipes are compared."""

import dataclasses

import pandas as pd

from bioimg.results.configurations import configuration_keys
from bioimg.results.result_store import Results
from bioimg.tuning import Attempt, Recipe, Values, choose_values, compared_attempts, read_attempts


def chosen_results(results: Results) -> Results:
    """Return results with the trials of chosen values only; all of them if nothing is tuned.

    A recipe without a completed trial keeps those of the first value that it was tried with, so
    that it doesn't disappear.
    """
    if not results.tuned_fields:
        return results
    attempts = _read_attempts(results)
    chosen = _choose(results, attempts)
    keys = {attempt.key for attempt in attempts if attempt.values == chosen[attempt.recipe]}
    return dataclasses.replace(
        results,
        trials=_rows_of(results.trials, keys),
        epochs=_rows_of(results.epochs, keys),
        predictions=_rows_of(results.predictions, keys),
    )


def tried_values(results: Results) -> pd.DataFrame:
    """Return what each recipe was tried with, one row per fold and combination of tuned values.

    Returns:
        The columns `key` (that of the configuration among the chosen results), `fold`, one for each
        tuned field, `runs` (the seeds with which it was tried), `completed` (how many of them were
        completed), `best_val_loss` and `val_score` (means over these, null if there is none), and
        `chosen`.
    """
    attempts = _read_attempts(results)
    chosen = _choose(results, attempts)
    kept = chosen_results(results).trials
    configurations = configuration_keys(kept, results.tuned_fields)
    key_by_trial = dict(zip(kept["key"], configurations, strict=True))
    recipes = {attempt.key: attempt.recipe for attempt in attempts}
    configuration_by_recipe = {recipes[key]: key_by_trial[key] for key in key_by_trial}
    configuration_by_trial = {}
    is_chosen = {}
    for recipe, compared in compared_attempts(attempts, *_tuning_seeds(results)).items():
        for attempt in compared:
            configuration_by_trial[attempt.key] = configuration_by_recipe[recipe]
            is_chosen[attempt.key] = attempt.values == chosen[recipe]
    trials = _rows_of(results.trials, set(configuration_by_trial))
    is_completed = trials["status"].eq("completed")
    trials = trials.assign(
        key=trials["key"].map(configuration_by_trial),
        chosen=trials["key"].map(is_chosen),
        completed=is_completed,
        best_val_loss=trials["best_val_loss"].where(is_completed),
        val_score=trials["val_score"].where(is_completed),
    )
    groups = trials.groupby(["key", "fold", *results.tuned_fields], sort=False, dropna=False)
    return groups.agg(
        runs=("seed", "size"),
        completed=("completed", "sum"),
        best_val_loss=("best_val_loss", "mean"),
        val_score=("val_score", "mean"),
        chosen=("chosen", "all"),
    ).reset_index()


def _read_attempts(results: Results) -> list[Attempt]:
    """Return all trials, in the order of the table."""
    rows = results.trials.astype(object).where(results.trials.notna(), None)
    return read_attempts(rows.to_dict("records"), results.tuned_fields)


def _choose(results: Results, attempts: list[Attempt]) -> dict[Recipe, Values]:
    """Return the values of each recipe; the first ones where no trial was completed."""
    chosen = choose_values(attempts, *_tuning_seeds(results))
    for attempt in attempts:
        chosen.setdefault(attempt.recipe, attempt.values)
    return chosen


def _tuning_seeds(results: Results) -> tuple[list[int], int]:
    """Return the seeds of an experiment, and the number of those on which values were tried."""
    manifest = results.manifest
    seeds = manifest["axes"].get("seed", [manifest["base"]["seed"]])
    return seeds, manifest["tune_seeds"]


def _rows_of(table: pd.DataFrame, keys: set[str]) -> pd.DataFrame:
    return table[table["key"].isin(keys)].reset_index(drop=True)
