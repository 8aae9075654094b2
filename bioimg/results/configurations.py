"""Which trials are repeats of one configuration, and in what configurations differ."""

from collections.abc import Collection

import pandas as pd

from bioimg.config import EXPERIMENT_FIELDS, TRIAL_FIELDS

REPEAT_FIELDS = ("seed", "fold")
"""Fields that repeat a configuration rather than change it."""


def varying_fields(trials: pd.DataFrame, tuned: Collection[str]) -> list[str]:
    """Return the fields in which configurations differ, in column order.

    tuned: the fields whose values are chosen within each configuration, so that none differs in
        them (see `bioimg.results.chosen_values`).
    """
    constant = (*REPEAT_FIELDS, *EXPERIMENT_FIELDS, *tuned)
    names = [name for name in TRIAL_FIELDS if name in trials and name not in constant]
    return [name for name in names if trials[name].nunique(dropna=False) > 1]


def has_repeats(trials: pd.DataFrame, tuned: Collection[str]) -> bool:
    """Check whether a configuration has more than one trial."""
    return bool(configuration_keys(trials, tuned).duplicated().any())


def configuration_keys(trials: pd.DataFrame, tuned: Collection[str]) -> pd.Series:
    """Return for each trial the key of the first trial with the same configuration."""
    fields = varying_fields(trials, tuned)
    if fields:
        return trials.groupby(fields, sort=False, dropna=False)["key"].transform("first")
    first = trials["key"].iloc[0] if len(trials) else ""
    return pd.Series(first, index=trials.index)
