"""Measures of predictions beyond accuracy, with bootstrap intervals.

They are per class, balanced over classes, of the ranking (AUROC), and of calibration. Values are
scikit-learn's. The bootstrap needs each metric thousands of times, so it computes them from
weighted counts for all resamples at once. A test checks that both give the same numbers.
"""

from functools import partial

import numpy as np
import pandas as pd
from sklearn.metrics import (
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
)

from bioimg.errors import UserError
from bioimg.results.result_store import Results
from bioimg.results.statistics.intervals import GroupBootstrap

CALIBRATION_BINS = 10
METRIC_NAMES = ("balanced_accuracy", "macro_f1", "auroc", "ece")


def trial_predictions(results: Results, key: str, subset: str = "test") -> pd.DataFrame:
    """Return the predictions of one trial for one subset.

    Raises:
        UserError: There are none.
    """
    rows = results.predictions
    rows = rows[rows["key"].eq(key) & rows["subset"].eq(subset)]
    if rows.empty:
        raise UserError(
            f"the trial `{key}` has no predictions for the {subset} images. Only completed trials "
            "have them."
        )
    return rows


def confusion_counts(results: Results, key: str, subset: str = "test") -> np.ndarray:
    """Count images by label (rows) and prediction (columns): int64 [classes, classes]."""
    rows = trial_predictions(results, key, subset)
    classes = results.manifest["data"]["classes"]
    return confusion_matrix(rows["label"], rows["prediction"], labels=range(len(classes)))


def class_metrics(results: Results, key: str, subset: str = "test") -> pd.DataFrame:
    """Return recall, precision, F1 and support of each class.

    A value is null if the class has no predictions or no images.
    """
    rows = trial_predictions(results, key, subset)
    classes = results.manifest["data"]["classes"]
    precision, recall, f1, support = precision_recall_fscore_support(
        rows["label"],
        rows["prediction"],
        labels=range(len(classes)),
        zero_division=np.nan,  # type: ignore[arg-type]
    )
    return pd.DataFrame(
        {"class": classes, "recall": recall, "precision": precision, "f1": f1, "support": support}
    )


