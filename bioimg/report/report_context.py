"""What figures and page share: names for trials, their order, and their predictions."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from bioimg.report.labels import configuration_label
from bioimg.report.notices import Notice
from bioimg.report.table_notes import comparison_warnings, results_digest
from bioimg.report.translation import (
    column_header,
    setting_label,
    setting_name,
    setting_value,
    translate,
)
from bioimg.report.visual_encoding import VisualEncoding, choose_encoding
from bioimg.results.configurations import REPEAT_FIELDS, varying_fields
from bioimg.results.result_store import Results

ImagesByPath = Mapping[str, np.ndarray]
"""Path of an image, as in the predictions -> its uint8 pixels [height, width, 3]."""


@dataclass(frozen=True)
class ReportContext:
    """Results with the language to show them in, and the images if there are any."""

    results: Results
    lang: str = "en"
    images: ImagesByPath | None = None

    def text(self, key: str, /, **values: object) -> str:
        """Return a text of the catalogue in the language of the report."""
        return translate(key, self.lang, **values)

    @property
    def trials(self) -> pd.DataFrame:
        """All trials, in the order of the grid."""
        return self.results.trials

    @cached_property
    def varying_fields(self) -> list[str]:
        """The fields in which configurations differ."""
        return varying_fields(self.trials)

    @cached_property
    def classes(self) -> list[str]:
        """The names of the classes, shortened."""
        names = self.results.manifest["data"]["classes"]
        return [shorten_name(name) for name in names]

    @cached_property
    def ranked_trials(self) -> pd.DataFrame:
        """Trials with epochs: completed ones first, then by the lowest validation loss.

        The test set ranks nothing.
        """
        has_epochs = self.trials["key"].isin(self.results.epochs["key"])
        trials = self.trials[has_epochs]
        trials = trials.assign(unfinished=trials["status"] != "completed")
        return trials.sort_values(["unfinished", "best_val_loss"], kind="stable")

    @cached_property
    def tested_trials(self) -> pd.DataFrame:
        """The ranked trials that were completed and have test predictions."""
        trials = self.ranked_trials
        is_tested = trials["key"].isin(self._all_test_predictions["key"])
        is_completed = trials["status"] == "completed"
        return trials[is_tested & is_completed]

    @cached_property
    def measured_trials(self) -> pd.DataFrame:
        """The completed trials whose test accuracy and training time are known.

        Their curves and predictions may be missing.
        """
        completed = self.trials[self.trials["status"] == "completed"]
        ranked = completed.sort_values("best_val_loss", kind="stable")
        return ranked.dropna(subset=["test_accuracy", "test_images", "train_seconds"])

    @cached_property
    def encoding(self) -> VisualEncoding:
        """The colours, line styles and panels of the trials."""
        return choose_encoding(self.trials, self.varying_fields)

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

    def configuration_label(self, trial: pd.Series) -> str:
        """Return what distinguishes this configuration: `batch 32, trained: head only`."""
        return configuration_label(trial, self.varying_fields, self.lang, shorten_name)

    def trial_label(self, trial: pd.Series) -> str:
        """Return what distinguishes this trial: the configuration and, if repeated, the repeat."""
        labels = [self.configuration_label(trial)]
        for field in REPEAT_FIELDS:
            if field in trial and self.trials[field].nunique() > 1:
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

    def epoch_rows(self, trial: pd.Series) -> pd.DataFrame:
        """Return the epochs of a trial, in order."""
        epochs = self.results.epochs
        return epochs[epochs["key"] == trial["key"]].sort_values("epoch")

    @cached_property
    def _all_test_predictions(self) -> pd.DataFrame:
        predictions = self.results.predictions
        return predictions[predictions["subset"] == "test"]

    def test_predictions(self, trial: pd.Series) -> pd.DataFrame:
        """Return a trial's test predictions, with the `probability` of the predicted class."""
        rows = self._all_test_predictions
        rows = rows[rows["key"] == trial["key"]]
        # the predicted class is the most probable one
        highest = [float(max(row)) for row in rows["probabilities"]]
        return rows.assign(probability=highest)

    def wrong_predictions(self, trial: pd.Series) -> pd.DataFrame:
        """Return the test images that a trial got wrong, the most confident mistakes first.

        The column `trials` counts the other trials that tested the image, and `others` those of
        them that got it wrong, too.
        """
        tests = self._all_test_predictions
        test_counts = tests["image"].value_counts()
        mistakes = tests[tests["label"] != tests["prediction"]]
        mistake_counts = mistakes["image"].value_counts()
        wrong = self.test_predictions(trial).query("label != prediction")
        wrong = wrong.sort_values("probability", ascending=False, kind="stable")
        # both counts include the trial itself
        other_tests = test_counts.reindex(wrong["image"]) - 1
        other_mistakes = mistake_counts.reindex(wrong["image"]) - 1
        return wrong.assign(others=other_mistakes.to_numpy(), trials=other_tests.to_numpy())

    @cached_property
    def is_synthetic(self) -> bool:
        """Whether a program drew the images."""
        return any(notice.key == "warning.synthetic" for notice in self.warnings)

    @cached_property
    def warnings(self) -> list[Notice]:
        """What makes a comparison of these trials unreliable, the worst first."""
        return list(comparison_warnings(self.results, self.trials, self.lang))

    @property
    def source_line(self) -> str:
        """The experiment, the data and the digest of the results, on one line."""
        manifest = self.results.manifest
        experiment = shorten_name(manifest["name"])
        header = column_header("data", self.lang)
        data = shorten_name(manifest["data"]["name"])
        source = self.text("note.source", fingerprint=results_digest(self.results))
        return f"{experiment} · {header} {data} · {source}"


def shorten_name(text: object, max_characters: int = 28) -> str:
    """Return a name from the data on one line, without control characters.

    A long one loses its middle.
    """
    line = " ".join(str(text).split())
    for character in set(line):
        if not character.isprintable():
            line = line.replace(character, "\ufffd")
    if len(line) <= max_characters:
        return line
    start = max_characters * 2 // 3
    end = max_characters - start - 1
    return f"{line[:start]}…{line[-end:]}"
