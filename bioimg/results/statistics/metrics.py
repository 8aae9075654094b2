"""Measures of predictions beyond accuracy: per class, balanced, ranked, and calibrated; with bootstrap intervals.

Values are scikit-learn's. The bootstrap needs each metric thousands of times, so it computes them from weighted counts for
all resamples at once; a test checks that both give the same numbers.
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
    """The predictions of one trial for one subset.

    Raises:
        UserError: there are none.
    """
    rows = results.predictions
    rows = rows[rows["key"].eq(key) & rows["subset"].eq(subset)]
    if rows.empty:
        raise UserError(
            f"the trial `{key}` has no predictions for the {subset} images: only completed trials do."
        )
    return rows


def confusion_counts(results: Results, key: str, subset: str = "test") -> np.ndarray:
    """int64 [classes, classes]: images by label (rows) and prediction (columns)."""
    rows = trial_predictions(results, key, subset)
    return confusion_matrix(
        rows["label"], rows["prediction"], labels=range(len(results.manifest["data"]["classes"]))
    )


def class_metrics(results: Results, key: str, subset: str = "test") -> pd.DataFrame:
    """Recall, precision, F1 and support of each class; null where a class has no predictions or no images."""
    rows, classes = trial_predictions(results, key, subset), results.manifest["data"]["classes"]
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
    """Confidence against accuracy in bins of equal width: `low`, `high`, `n`, `confidence`, `accuracy` (null where n is 0).

    `attrs["ece"]` is the expected calibration error (Guo et al. 2017): |accuracy - confidence|, averaged over images.
    """
    confidence, correct = _confidence_and_correctness(trial_predictions(results, key, subset))
    edges = np.linspace(0, 1, bins + 1)
    cell = _confidence_bins(confidence, bins)
    n = np.bincount(cell, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(cell, values, minlength=bins) / n for values in (confidence, correct)]
    table = pd.DataFrame(
        {"low": edges[:-1], "high": edges[1:], "n": n, "confidence": means[0], "accuracy": means[1]}
    )
    table.attrs["ece"] = float(
        (table["n"] * (table["accuracy"] - table["confidence"]).abs()).sum() / n.sum()
    )
    return table


def bootstrap_metrics(
    results: Results, key: str, subset: str = "test", resamples: int = 1000
) -> pd.DataFrame:
    """Balanced accuracy, macro F1, AUROC (one class against the rest, averaged) and expected calibration error of one trial.

    Columns `metric`, `value`, `low`, `high`: 95 % percentile intervals over resamples of groups (else images). They are null
    if every resample gives the same, as when all images are right, and for the calibration error, whose resamples are biased
    away from 0. A class that a resample (or the subset) lacks is left out of its averages.
    """
    rows = trial_predictions(results, key, subset)
    draws = GroupBootstrap.from_groups(rows["group"], resamples)
    low, high = draws.interval(partial(_weighted_metrics, rows=rows))
    low, high = ([*np.where(low < high, end, np.nan), np.nan] for end in (low, high))
    return pd.DataFrame(
        {
            "metric": METRIC_NAMES,
            "value": _metric_values(rows, calibration_table(results, key, subset)),
            "low": low,
            "high": high,
        }
    )


def _metric_values(rows: pd.DataFrame, reliability: pd.DataFrame) -> list[float]:
    label, prediction = rows["label"].to_numpy(), rows["prediction"].to_numpy()
    probabilities = _probability_matrix(rows)
    present = [c for c in range(probabilities.shape[1]) if 0 < (label == c).sum() < len(label)]
    auroc = [roc_auc_score(label == c, probabilities[:, c]) for c in present]
    return [
        float(recall_score(label, prediction, average="macro", labels=np.unique(label))),
        float(f1_score(label, prediction, average="macro", labels=np.unique(label))),
        float(np.mean(auroc)) if auroc else float("nan"),
        reliability.attrs["ece"],
    ]


def _weighted_metrics(weights: np.ndarray, rows: pd.DataFrame) -> np.ndarray:
    """Balanced accuracy, macro F1 and AUROC under each row of weights: [resamples, 3]."""
    label, prediction, probabilities = (
        rows["label"].to_numpy(),
        rows["prediction"].to_numpy(),
        _probability_matrix(rows),
    )
    classes = np.arange(probabilities.shape[1])
    actual, called = (
        weights @ (values[:, None] == classes).astype(float) for values in (label, prediction)
    )
    hit = weights @ ((label[:, None] == classes) & (label == prediction)[:, None]).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, f1 = hit / actual, np.where(actual > 0, 2 * hit / (actual + called), np.nan)
        area = np.column_stack(
            [_weighted_auroc(weights, label == c, probabilities[:, c]) for c in classes]
        )
    return np.column_stack(
        [_mean_over_classes(recall), _mean_over_classes(f1), _mean_over_classes(area)]
    )


def _weighted_auroc(weights: np.ndarray, positive: np.ndarray, score: np.ndarray) -> np.ndarray:
    """The area under the ROC curve under each row of weights: positives ranked above negatives, ties half."""
    rank = np.unique(score, return_inverse=True)[1]
    order = np.argsort(rank, kind="stable")
    starts = np.flatnonzero(np.diff(rank[order], prepend=-1))
    pos, neg = (
        np.add.reduceat((weights * part)[:, order], starts, axis=1)
        for part in (positive, ~positive)
    )
    below = np.cumsum(neg, axis=1) - neg
    return (pos * (below + neg / 2)).sum(axis=1) / (pos.sum(axis=1) * neg.sum(axis=1))


def _mean_over_classes(values: np.ndarray) -> np.ndarray:
    """The mean over classes that have a value; nan where none has, as for the area in a draw of one class only."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)


def _confidence_bins(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Bins are open below and closed above, as in Guo et al."""
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def _probability_matrix(rows: pd.DataFrame) -> np.ndarray:
    return np.stack(rows["probabilities"].to_list()).astype(float)


def _confidence_and_correctness(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """For each image, the probability of the predicted class, and whether it is correct (0 or 1)."""
    prediction = rows["prediction"].to_numpy()
    confidence = _probability_matrix(rows)[np.arange(len(rows)), prediction]
    return confidence, rows["label"].eq(rows["prediction"]).to_numpy().astype(float)
