"""Which trials are repeats of one configuration, and what a configuration is called."""

import pandas as pd

from bioimg.config import TRIAL_FIELDS

REPEAT_FIELDS = ("seed", "fold")
"""Fields that repeat a configuration rather than change it."""


def varying_fields(trials: pd.DataFrame) -> list[str]:
    """The fields in which configurations differ, in column order, apart from where the images are."""
    fields = [
        name for name in TRIAL_FIELDS if name not in (*REPEAT_FIELDS, "data") and name in trials
    ]
    return [name for name in fields if trials[name].nunique(dropna=False) > 1]


def has_repeats(trials: pd.DataFrame) -> bool:
    """Whether some configuration has more than one trial."""
    return bool(configuration_keys(trials).duplicated().any())


def configuration_keys(trials: pd.DataFrame) -> pd.Series:
    """For each trial the key of the first one with the same configuration."""
    fields = varying_fields(trials)
    if not fields:
        return pd.Series(trials["key"].iloc[0] if len(trials) else "", index=trials.index)
    return trials.groupby(fields, sort=False, dropna=False)["key"].transform("first")
