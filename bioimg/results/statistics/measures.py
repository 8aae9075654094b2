"""Measures of predictions as means over parts, from which their intervals follow."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from bioimg.results.score import Score, measure_score
from bioimg.results.statistics.configuration_outcomes import TestedImages
from bioimg.results.statistics.intervals import (
    MIN_CLASS_IMAGES,
    UNKNOWN,
    logit_interval,
    mean_interval,
    rank_interval,
    share_interval,
    unit_correlation,
)
from bioimg.results.statistics.standard_error import UnitSample, Variance

MeasureName = Literal["accuracy", "balanced_accuracy", "macro_f1", "auroc"]
MEASURE_NAMES: tuple[MeasureName, ...] = ("accuracy", "balanced_accuracy", "macro_f1", "auroc")


@dataclass(frozen=True)
class MeasureParts:
    """A measure as a mean over parts, which are classes, or all images."""

    name: MeasureName
    values: np.ndarray
    """[parts]"""
    contributions: np.ndarray
    """[images, parts], what each image adds to each value."""
    members: np.ndarray
    """bool [images, parts], the images of each class."""
    images: TestedImages
    run_values: list[list[float]]
    """The measure of each run, in one list per fold."""

    @property
    def value(self) -> float:
        return float(np.mean(self.values)) if len(self.values) else float("nan")

    def interval(self, units: np.ndarray | None) -> tuple[float, float]:
        """Return the interval of the mean, given the group of each image, if these are known."""
        sizes = self.members.sum(axis=0)
        if not len(sizes) or (self.name != "accuracy" and sizes.min() < MIN_CLASS_IMAGES):
            return UNKNOWN
        limits = np.array([self._part_interval(part, units) for part in range(len(sizes))])
        if np.isnan(limits).any():
            return UNKNOWN
        correlation = np.ones((1, 1))
        if len(sizes) > 1:
            correlation = unit_correlation(self.contributions, self._sample(units))
        return mean_interval(self.values, limits[:, 0], limits[:, 1], correlation)

    def _part_interval(self, part: int, units: np.ndarray | None) -> tuple[float, float]:
        members = self.members[:, part]
        value = float(self.values[part])
        contributions = self.contributions[:, part]
        if self.name == "auroc":
            return rank_interval(value, contributions, members, units)
        if self.name == "macro_f1":
            return self._f1_interval(value, contributions, members, units)
        correct = self.images.correct[members]
        return share_interval(correct, None if units is None else units[members])

    def _f1_interval(
        self, f1: float, contributions: np.ndarray, members: np.ndarray, units: np.ndarray | None
    ) -> tuple[float, float]:
        sample = self._sample(units)
        if not sample.has_spread:
            return UNKNOWN
        # F1 knows no more than the images of its class
        known = np.arange(len(members)) if units is None else units
        freedom = UnitSample(known[members]).degrees_of_freedom
        return logit_interval(f1, Variance(sample.variance(contributions).value, freedom))

    def _sample(self, units: np.ndarray | None) -> UnitSample:
        known = np.arange(len(self.images.names)) if units is None else units
        return UnitSample(known, self.images.labels)


def split_measure(
    name: MeasureName, images: TestedImages, predictions: pd.DataFrame
) -> MeasureParts:
    """Split a measure into parts.

    images: from `average_runs`.
    predictions: those of all runs.
    """
    labels = images.labels
    if name == "accuracy":
        members = np.ones((len(labels), 1), bool)
    else:
        members = labels[:, None] == np.unique(labels)
    if name == "accuracy" or name == "balanced_accuracy":
        contributions = members * images.correct[:, None] / members.sum(axis=0)
        run_values = _score_each_run(name, predictions)
        values = contributions.sum(axis=0)
    else:
        values, contributions, run_values = _average_classes(
            name, images, predictions, np.unique(labels)
        )
    known = ~np.isnan(values)
    return MeasureParts(
        name, values[known], contributions[:, known], members[:, known], images, run_values
    )


def _score_each_run(score: Score, predictions: pd.DataFrame) -> list[list[float]]:
    """Return the score of each run, in one list per fold."""
    scores: list[list[float]] = []
    for _, rows_of_fold in predictions.groupby("fold"):
        scores.append([])
        for _, rows in rows_of_fold.groupby("key"):
            labels, predicted = rows["label"].to_numpy(), rows["prediction"].to_numpy()
            scores[-1].append(measure_score(labels, predicted, score))
    return scores


def _average_classes(
    name: MeasureName, images: TestedImages, predictions: pd.DataFrame, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[list[float]]]:
    """Average a measure of each class over runs, and these over folds.

    A class is left out of a fold that lacks it, since probabilities of different models can't be
    ranked together.

    Returns: values [classes], NaN where no fold has one; contributions [images, classes]; and the
        mean over classes of each run, in one list per fold.
    """
    folds = []
    run_values: list[list[float]] = []
    for _, rows_of_fold in predictions.groupby("fold"):
        values = np.zeros(len(classes))
        contributions = np.zeros((len(images.names), len(classes)))
        runs = [rows for _, rows in rows_of_fold.groupby("key")]
        run_values.append([])
        for rows in runs:
            positions = images.names.get_indexer(pd.Index(rows["image"]))
            run, added = _measure_classes(name, rows, classes)
            values += run / len(runs)
            contributions[positions] += added / len(runs)
            run_values[-1].append(_mean_of_known(run))
        folds.append((values, contributions))
    all_values = np.array([values for values, _ in folds])
    fold_counts = np.count_nonzero(~np.isnan(all_values), axis=0)
    total = np.sum([contributions for _, contributions in folds], axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 for a class that no fold has
        return np.nansum(all_values, axis=0) / fold_counts, total / fold_counts, run_values


def _mean_of_known(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _measure_classes(
    name: MeasureName, rows: pd.DataFrame, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each class's value in one run, and what each image adds to it.

    The value of a class that the run lacks is NaN, and so is the AUROC of a class without others.
    """
    labels = rows["label"].to_numpy()
    predictions = rows["prediction"].to_numpy()
    probabilities = probability_matrix(rows)
    values = np.full(len(classes), np.nan)
    contributions = np.zeros((len(rows), len(classes)))
    for column, number in enumerate(classes):
        is_label = labels == number
        if not is_label.any() or (name == "auroc" and is_label.all()):
            continue
        if name == "auroc":
            value, added = rank_contributions(is_label, probabilities[:, number])
        else:
            value, added = f1_contributions(is_label, predictions == number)
        values[column] = value
        contributions[:, column] = added
    return values, contributions


