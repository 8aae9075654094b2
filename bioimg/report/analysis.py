"""Compute what results show, once. Tables, page, figures and console only read it."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from bioimg.report.checks import (
    Check,
    data_notes,
    find_checks,
    note,
    stopping_notes,
    tuning_note,
    tuning_warnings,
    uncontrolled_columns,
    weights_notes,
)
from bioimg.report.tested_set import GroupedSet, TestedSet
from bioimg.results import statistics
from bioimg.results.chosen_values import chosen_results, tried_values
from bioimg.results.configurations import (
    REPEAT_FIELDS,
    configuration_keys,
    has_repeats,
    varying_fields,
)
from bioimg.results.external_sets import external_subset, read_external_sets
from bioimg.results.result_store import Results

Score = Literal["accuracy", "balanced_accuracy"]
Scope = Literal["recipes", "models"]
"""What a difference is one of: recipes, if they were repeated, or else these trained models."""
Verdict = Literal["best", "tie", "better", "worse", "unknown"]
"""tie: not distinguishable from the best. unknown: the two must not be compared."""

MEASURES = ("test_accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")
"""What is measured on test images, by the names of the columns of tables."""
TEST_COLUMNS: dict[Score, str] = {
    "accuracy": "test_accuracy",
    "balanced_accuracy": "balanced_accuracy",
}
CLASS_COLUMNS = ("key", "class", "recall", "specificity", "precision", "f1", "support")
MAX_MISTAKES = 12
"""The most wrongly predicted images in a figure or on the page: the most confident ones."""
MAX_VALIDATION_MARGIN = 0.01
"""How much lower the validation score of a recipe may be that is suggested for its speed."""
NOTABLE_TIME_SHARE = 0.9
"""A recipe is faster if it takes less than this share of the best one's time."""
DIGEST_LENGTH = 10


@dataclass(frozen=True, eq=False)
class BestConfiguration:
    """The configuration that validation chose, and its score on test images."""

    key: str
    """The key of its first trial."""
    runs: pd.DataFrame
    """Its completed trials."""
    score: float
    """Its score, averaged over runs."""
    low: float
    high: float
    """The 95 % interval of the score; null if nothing can be said."""
    images: int
    """The number of different test images: seeds share them, folds don't."""

    @property
    def first_run(self) -> pd.Series:
        """The first of its completed trials."""
        return self.runs.iloc[0]

    @property
    def has_folds(self) -> bool:
        """Whether it was cross-validated."""
        return self.runs["fold"].nunique() > 1

    @property
    def seconds(self) -> float:
        """What a run takes: training, validation and computing features."""
        return float(self.runs["recipe_seconds"].mean())


