"""Name configurations for readers by the settings that distinguish them."""

from collections.abc import Callable, Sequence

import pandas as pd

from bioimg.report.translation import setting_label
from bioimg.results.configurations import varying_fields
from bioimg.results.result_store import Results


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


def configuration_labels(results: Results, lang: str = "en") -> dict[str, str]:
    """Return the label of each trial's configuration by the key of the trial."""
    fields = varying_fields(results.trials)
    labels = {}
    for _, trial in results.trials.iterrows():
        labels[str(trial["key"])] = configuration_label(trial, fields, lang)
    return labels