def rank_contributions(is_positive: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the area under the ROC curve and what each image adds to it, for its variance.

    The area is the share of pairs of a positive and a negative image in which the positive one has
    the higher score; ties count half. An image's contribution is its share of the pairs that it is
    part of, divided by the number of images of its side (DeLong, DeLong & Clarke-Pearson 1988). It
    is computed from ranks (Sun & Xu 2014, IEEE Signal Process. Lett. 21).

    is_positive: bool [images], neither all true nor all false.
    scores: float64 [images].
    """
    ranks = rankdata(scores)
    shares = np.empty(len(scores))
    for side in (is_positive, ~is_positive):
        lower_on_other_side = ranks[side] - rankdata(scores[side])
        shares[side] = lower_on_other_side / np.count_nonzero(~side)
    area = float(shares[is_positive].mean())
    shares[~is_positive] = 1 - shares[~is_positive]
    side_sizes = np.where(
        is_positive, np.count_nonzero(is_positive), np.count_nonzero(~is_positive)
    )
    return area, shares / side_sizes


def f1_contributions(is_label: np.ndarray, is_prediction: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the F1 of a class and what each image adds to it, to first order.

    is_label, is_prediction: bool [images]; at least one of the first is true.
    """
    total = np.count_nonzero(is_label) + np.count_nonzero(is_prediction)
    f1 = 2 * np.count_nonzero(is_label & is_prediction) / total
    both = is_label & is_prediction
    return f1, (2 * both - f1 * (is_label.astype(float) + is_prediction)) / total


def probability_matrix(rows: pd.DataFrame) -> np.ndarray:
    """Return the probabilities: float64 [images, classes]."""
    return np.stack(rows["probabilities"].to_list()).astype(float)
