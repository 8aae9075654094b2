"""Compute what results show, once. Tables, page, figures and console only read it."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from bioimg.report.checks import Check, data_notes, find_checks, note, stopping_notes
from bioimg.results import statistics
from bioimg.results.configurations import configuration_keys, has_repeats, varying_fields
from bioimg.results.result_store import Results

Verdict = Literal["best", "tie", "better", "worse", "unknown"]
"""tie: not distinguishable from the best. unknown: the two must not be compared."""

SCORE_COLUMNS = ("balanced_accuracy", "macro_f1", "auroc", "ece")
DIGEST_LENGTH = 10


@dataclass(frozen=True, eq=False)
class BestConfiguration:
    """The configuration that validation chose, and its accuracy on test images."""

    key: str
    """The key of its first trial."""
    runs: pd.DataFrame
    """Its completed trials."""
    accuracy: float
    """The share of correct test images in all runs."""
    images: int
    """The number of different test images: seeds share them, folds don't."""
    low: float
    high: float
    """The 95 % interval of the accuracy."""

    @property
    def first_run(self) -> pd.Series:
        """The first of its completed trials."""
        return self.runs.iloc[0]


@dataclass(frozen=True, eq=False)
class Analysis:
    """What results show, as numbers, keys and codes. Each property is computed at its first use."""

    results: Results

    @property
    def trials(self) -> pd.DataFrame:
        """The table of trials, in the order of the grid."""
        return self.results.trials

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of experiment.json."""
        return self.results.manifest

    @property
    def data_name(self) -> str:
        """The name of the data set."""
        return self.manifest["data"]["name"]

    @cached_property
    def digest(self) -> str:
        """Ten hex digits that change with any number of the table of trials."""
        return results_digest(self.results)

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """What makes these numbers or their comparison unreliable, the worst first."""
        return tuple(find_checks(self.results, self.trials))

    def table_checks(self, shown: pd.DataFrame, *notes: Check) -> tuple[Check, ...]:
        """Return what stands below a table of these trials: warnings, data, notes, stopping."""
        return (
            *find_checks(self.results, shown),
            *data_notes(self.results, shown),
            *notes,
            *stopping_notes(self.results, shown),
            note("source", fingerprint=self.digest),
        )

    @cached_property
    def status_counts(self) -> Counter[str]:
        """The number of trials by status: completed, stopped or failed."""
        return Counter(self.trials["status"])

    # Configurations

    @cached_property
    def varying_fields(self) -> list[str]:
        """The fields in which configurations differ."""
        return varying_fields(self.trials)

    @cached_property
    def has_repeats(self) -> bool:
        """Whether a configuration has several trials."""
        return has_repeats(self.trials)

    @cached_property
    def configuration_by_trial(self) -> dict[str, str]:
        """The key of the configuration (that of its first trial) by the key of the trial."""
        return dict(zip(self.trials["key"], configuration_keys(self.trials), strict=True))

    @cached_property
    def first_trials(self) -> pd.DataFrame:
        """The first trial of each configuration, by its key."""
        return self.trials.set_index("key", drop=False).loc[
            list(dict.fromkeys(self.configuration_by_trial.values()))
        ]

    # Comparisons

    @cached_property
    def best(self) -> BestConfiguration | None:
        """The configuration that validation chose; None if no trial was completed."""
        key = statistics.best_configuration(self.results)
        if key is None:
            return None
        is_of_best = self.trials["key"].map(self.configuration_by_trial).eq(key)
        runs = self.trials[is_of_best & self.trials["status"].eq("completed")]
        accuracy = float(np.average(runs["test_accuracy"], weights=runs["test_images"]))
        images = int(runs.drop_duplicates("fold")["test_images"].sum())
        low, high = statistics.wilson_interval(round(accuracy * images), images)
        return BestConfiguration(key, runs, accuracy, images, low, high)

    @cached_property
    def best_pairs(self) -> pd.DataFrame:
        """Every other completed configuration (a) against the best one (b).

        The columns are those of `statistics.compare_pairs`. Without a best one it has no rows.
        """
        if self.best is None:
            return self.all_pairs
        return statistics.compare_pairs(self.results, self.best.key)

    @cached_property
    def all_pairs(self) -> pd.DataFrame:
        """Every pair of completed configurations, as from `statistics.compare_pairs`."""
        return statistics.compare_pairs(self.results)

    @cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict on each completed configuration, compared with the best one."""
        if self.best is None:
            return {}
        verdicts: dict[str, Verdict] = {self.best.key: "best"}
        for pair in self.best_pairs.to_dict("records"):
            verdicts[pair["a"]] = _pair_verdict(pair)
        return verdicts

    @cached_property
    def verdict_counts(self) -> Counter[Verdict]:
        """The number of configurations by verdict."""
        return Counter(self.verdicts.values())

    @cached_property
    def effects(self) -> pd.DataFrame:
        """The effect of each axis and interaction, as from `statistics.estimate_effects`."""
        return statistics.estimate_effects(self.results)

    # Trials

    @cached_property
    def ranked_trials(self) -> pd.DataFrame:
        """Trials with epochs: completed ones first, then by the lowest validation loss."""
        has_epochs = self.trials["key"].isin(self.results.epochs["key"])
        trials = self.trials[has_epochs]
        trials = trials.assign(unfinished=trials["status"] != "completed")
        return trials.sort_values(["unfinished", "best_val_loss"], kind="stable")

    @cached_property
    def tested_trials(self) -> pd.DataFrame:
        """The completed trials with test predictions: those of the best configuration first.

        The others follow by their validation loss.
        """
        is_tested = self.trials["key"].isin(self._test_rows["key"])
        trials = self.trials[is_tested & self.trials["status"].eq("completed")]
        best_key = self.best.key if self.best else ""
        is_other = trials["key"].map(self.configuration_by_trial).ne(best_key)
        trials = trials.assign(other=is_other)
        return trials.sort_values(["other", "best_val_loss"], kind="stable")

    @cached_property
    def measured_trials(self) -> pd.DataFrame:
        """The completed trials whose test accuracy and time are known, ranked.

        Their curves and predictions may be missing.
        """
        completed = self.trials[self.trials["status"] == "completed"]
        ranked = completed.sort_values("best_val_loss", kind="stable")
        return ranked.dropna(subset=["test_accuracy", "test_images", "recipe_seconds"])

    def trial_epochs(self, key: str) -> pd.DataFrame:
        """Return the epochs of a trial, in order."""
        epochs = self.results.epochs
        return epochs[epochs["key"] == key].sort_values("epoch")

    @cached_property
    def curves(self) -> pd.DataFrame:
        """What the learning curves show, as from `statistics.diagnose_curves`."""
        return statistics.diagnose_curves(self.results.epochs)

    # Predictions

    @cached_property
    def tested_keys(self) -> list[str]:
        """The keys of the trials with test predictions, in the order of the grid."""
        keys = set(self._test_rows["key"])
        return [key for key in self.trials["key"] if key in keys]

    @cached_property
    def trial_scores(self) -> pd.DataFrame:
        """Each tested trial: its `key`, `SCORE_COLUMNS`, and their `_low` and `_high`."""
        names = [f"{name}{part}" for name in SCORE_COLUMNS for part in ("", "_low", "_high")]
        rows = []
        for key in self.tested_keys:
            metrics = statistics.trial_metrics(self.results, key).set_index("metric")
            row: dict[str, object] = {"key": key}
            for name in SCORE_COLUMNS:
                row[name] = metrics.at[name, "value"]
                row[f"{name}_low"] = metrics.at[name, "low"]
                row[f"{name}_high"] = metrics.at[name, "high"]
            rows.append(row)
        return pd.DataFrame(rows, columns=["key", *names])

    @cached_property
    def class_metrics(self) -> pd.DataFrame:
        """Each tested trial and class: its `key`, and the columns of `statistics.class_metrics`."""
        tables = []
        for key in self.tested_keys:
            tables.append(statistics.class_metrics(self.results, key).assign(key=key))
        if not tables:
            return pd.DataFrame(columns=["key", "class", *CLASS_METRICS])
        return pd.concat(tables, ignore_index=True)

    @cached_property
    def _test_rows(self) -> pd.DataFrame:
        predictions = self.results.predictions
        return predictions[predictions["subset"] == "test"]

    def test_predictions(self, key: str) -> pd.DataFrame:
        """Return a trial's test predictions, with the `probability` of the predicted class."""
        rows = self._test_rows[self._test_rows["key"] == key]
        # the predicted class is the most probable one
        highest = [float(max(row)) for row in rows["probabilities"]]
        return rows.assign(probability=highest)

    def wrong_predictions(self, key: str) -> pd.DataFrame:
        """Return the test images that a trial got wrong, the most confident mistakes first.

        The column `trials` counts the other trials that tested the image, and `others` those of
        them that got it wrong, too.
        """
        tests = self._test_rows
        test_counts = tests["image"].value_counts()
        mistakes = tests[tests["label"] != tests["prediction"]]
        mistake_counts = mistakes["image"].value_counts()
        wrong = self.test_predictions(key).query("label != prediction")
        wrong = wrong.sort_values("probability", ascending=False, kind="stable")
        # both counts include the trial itself
        other_tests = test_counts.reindex(wrong["image"]) - 1
        other_mistakes = mistake_counts.reindex(wrong["image"]) - 1
        return wrong.assign(others=other_mistakes.to_numpy(), trials=other_tests.to_numpy())


CLASS_METRICS = ("recall", "precision", "f1", "support")


def _pair_verdict(pair: Any) -> Verdict:
    if pd.isna(pair["holds"]):
        return "unknown"
    if not pair["holds"]:
        return "tie"
    return "better" if pair["difference"] > 0 else "worse"


def results_digest(results: Results) -> str:
    """Return ten hex digits that change with any number of the table of trials.

    The order of the rows doesn't matter.
    """
    # a NUL ends each row, since a text may contain line breaks
    table = results.trials.to_csv(index=False, header=False, lineterminator="\x00")
    rows = sorted(table.split("\x00"))
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:DIGEST_LENGTH]
