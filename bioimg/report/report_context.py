"""What figures and page share: names for trials, their order, and their predictions."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from bioimg.report.analysis import Analysis
from bioimg.report.formatting import shorten_name
from bioimg.report.translation import (
    column_header,
    setting_label,
    setting_name,
    setting_value,
    translate,
)
from bioimg.report.visual_encoding import VisualEncoding, choose_encoding

ImagesByPath = Mapping[str, np.ndarray]
"""Path of an image, as in the predictions -> its uint8 pixels [height, width, 3]."""


@dataclass(frozen=True)
class ReportContext:
    """An analysis with the language to show them in, and the images if there are any."""

    analysis: Analysis
    lang: str = "en"
    images: ImagesByPath | None = None
    overlays: ImagesByPath | None = None
    """The worst mistakes with a map of where the model finds its wrong answer, if asked for."""

    def text(self, key: str, /, **values: object) -> str:
        """Return a text of the catalogue in the language of the report."""
        return translate(key, self.lang, **values)

    @cached_property
    def classes(self) -> list[str]:
        """The names of the classes, shortened."""
        names = self.analysis.manifest["data"]["classes"]
        return [shorten_name(name) for name in names]

    @cached_property
    def encoding(self) -> VisualEncoding:
        """The colours, line styles and panels of the trials."""
        return choose_encoding(self.analysis.trials, self.analysis.varying_fields)

    def titled_panels(self, trials: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
        """Split trials into panels with titles, the panel of the first trial first."""
        return [(self._panel_title(panel), panel) for panel in self.encoding.panels(trials)]

    def _panel_title(self, panel: pd.DataFrame) -> str:
        first = panel.iloc[0]
        labels = [self.field_label(first, field) for field in self.encoding.panel_fields]
        return ", ".join(labels)

    def field_label(self, trial: pd.Series, field: str) -> str:
        """Return a field with its value: `batch 32`."""
        return setting_label(field, shorten_name(trial[field]), self.lang)

    def recipe(self, key: str) -> str:
        """Return what distinguishes the recipe of a trial: `batch 32, trained: head only`.

        Without any difference it is the name of the model.
        """
        trial = self.analysis.first_trials.loc[self.analysis.configuration_by_trial[key]]
        labels = []
        for field in self.analysis.varying_fields:
            labels.append(setting_label(field, shorten_name(trial[field]), self.lang))
        return ", ".join(labels) or shorten_name(trial["model"])

    def trial_label(self, trial: pd.Series) -> str:
        """Return what distinguishes a trial: its recipe and, if repeated, which repeat it is."""
        labels = [self.recipe(trial["key"])]
        for field in self.analysis.repeat_fields:
            labels.append(self.field_label(trial, field))
        return ", ".join(labels)

    def effect_label(self, row: pd.Series) -> str:
        """Return what a row of `statistics.estimate_effects` compares.

        Either one level with another (`batch: 64 instead of 32`) or, for an interaction, two
        levels together.
        """
        fields = row["axis"].split(":")
        levels = [shorten_name(level) for level in row["level"].split(" and ")]
        if len(fields) == 2:
            first = setting_label(fields[0], levels[0], self.lang)
            second = setting_label(fields[1], levels[1], self.lang)
            return self.text("effect.together", first=first, second=second)
        field = fields[0]
        reference = shorten_name(row["reference"])
        return self.text(
            "effect.instead",
            axis=setting_name(field, self.lang),
            level=setting_value(field, levels[0], self.lang),
            reference=setting_value(field, reference, self.lang),
        )

    @property
    def score_name(self) -> str:
        """What the score of test images is called."""
        return self.text(f"measure.{self.analysis.test_column}")

    @property
    def is_synthetic(self) -> bool:
        """Whether a program drew the images."""
        return any(check.code == "synthetic" for check in self.analysis.checks)

    @property
    def warnings(self) -> list[str]:
        """What makes a comparison of these trials unreliable, the worst first."""
        return [check.text(self.lang) for check in self.analysis.checks]

    @property
    def source_line(self) -> str:
        """The experiment, the data and the digest of the results, on one line."""
        manifest = self.analysis.manifest
        experiment = shorten_name(manifest["name"])
        header = column_header("data", self.lang)
        data = shorten_name(self.analysis.data_name)
        source = self.text("note.source", fingerprint=self.analysis.digest)
        return f"{experiment} · {header} {data} · {source}"
