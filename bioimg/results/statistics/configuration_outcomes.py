"""What each configuration achieved on the test images: image by image, and run by run."""

import functools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bioimg.results.configurations import configuration_keys
from bioimg.results.result_store import Results
from bioimg.results.score import Score, image_weights, measure_score
from bioimg.results.statistics.standard_error import UnitSample, Variance, pool_run_variance


@dataclass(frozen=True, eq=False)
class TestedImages:
    """The test images of one configuration, and how well its runs did on each.

    names: [images], sorted.
    correct: float64 [images], the share of runs that were right.
    labels: int [images].
    groups: object [images], the group, or the image where it has none; None if none is known.
    folds: [images].
    weights: float64 [images], what an image adds to the score if it is classified correctly.
    strata: [images], the class if the score weighs classes, else 0.
    """

    names: pd.Index
    correct: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    folds: np.ndarray
    weights: np.ndarray
    strata: np.ndarray

    @functools.cached_property
    def by_image(self) -> UnitSample:
        return UnitSample(np.arange(len(self.names)), self.strata)

    @functools.cached_property
    def by_unit(self) -> UnitSample:
        """By groups, or by images where none are known."""
        return self.by_image if self.groups is None else UnitSample(self.groups, self.strata)

    @functools.cached_property
    def by_fold(self) -> UnitSample:
        return UnitSample(self.folds, self.strata)

    @property
    def has_spread(self) -> bool:
        """Check that images, and those of each class that counts, are of several units and folds.

        With one fold, folds don't matter.
        """
        has_folds = len(np.unique(self.folds)) > 1
        return self.by_unit.has_spread and (not has_folds or self.by_fold.has_spread)


@dataclass(frozen=True, eq=False)
class ConfigurationOutcome:
    """The completed trials of one configuration (its runs).

    key: the key of its first trial, whether that was completed or not.
    score_used: accuracy or balanced_accuracy.
    runs: its rows of the table of trials, with `run_score`, the score of each on its test images.
    stopped_share: which share of all its trials early stopping ended.
    images: the test images of all folds, or None if a run has no predictions.
    predictions: those of all runs for them.
    """

    key: str
    score_used: Score
    runs: pd.DataFrame
    stopped_share: float
    images: TestedImages | None
    predictions: pd.DataFrame | None

    @functools.cached_property
    def first_row(self) -> pd.Series:
        """The row of its first completed trial."""
        return self.runs.iloc[0]

    @property
    def run_count(self) -> int:
        return len(self.runs)

    @property
    def run_scores(self) -> list[float]:
        """The score of each run on its own test images."""
        return self.runs["run_score"].to_list()

    @functools.cached_property
    def fold_count(self) -> int:
        """Number of folds in which a run was completed; 1 without folds."""
        return self.runs["fold"].nunique()

    @property
    def image_count(self) -> int:
        """Number of test images, over all folds."""
        if self.images is not None:
            return len(self.images.names)
        return int(self.runs.drop_duplicates("fold")["test_images"].sum())

    @property
    def accuracy(self) -> float:
        """The accuracy over all test images, averaged over runs."""
        if self.images is not None:
            return float(self.images.correct.mean())
        return float(self.runs["test_accuracy"].mean())

    @property
    def score(self) -> float:
        """The score over all test images, averaged over runs."""
        if self.images is not None:
            return float(self.images.weights @ self.images.correct)
        return float(self.runs["run_score"].mean())

    @property
    def has_groups(self) -> bool:
        return self.images is not None and self.images.groups is not None

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
    trials = results.trials.assign(
        configuration=configuration_keys(results.trials, results.tuned_fields)
    )
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
    if predictions is not None and predictions["key"].nunique() == len(runs):
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


def average_runs(predictions: pd.DataFrame, score_used: Score) -> TestedImages:
    """Average the runs of one configuration by image."""
    names, positions = np.unique(predictions["image"].to_numpy(), return_inverse=True)
    is_correct = predictions["label"].to_numpy() == predictions["prediction"].to_numpy()
    correct = np.bincount(positions, is_correct) / np.bincount(positions)
    # an image has the same label, group and fold in all runs
    first = np.zeros(len(names), int)
    first[positions[::-1]] = np.arange(len(positions))[::-1]
    rows = predictions.iloc[first]
    labels = rows["label"].to_numpy()
    groups = None
    if rows["group"].notna().any():
        groups = rows["group"].fillna(rows["image"]).to_numpy(object)
    return TestedImages(
        names=pd.Index(names),
        correct=correct,
        labels=labels,
        groups=groups,
        folds=rows["fold"].to_numpy(),
        weights=image_weights(labels, score_used),
        strata=labels if score_used == "balanced_accuracy" else np.zeros(len(labels), int),
    )
