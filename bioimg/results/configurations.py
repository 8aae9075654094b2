"""Which trials are repeats of one configuration, and what a configuration is called."""

import pandas as pd

from bioimg.config import FIELDS

REPEATS = ("seed", "fold")
"""Fields that repeat a configuration rather than change it."""


def varied(trials: pd.DataFrame) -> list[str]:
    """The fields in which configurations differ, in column order, apart from where the images are."""
    fields = [name for name in FIELDS if name not in (*REPEATS, "data") and name in trials]
    return [name for name in fields if trials[name].nunique(dropna=False) > 1]


def repeated(trials: pd.DataFrame) -> bool:
    """Whether some configuration has more than one trial."""
    return bool(configurations(trials).duplicated().any())


def configurations(trials: pd.DataFrame) -> pd.Series:
    """For each trial the key of the first one with the same configuration."""
    fields = varied(trials)
    if not fields:
        return pd.Series(trials["key"].iloc[0] if len(trials) else "", index=trials.index)
    return trials.groupby(fields, sort=False, dropna=False)["key"].transform("first")
