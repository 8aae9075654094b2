"""What each configuration achieved on the test images: image by image, and run by run."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bioimg.results.configurations import configuration_keys
from bioimg.results.result_store import Results
from bioimg.results.score import Score, image_weights, measure_score
from bioimg.results.statistics.standard_error import Variance, pool_run_variance


@dataclass(frozen=True, eq=False)
class ConfigurationOutcome:
    """The completed trials of one configuration (its runs).

    key: the key of its first trial, whether that was completed or not.
    score_used: accuracy or balanced_accuracy.
    runs: its rows of the table of trials, with `run_score`, the score of each on its test images.
    stopped_share: which share of all its trials early stopping ended.
    images: one row per test image, or None if a run has no predictions. `correct` is the mean over
        runs; `unit` is the group, or else the image; `weight` is what the image adds to the score
        if it is correct; `stratum` is the class if the score weighs classes, else 0.
    """

    key: str
    score_used: Score
    runs: pd.DataFrame
    stopped_share: float
    images: pd.DataFrame | None
    predictions: pd.DataFrame | None
    """The predictions of all runs for their test images."""

    @property
    def first_row(self) -> pd.Series:
        """The row of its first completed trial."""
        return self.runs.iloc[0]

    @property
    def run_count(self) -> int:
        return len(self.runs)

    @property
    def fold_count(self) -> int:
        """Number of folds in which a run was completed; 1 without folds."""
        return self.runs["fold"].nunique()

    @property
    def image_count(self) -> int:
        """Number of test images, over all folds."""
        if self.images is not None:
            return len(self.images)
        return int(self.runs.drop_duplicates("fold")["test_images"].sum())

    @property
    def accuracy(self) -> float:
        """The accuracy over all test images, averaged over runs."""
        if self.images is not None:
            return float(self.images["correct"].mean())
        return float(self.runs["test_accuracy"].mean())

    @property
    def score(self) -> float:
        """The score over all test images, averaged over runs."""
        if self.images is not None:
            return float((self.images["weight"] * self.images["correct"]).sum())
        return float(self.runs["run_score"].mean())

    @property
    def has_groups(self) -> bool:
        return self.images is not None and bool(self.images["group"].notna().any())

    @property
    def has_repeats(self) -> bool:
        """Check whether a run was repeated with another seed in the same fold."""
        return self.run_count > self.fold_count

    @property
    def is_repeated(self) -> bool:
        """Check whether there are several runs or folds, so that a claim is about the recipe."""
        return self.run_count > 1

    @property
    def test_train_ratio(self) -> float:
        """Test images per training image, averaged over folds."""
        return float(self.runs["test_images"].mean() / self.runs["train_images"].mean())


def measure_configurations(results: Results) -> dict[str, ConfigurationOutcome]:
    """Return the outcome of each configuration that has completed trials, in grid order."""
    trials = results.trials.assign(configuration=configuration_keys(results.trials))
    is_stopped = trials["status"].eq("stopped")
    stopped_shares = is_stopped.groupby(trials["configuration"]).mean()
    is_completed = trials["status"].eq("completed")
    measured = trials[is_completed & trials["test_accuracy"].notna()]

    is_test = results.predictions["subset"].eq("test")
    predictions = results.predictions[is_test]
    rows = predictions.merge(measured[["key", "configuration", "fold"]], on="key")
    rows_by_configuration = dict(list(rows.groupby("configuration")))

    outcomes = {}
    for configuration, runs in measured.groupby("configuration", sort=False):
        key = str(configuration)
        predictions = rows_by_configuration.get(key)
        outcomes[key] = _measure_configuration(key, runs, predictions, stopped_shares[key])
    return outcomes


def pool_run_spread(outcomes: dict[str, ConfigurationOutcome]) -> Variance | None:
    """Estimate the variance of a run's score from all repeats of all configurations.

    Runs are repeats if they differ in seed only. None if nothing was repeated.
    """
    repeats = []
    for outcome in outcomes.values():
        for _, runs in outcome.runs.groupby("fold"):
            repeats.append(runs["run_score"].to_numpy())
    return pool_run_variance(repeats)


def _measure_configuration(
    key: str, runs: pd.DataFrame, predictions: pd.DataFrame | None, stopped_share: float
) -> ConfigurationOutcome:
    score_used = _score_used(runs.iloc[0])
    images = None
    run_scores = runs["test_score"] if "test_score" in runs else pd.Series(np.nan, runs.index)
    if score_used == "accuracy":
        run_scores = run_scores.fillna(runs["test_accuracy"])
    if predictions is not None and runs["key"].isin(predictions["key"]).all():
        images = average_runs(predictions, score_used)
        run_scores = runs["key"].map(_score_runs(predictions, score_used))
    return ConfigurationOutcome(
        key=key,
        score_used=score_used,
        runs=runs.assign(run_score=run_scores.astype(float)),
        stopped_share=stopped_share,
        images=images,
        predictions=predictions if images is not None else None,
    )


def _score_used(row: pd.Series) -> Score:
    """Return the score of a row. Results that are older than the column have accuracy."""
    is_balanced = row.get("score_used") == "balanced_accuracy"
    return "balanced_accuracy" if is_balanced else "accuracy"


def _score_runs(predictions: pd.DataFrame, score_used: Score) -> dict[str, float]:
    """Return the score of each trial on its own test images."""
    scores = {}
    for key, rows in predictions.groupby("key"):
        labels, predicted = rows["label"].to_numpy(), rows["prediction"].to_numpy()
        scores[str(key)] = measure_score(labels, predicted, score_used)
    return scores


def average_runs(predictions: pd.DataFrame, score_used: Score) -> pd.DataFrame:
    """Average the runs of one configuration by image, as in `ConfigurationOutcome.images`."""
    is_correct = predictions["label"].eq(predictions["prediction"])
    rows = predictions.assign(correct=is_correct.astype(float))
    images = rows.groupby("image").agg(
        correct=("correct", "mean"),
        label=("label", "first"),
        group=("group", "first"),
        fold=("fold", "first"),
    )
    names = pd.Series(images.index, index=images.index)
    labels = images["label"].to_numpy()
    return images.assign(
        unit=images["group"].fillna(names),
        weight=image_weights(labels, score_used),
        stratum=labels if score_used == "balanced_accuracy" else 0,
    )
