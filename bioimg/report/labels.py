"""Name configurations for readers by the settings that distinguish them."""

from collections.abc import Callable, Sequence

import pandas as pd

from bioimg.report.analysis import Analysis
from bioimg.report.translation import setting_label


def configuration_label(
    trial: pd.Series,
    fields: Sequence[str],
    lang: str = "en",
    shorten: Callable[[object], str] = str,
) -> str:
    """Return the settings that distinguish a configuration from the others, on one line.

    Args:
        trial: any trial of the configuration.
        fields: the fields in which configurations differ; without any, the model is named.
        lang: language of the names of settings.
        shorten: makes a value short enough for where the label is shown.
    """
    labels = [setting_label(field, shorten(trial[field]), lang) for field in fields]
    return ", ".join(labels) or shorten(trial["model"])


def configuration_labels(analysis: Analysis, lang: str = "en") -> dict[str, str]:
    """Return the label of each configuration by its key."""
    labels = {}
    for key, trial in analysis.first_trials.iterrows():
        labels[str(key)] = configuration_label(trial, analysis.varying_fields, lang)
    return labels