@dataclass(frozen=True, eq=False)
class FasterAlternative:
    """A recipe to consider where time matters, chosen on validation images."""

    key: str
    """The key of its first trial."""
    seconds: float
    """What a run takes: training, validation and computing features."""
    margin: float
    """By how much its validation score is lower than that of the best one; negative if higher."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """What results show, as numbers, keys and codes. Each property is computed at its first use."""

    all_results: Results
    """Also those of tuned values that weren't chosen."""

    @cached_property
    def results(self) -> Results:
        """The results that are compared: those of the chosen values of tuned fields."""
        return chosen_results(self.all_results)

    @property
    def tuned_fields(self) -> tuple[str, ...]:
        """The fields whose values are chosen within each recipe."""
        return self.results.tuned_fields

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
        return results_digest(self.all_results)

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """What makes these numbers or their comparison unreliable, the worst first."""
        return tuple(self._warnings(self.trials))

    def _warnings(self, shown: pd.DataFrame) -> Iterator[Check]:
        yield from find_checks(self.results, shown)
        if self.tuned_fields:
            yield from tuning_warnings(self.tried_values, self.tuned_fields)

    def table_checks(self, shown: pd.DataFrame, *notes: Check) -> tuple[Check, ...]:
        """Return what stands below a table of these trials: warnings, data, notes, stopping."""
        tuning = []
        if self.tuned_fields:
            tuning.append(tuning_note(self.all_results, self.tried_values))
        return (
            *self._warnings(shown),
            *data_notes(self.results, shown),
            *weights_notes(shown),
            *notes,
            *tuning,
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
        return varying_fields(self.trials, self.tuned_fields)

    @cached_property
    def has_repeats(self) -> bool:
        """Whether a configuration has several trials."""
        return has_repeats(self.trials, self.tuned_fields)

    @cached_property
    def repeat_fields(self) -> list[str]:
        """The fields in which repeats of a configuration differ; none if nothing is repeated."""
        if not self.has_repeats:
            return []
        return [name for name in REPEAT_FIELDS if self.trials[name].nunique() > 1]

    @cached_property
    def configuration_by_trial(self) -> dict[str, str]:
        """The key of the configuration (that of its first trial) by the key of the trial."""
        keys = configuration_keys(self.trials, self.tuned_fields)
        return dict(zip(self.trials["key"], keys, strict=True))

    @cached_property
    def first_trials(self) -> pd.DataFrame:
        """The first trial of each configuration, by its key."""
        return self.trials.set_index("key", drop=False).loc[
            list(dict.fromkeys(self.configuration_by_trial.values()))
        ]

    # Tuned fields

    @cached_property
    def tried_values(self) -> pd.DataFrame:
        """What each recipe was tried with, as from `chosen_values.tried_values`."""
        return tried_values(self.all_results)

    @cached_property
    def first_with_same_values(self) -> list[dict[str, Any]]:
        """The recipe that would have come first, had all had the same values; if another one.

        One entry for each combination of values that every recipe completed in every fold: the
        `key` of the configuration with the lowest validation loss, and the tuned fields. Those
        where the recipe is first that also is with the chosen values, and of the same seeds, are
        left out.
        """
        if not self.tuned_fields or self.tried_values.empty:
            return []
        tried = self.tried_values
        cells = tried.groupby(["key", "fold"]).ngroups
        chosen = tried[tried["chosen"] & tried["completed"].gt(0)]
        if chosen.empty:
            return []
        first = chosen.groupby("key")["best_val_loss"].mean().idxmin()
        others = []
        for values, rows in tried.groupby(list(self.tuned_fields), sort=False):
            if len(rows) < cells or rows["completed"].lt(rows["runs"]).any():
                continue
            winner = rows.groupby("key")["best_val_loss"].mean().idxmin()
            if winner != first:
                fields = dict(zip(self.tuned_fields, values, strict=True))
                others.append({"key": winner, **fields})
        return others

    # Comparisons

    @cached_property
    def best(self) -> BestConfiguration | None:
        """The configuration that validation chose; None if no trial was completed."""
        key = statistics.best_configuration(self.results)
        if key is None:
            return None
        is_of_best = self.trials["key"].map(self.configuration_by_trial).eq(key)
        runs = self.trials[is_of_best & self.trials["status"].eq("completed")]
        measured: Any = self.configuration_scores.loc[key]
        return BestConfiguration(
            key=key,
            runs=runs,
            score=float(measured["score"]),
            low=float(measured["low"]),
            high=float(measured["high"]),
            images=int(measured["images"]),
        )

    @cached_property
    def configuration_scores(self) -> pd.DataFrame:
        """The score and other measures of each completed configuration, by its key.

        The columns are those of `statistics.configuration_scores`, with `test_accuracy` for the
        accuracy.
        """
        scores = statistics.configuration_scores(self.results).set_index("key")
        # an interval that isn't known is None
        scores = scores.astype({"score": float, "low": float, "high": float})
        return scores.rename(columns=_table_column)

    @cached_property
    def baseline_score(self) -> float | None:
        """The score of the baseline, the most frequent class; None if it isn't known."""
        score = statistics.baseline_score(self.results)
        return None if np.isnan(score) else score

    @cached_property
    def score(self) -> Score:
        """The measure by which trials were selected and are compared."""
        recorded = self.trials["score_used"].dropna()
        # rows of earlier versions lack it
        return recorded.iloc[0] if len(recorded) else "accuracy"

    @property
    def test_column(self) -> str:
        """The column of trials with the score on the test images."""
        return TEST_COLUMNS[self.score]

    @cached_property
    def scope(self) -> Scope:
        """What can be claimed about: recipes if the best one was repeated, or else models."""
        if self.best is None or len(self.best.runs) == 1:
            return "models"
        return "recipes"

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
            verdicts[pair["a"]] = pair["verdict"]
        return verdicts

    @cached_property
    def verdict_counts(self) -> Counter[Verdict]:
        """The number of configurations by verdict."""
        return Counter(self.verdicts.values())

    @cached_property
    def still_improving(self) -> set[str]:
        """The completed configurations of which a run still improved at the last of its epochs.

        Where patience ended it, its rule says that it didn't.
        """
        is_improving = ["still_improving" in findings for findings in self.curves["findings"]]
        is_completed = self.trials["status"].eq("completed")
        # null in rows of failed trials
        is_completed &= ~self.trials["out_of_patience"].eq(True)
        is_found = self.trials["key"].isin(self.curves.loc[is_improving, "key"])
        keys = self.trials.loc[is_completed & is_found, "key"]
        return set(keys.map(self.configuration_by_trial))

    @cached_property
    def faster_alternative(self) -> FasterAlternative | None:
        """The fastest recipe with nearly the validation score of the best; None if none is faster.

        Test images have no part in it. Only recipes that ran under the same conditions are
        considered.
        """
        best = self.best
        if best is None:
            return None
        completed = self.trials[self.trials["status"].eq("completed")]
        for column in uncontrolled_columns(self.trials):
            completed = completed[completed[column].eq(best.first_run[column])]
        configurations = completed["key"].map(self.configuration_by_trial)
        runs = completed.groupby(configurations, sort=False)
        means = runs[["recipe_seconds", "val_score"]].mean()
        margins = best.runs["val_score"].mean() - means["val_score"]
        is_nearly_as_good = margins <= MAX_VALIDATION_MARGIN
        is_faster = means["recipe_seconds"] < NOTABLE_TIME_SHARE * best.seconds
        seconds = means.loc[is_nearly_as_good & is_faster, "recipe_seconds"]
        if seconds.empty:
            return None
        key = str(seconds.idxmin())
        return FasterAlternative(key, float(seconds[key]), float(margins[key]))

    @cached_property
    def external_sets(self) -> list[TestedSet]:
        """What recipes reached on images from elsewhere, one for each set."""
        subsets = set(self.results.predictions["subset"])
        best_key = self.best.key if self.best else ""
        sets = []
        for name, record in read_external_sets(self.manifest).items():
            if external_subset(name) in subsets:
                sets.append(TestedSet(name, record, self.results, best_key))
        return sets

    @cached_property
    def group_sets(self) -> list[GroupedSet]:
        """What recipes reached on groups: of the test images first, then of each external set."""
        best_key = self.best.key if self.best else ""
        sets = [GroupedSet("", self.results, best_key)]
        for tested in self.external_sets:
            sets.append(GroupedSet(tested.name, tested.results, best_key))
        return sets

    @property
    def grouped_sets(self) -> list[GroupedSet]:
        """Those of the sets whose groups can be tested."""
        return [grouped for grouped in self.group_sets if not grouped.problem]

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
        """Each tested trial by its key: `MEASURES` with their intervals.

        The ends of an interval are in columns that end in `_low` and `_high`.
        """
        rows = {}
        for key in self.tested_keys:
            row = {}
            for measured in statistics.trial_metrics(self.results, key).to_dict("records"):
                name = measured["metric"]
                row[name] = measured["value"]
                row[f"{name}_low"] = measured["low"]
                row[f"{name}_high"] = measured["high"]
            rows[key] = row
        scores = pd.DataFrame.from_dict(rows, orient="index").rename(columns=_table_column)
        names = [f"{name}{part}" for name in MEASURES for part in ("", "_low", "_high")]
        return scores.reindex(columns=names).rename_axis("key")

    @cached_property
    def class_metrics(self) -> pd.DataFrame:
        """Each tested trial and class: its `key`, and the columns of `statistics.class_metrics`."""
        tables = []
        for key in self.tested_keys:
            tables.append(statistics.class_metrics(self.results, key).assign(key=key))
        return (
            pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=CLASS_COLUMNS)
        )

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

    @cached_property
    def worst_mistakes(self) -> pd.DataFrame:
        """The most confident mistakes of the best configuration's first run.

        The columns are those of `wrong_predictions`. It has no rows if nothing was tested.
        """
        if self.tested_trials.empty:
            return self._test_rows.head(0)
        return self.wrong_predictions(self.tested_trials["key"].iloc[0]).head(MAX_MISTAKES)

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


def _table_column(name: str) -> str:
    """Return the name that tables have for a column of a measure."""
    return f"test_{name}" if name.startswith("accuracy") else name


def results_digest(results: Results) -> str:
    """Return ten hex digits that change with any number of the table of trials.

    The order of the rows doesn't matter.
    """
    # a NUL ends each row, since a text may contain line breaks
    table = results.trials.to_csv(index=False, header=False, lineterminator="\x00")
    rows = sorted(table.split("\x00"))
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:DIGEST_LENGTH]
