"""What figures and page share: names for trials, their order, and their predictions."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

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
    """Results, the words to show them with, and the images if there are any."""

    results: Results
    lang: str = "en"
    images: ImagesByPath | None = None

    def text(self, key: str, /, **values: object) -> str:
        """Return a text of the catalogue in the language of the report."""
        return translate(key, self.lang, **values)

    @property
    def trials(self) -> pd.DataFrame:
        return self.results.trials

    @cached_property
    def varying_fields(self) -> list[str]:
        """The fields in which configurations differ."""
        return varying_fields(self.trials)

    @cached_property
    def classes(self) -> list[str]:
        return [shorten_name(name) for name in self.results.manifest["data"]["classes"]]

    @cached_property
    def ranked_trials(self) -> pd.DataFrame:
        """Trials with epochs: completed ones before others, then by the lowest validation loss. The test set ranks nothing."""
        ran = self.trials[self.trials["key"].isin(self.results.epochs["key"])]
        return ran.assign(unfinished=ran["status"] != "completed").sort_values(
            ["unfinished", "best_val_loss"], kind="stable"
        )

    @cached_property
    def tested_trials(self) -> pd.DataFrame:
        """The ranked trials that ran to the end and were tested."""
        tested = self.results.predictions.loc[self.results.predictions["subset"] == "test", "key"]
        return self.ranked_trials[
            (self.ranked_trials["status"] == "completed") & self.ranked_trials["key"].isin(tested)
        ]

    @cached_property
    def encoding(self) -> VisualEncoding:
        return choose_encoding(self.trials, self.varying_fields)

    def titled_panels(self, trials: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
        """The trials of each panel with its title, the panel with the first trial first."""
        fields = self.encoding.panel_fields
        parts = self.encoding.panels(trials)
        return [
            (", ".join(self.field_label(part.iloc[0], field) for field in fields), part)
            for part in parts
        ]

    @cached_property
    def measured_trials(self) -> pd.DataFrame:
        """The completed trials whose test accuracy and training time are known, even if curves and predictions aren't."""
        completed = self.trials[self.trials["status"] == "completed"].sort_values(
            "best_val_loss", kind="stable"
        )
        return completed.dropna(subset=["test_accuracy", "test_images", "train_seconds"])

    def field_label(self, trial: pd.Series, field: str) -> str:
        """Return a field with its value: `batch 32`."""
        return setting_label(field, shorten_name(trial[field]), self.lang)

    def configuration_label(self, trial: pd.Series) -> str:
        """What distinguishes this configuration from the others: `weights IMAGENET1K_V2, trained: head only`."""
        return ", ".join(
            self.field_label(trial, field) for field in self.varying_fields
        ) or shorten_name(trial["model"])

    def trial_label(self, trial: pd.Series) -> str:
        """What distinguishes this trial from the others: the recipe and, if it is repeated, which repeat this is."""
        repeats = [
            field for field in REPEAT_FIELDS if field in trial and self.trials[field].nunique() > 1
        ]
        return ", ".join(
            [
                self.configuration_label(trial),
                *(self.field_label(trial, field) for field in repeats),
            ]
        )

    def effect_label(self, row: pd.Series) -> str:
        """What a row of `statistics.effects` is about: `batch: 64 instead of 32`, or, for an interaction, its levels."""
        fields = row["axis"].split(":")
        levels = [shorten_name(level) for level in row["level"].split(" and ")]
        if len(fields) == 2:
            first, second = (
                setting_label(field, level, self.lang)
                for field, level in zip(fields, levels, strict=True)
            )
            return self.text("effect.together", first=first, second=second)
        return self.text(
            "effect.instead",
            axis=setting_name(fields[0], self.lang),
            level=setting_value(fields[0], levels[0], self.lang),
            reference=setting_value(fields[0], shorten_name(row["reference"]), self.lang),
        )

    def epoch_rows(self, trial: pd.Series) -> pd.DataFrame:
        rows = self.results.epochs
        return rows[rows["key"] == trial["key"]].sort_values("epoch")

    def test_predictions(self, trial: pd.Series) -> pd.DataFrame:
        """The predictions on the test images, with the `probability` of the predicted class."""
        rows = self.results.predictions
        rows = rows[(rows["key"] == trial["key"]) & (rows["subset"] == "test")]
        return rows.assign(probability=[float(max(row)) for row in rows["probabilities"]])

    def wrong_predictions(self, trial: pd.Series) -> pd.DataFrame:
        """The test images that it got wrong, the most confident mistakes first.

        trials: how many other trials tested the image; others: how many of these got it wrong, too.
        """
        rows = self.results.predictions[self.results.predictions["subset"] == "test"]
        tested, missed = (
            part["image"].value_counts()
            for part in (rows, rows[rows["label"] != rows["prediction"]])
        )
        wrong = (
            self.test_predictions(trial)
            .query("label != prediction")
            .sort_values("probability", ascending=False, kind="stable")
        )
        others, trials = (
            times.reindex(wrong["image"]).to_numpy() - 1 for times in (missed, tested)
        )
        return wrong.assign(others=others, trials=trials)

    @cached_property
    def synthetic(self) -> bool:
        return bool(
            self.results.manifest["data"]["synthetic"] or self.trials["synthetic"].eq(True).any()
        )

    @cached_property
    def warnings(self) -> list[Notice]:
        """What makes a comparison of these trials unreliable, the worst first."""
        return list(comparison_warnings(self.results, self.trials, self.lang))

    @property
    def source_line(self) -> str:
        """What all this was computed from, on one line."""
        experiment = self.results.manifest
        data = f"{column_header('data', self.lang)} {shorten_name(experiment['data']['name'])}"
        return f"{shorten_name(experiment['name'])} · {data} · {self.text('note.source', fingerprint=results_digest(self.results))}"


def shorten_name(text: object, longest: int = 28) -> str:
    """A name from the data on one line, without control characters; the middle is cut out if it is long."""
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(str(text).split()))
    head = longest * 2 // 3
    return line if len(line) <= longest else f"{line[:head]}…{line[head + 1 - longest :]}"