def calibration_table(
    results: Results, key: str, subset: str = "test", bins: int = CALIBRATION_BINS
) -> pd.DataFrame:
    """Compare confidence with accuracy in bins of equal width.

    The columns are `low`, `high`, `n`, `confidence` and `accuracy`, the last two null where n is 0.
    `attrs["ece"]` is the expected calibration error (Guo et al. 2017): the distance of accuracy and
    confidence, averaged over images.
    """
    confidence, is_correct = _confidence_and_correctness(trial_predictions(results, key, subset))
    bin_numbers = _confidence_bins(confidence, bins)
    n = np.bincount(bin_numbers, minlength=bins)
    edges = np.linspace(0, 1, bins + 1)
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "n": n})
    confidence_sum = np.bincount(bin_numbers, confidence, minlength=bins)
    correct_count = np.bincount(bin_numbers, is_correct, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 in empty bins
        table["confidence"] = confidence_sum / n
        table["accuracy"] = correct_count / n
    distance = (table["accuracy"] - table["confidence"]).abs()
    total_distance = (table["n"] * distance).sum()
    table.attrs["ece"] = float(total_distance / n.sum())
    return table


def bootstrap_metrics(
    results: Results, key: str, subset: str = "test", resamples: int = 1000
) -> pd.DataFrame:
    """Measure one trial, with 95 % percentile intervals over resamples of groups (else of images).

    The rows are balanced accuracy, macro F1, AUROC (one class against the rest, averaged over
    classes) and expected calibration error; the columns are `metric`, `value`, `low` and `high`. An
    interval is null if every resample gives the same, as when all images are right. That of the
    calibration error is null, too, since resampling biases it away from 0. A class that a resample
    or the subset lacks is left out of the averages.
    """
    rows = trial_predictions(results, key, subset)
    bootstrap = GroupBootstrap.from_groups(rows["group"], resamples)
    low, high = bootstrap.interval(partial(_weighted_metrics, rows=rows))
    has_width = low < high
    low = np.where(has_width, low, np.nan)
    high = np.where(has_width, high, np.nan)
    calibration = calibration_table(results, key, subset)
    return pd.DataFrame(
        {
            "metric": METRIC_NAMES,
            "value": _metric_values(rows, calibration),
            "low": [*low, np.nan],
            "high": [*high, np.nan],
        }
    )


def _metric_values(rows: pd.DataFrame, calibration: pd.DataFrame) -> list[float]:
    label = rows["label"].to_numpy()
    prediction = rows["prediction"].to_numpy()
    present = np.unique(label)
    return [
        float(recall_score(label, prediction, average="macro", labels=present)),
        float(f1_score(label, prediction, average="macro", labels=present)),
        _macro_auroc(label, _probability_matrix(rows)),
        calibration.attrs["ece"],
    ]


def _macro_auroc(label: np.ndarray, probabilities: np.ndarray) -> float:
    """Average the AUROC over the classes that have images, unless all images are of one class."""
    areas = []
    for number in range(probabilities.shape[1]):
        is_class = label == number
        if is_class.any() and not is_class.all():
            areas.append(roc_auc_score(is_class, probabilities[:, number]))
    return float(np.mean(areas)) if areas else float("nan")


def _weighted_metrics(weights: np.ndarray, rows: pd.DataFrame) -> np.ndarray:
    """Compute balanced accuracy, macro F1 and AUROC under each row of weights.

    weights: float64 [resamples, images]. Returns float64 [resamples, 3].
    """
    label = rows["label"].to_numpy()
    prediction = rows["prediction"].to_numpy()
    probabilities = _probability_matrix(rows)
    classes = np.arange(probabilities.shape[1])
    # [images, classes] times weights: weighted counts [resamples, classes]
    is_label = label[:, None] == classes
    is_prediction = prediction[:, None] == classes
    labelled = weights @ is_label.astype(float)
    predicted = weights @ is_prediction.astype(float)
    correct = weights @ (is_label & is_prediction).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = correct / labelled
        f1 = np.where(labelled > 0, 2 * correct / (labelled + predicted), np.nan)
        areas = [_weighted_auroc(weights, is_label[:, c], probabilities[:, c]) for c in classes]
    auroc = np.column_stack(areas)
    return np.column_stack(
        [_mean_over_classes(recall), _mean_over_classes(f1), _mean_over_classes(auroc)]
    )


def _weighted_auroc(weights: np.ndarray, positive: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve under each row of weights: float64 [resamples].

    It is the share of pairs of a positive and a negative image in which the positive one has the
    higher score. Ties count half.
    """
    # images with the same score share a rank; sorted by rank, each rank is one slice
    rank = np.unique(score, return_inverse=True)[1]
    order = np.argsort(rank, kind="stable")
    first_of_rank = np.flatnonzero(np.diff(rank[order], prepend=-1))

    def sum_by_rank(images: np.ndarray) -> np.ndarray:
        sorted_weights = (weights * images)[:, order]
        return np.add.reduceat(sorted_weights, first_of_rank, axis=1)

    positives = sum_by_rank(positive)
    negatives = sum_by_rank(~positive)
    negatives_below = np.cumsum(negatives, axis=1) - negatives
    ordered_pairs = positives * (negatives_below + negatives / 2)
    all_pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return ordered_pairs.sum(axis=1) / all_pairs


def _mean_over_classes(values: np.ndarray) -> np.ndarray:
    """Average over the classes that have a value; null if none has, as with one class only."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return total / known.sum(axis=1)


def _confidence_bins(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Return each image's bin. Bins are open below and closed above, as in Guo et al."""
    numbers = np.ceil(confidence * bins).astype(int) - 1
    # a confidence of 0 belongs to the first bin, too
    return np.clip(numbers, 0, bins - 1)


def _probability_matrix(rows: pd.DataFrame) -> np.ndarray:
    """Return the probabilities: float64 [images, classes]."""
    return np.stack(rows["probabilities"].to_list()).astype(float)


def _confidence_and_correctness(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return each image's probability of the predicted class, and 1 if it is correct, else 0."""
    prediction = rows["prediction"].to_numpy()
    confidence = _probability_matrix(rows)[np.arange(len(rows)), prediction]
    is_correct = rows["label"].to_numpy() == prediction
    return confidence, is_correct.astype(float)
