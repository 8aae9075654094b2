"""Scores of configurations and of single trials, with 95 % intervals.

An interval covers what was sampled: test images (or their groups), and runs or folds where there
are several. README.md in this folder has a table of methods.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bioimg.results.result_store import Results
from bioimg.results.statistics.configuration_outcomes import (
    ConfigurationOutcome,
    average_runs,
    measure_configurations,
)
from bioimg.results.statistics.intervals import UNKNOWN, wilson_interval
from bioimg.results.statistics.measures import (
    MEASURE_NAMES,
    MeasureName,
    MeasureParts,
    split_measure,
)
from bioimg.results.statistics.metrics import calibration_error, trial_predictions
from bioimg.results.statistics.standard_error import (
    StandardError,
    Variance,
    mean_run_variance,
    pool_run_variance,
)

CONFIGURATION_COLUMNS = (
    "key",
    "runs",
    "images",
    "scope",
    "score_used",
    "score",
    "low",
    "high",
    "groups",
    "effective_groups",
)

Limits = tuple[float, float]


def configuration_scores(results: Results) -> pd.DataFrame:
    """Measure each configuration that has completed trials, on its test images.

    key: the key of its first trial.
    runs, images: numbers of completed trials, and of test images over all folds.
    scope: `recipes` if the interval covers the spread of runs or folds, or else `models`.
    score_used, score, low, high: the score, averaged over runs, and its interval.
    groups: the number of groups of the test images; null if none are known.
    effective_groups: how many groups of equal size are worth as much.
    accuracy, balanced_accuracy, macro_f1, auroc, each with `_low` and `_high`; ece: averaged over
        runs. AUROC is that of one class against the rest, averaged over classes. An interval is
        null with one group, and that of a mean over classes if a class has fewer than 10 images.
    """
    outcomes = measure_configurations(results)
    configurations = [_MeasuredConfiguration(outcome) for outcome in outcomes.values()]
    spreads = {}
    for name in MEASURE_NAMES:
        repeats: list[list[float]] = []
        for configuration in configurations:
            repeats += configuration.run_values(name)
        spreads[name] = pool_run_variance(repeats)
    rows = [configuration.describe(spreads) for configuration in configurations]
    names = [f"{name}{part}" for name in MEASURE_NAMES for part in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=[*CONFIGURATION_COLUMNS, *names, "ece"])


def trial_metrics(results: Results, key: str, subset: str = "test") -> pd.DataFrame:
    """Measure one trial: columns `metric`, `value`, `low` and `high`.

    The rows are accuracy, balanced accuracy, macro F1, AUROC (one class against the rest, averaged
    over classes) and expected calibration error, which has no interval. A class without images is
    left out of averages. The interval of an average is null if a class has fewer than 10 images,
    and every interval if there is one group.
    """
    rows = trial_predictions(results, key, subset).assign(fold=0)
    images = average_runs(rows, "accuracy")
    table = []
    for name in MEASURE_NAMES:
        parts = split_measure(name, images, rows)
        low, high = parts.interval(images.groups)
        table.append({"metric": name, "value": parts.value, "low": low, "high": high})
    table.append({"metric": "ece", "value": calibration_error(rows)})
    return pd.DataFrame(table, columns=["metric", "value", "low", "high"])


def baseline_score(results: Results) -> float:
    """Return the score of the baseline, which always answers with the most frequent class.

    It is that of the test images of the first configuration with predictions; null without any.
    """
    for outcome in measure_configurations(results).values():
        if outcome.images is not None:
            most_frequent = np.bincount(outcome.images.labels).argmax()
            return float(outcome.images.weights[outcome.images.labels == most_frequent].sum())
    return float("nan")


class _MeasuredConfiguration:
    """A configuration and its measures."""

    def __init__(self, outcome: ConfigurationOutcome) -> None:
        self.outcome = outcome
        self.parts: dict[MeasureName, MeasureParts] = {}
        if outcome.images is not None and outcome.predictions is not None:
            for name in MEASURE_NAMES:
                self.parts[name] = split_measure(name, outcome.images, outcome.predictions)

    def run_values(self, name: MeasureName) -> list[list[float]]:
        """Return the measure of each run, in one list per fold; none if it isn't known."""
        if name in self.parts:
            return self.parts[name].run_values
        if name != self.outcome.score_used:
            return []
        return [runs.to_list() for _, runs in self.outcome.runs.groupby("fold")["run_score"]]

    def describe(self, spreads: Mapping[MeasureName, Variance | None]) -> dict[str, object]:
        """Return one row of `configuration_scores`.

        spreads: the variance of one run, for each measure.
        """
        outcome = self.outcome
        row: dict[str, object] = {
            "key": outcome.key,
            "runs": outcome.run_count,
            "images": outcome.image_count,
            "scope": "recipes" if outcome.is_repeated else "models",
            "score_used": outcome.score_used,
            "score": outcome.score,
            "accuracy": outcome.accuracy,
        }
        for name in MEASURE_NAMES:
            row[f"{name}_low"], row[f"{name}_high"] = self._interval(name, spreads[name])
        for name, parts in self.parts.items():
            row[name] = parts.value
        if outcome.predictions is not None:
            runs = outcome.predictions.groupby("key")
            row["ece"] = float(np.mean([calibration_error(rows) for _, rows in runs]))
        row["low"] = row.get(f"{outcome.score_used}_low")
        row["high"] = row.get(f"{outcome.score_used}_high")
        if outcome.images is not None and outcome.images.groups is not None:
            row["groups"] = len(set(outcome.images.groups))
            row["effective_groups"] = outcome.images.by_unit.effective_count
        return row

    def _interval(self, name: MeasureName, spread: Variance | None) -> Limits:
        """Return the interval over images or groups, and over runs or folds."""
        outcome = self.outcome
        value = outcome.accuracy
        low, high = UNKNOWN
        if name in self.parts:
            parts = self.parts[name]
            value = parts.value
            low, high = parts.interval(parts.images.groups)
            if outcome.fold_count > 1:
                over_folds = parts.interval(parts.images.folds)
                low, high = min(low, over_folds[0]), max(high, over_folds[1])
        elif name == "accuracy" and outcome.fold_count == 1:
            low, high = wilson_interval(value * outcome.image_count, outcome.image_count)
        run_values = self.run_values(name)
        if spread and run_values and outcome.fold_count == 1 and outcome.has_repeats:
            return _widen_by_runs(value, (low, high), mean_run_variance(spread, run_values[0]))
        return low, high


def _widen_by_runs(value: float, limits: Limits, runs: Variance) -> Limits:
    """Add the spread of runs to an interval over images, as MOVER adds independent errors."""
    margin = StandardError(runs).margin()
    low = value - np.hypot(value - limits[0], margin)
    high = value + np.hypot(limits[1] - value, margin)
    return float(max(low, 0.0)), float(min(high, 1.0))
