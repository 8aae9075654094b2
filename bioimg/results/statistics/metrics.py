"""Measures of predictions beyond the score: per class, of the ranking, and of calibration."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from bioimg.errors import UserError
from bioimg.results.result_store import Results
from bioimg.results.statistics.intervals import MIN_CLASS_IMAGES, UNKNOWN, share_interval
from bioimg.results.statistics.measures import probability_matrix

CALIBRATION_BINS = 10


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


def mean_predictions(results: Results, keys: Sequence[str], subset: str) -> pd.DataFrame:
    """Return one row per image, with the mean probabilities of the trials that predicted it.

    With seeds these are all trials, and with folds those that didn't train on the image.

    Raises:
        UserError: as `trial_predictions`.
    """
    rows = pd.concat([trial_predictions(results, key, subset) for key in keys])
    by_image = rows.groupby("image", sort=False)
    means = [np.mean(np.stack(list(each)), axis=0) for _, each in by_image["probabilities"]]
    predictions = [int(mean.argmax()) for mean in means]
    return by_image.first().assign(probabilities=means, prediction=predictions).reset_index()


def confusion_counts(results: Results, key: str, subset: str = "test") -> np.ndarray:
    """Count images by label (rows) and prediction (columns): int64 [classes, classes]."""
    rows = trial_predictions(results, key, subset)
    classes = results.manifest["data"]["classes"]
    return confusion_matrix(rows["label"], rows["prediction"], labels=range(len(classes)))


def class_metrics(results: Results, key: str, subset: str = "test") -> pd.DataFrame:
    """Return recall, specificity, precision, F1 and number of images of each class, for one trial.

    Recall is the share of the class's images that are recognised, specificity that of the other
    images that aren't taken for the class. Both have 95 % intervals, `_low` and `_high`, which know
    groups. A value is null if the class has no predictions or no images. An interval is null if it
    would be of fewer than 10 images, or of one group.
    """
    rows = trial_predictions(results, key, subset)
    classes = results.manifest["data"]["classes"]
    precision, recall, f1, support = precision_recall_fscore_support(
        rows["label"],
        rows["prediction"],
        labels=range(len(classes)),
        zero_division=np.nan,  # type: ignore[arg-type]
    )
    table = pd.DataFrame(
        {"class": classes, "recall": recall, "precision": precision, "f1": f1, "support": support}
    )
    units = image_units(rows)
    limits = []
    for number in range(len(classes)):
        is_label = rows["label"].eq(number).to_numpy()
        is_prediction = rows["prediction"].eq(number).to_numpy()
        row = {"specificity": _mean_or_null(~is_prediction[~is_label])}
        row["recall_low"], row["recall_high"] = _class_interval(is_prediction, is_label, units)
        row["specificity_low"], row["specificity_high"] = _class_interval(
            ~is_prediction, ~is_label, units
        )
        limits.append(row)
    return table.join(pd.DataFrame(limits))


def _mean_or_null(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _class_interval(
    is_correct: np.ndarray, chosen: np.ndarray, units: np.ndarray | None
) -> tuple[float, float]:
    if np.count_nonzero(chosen) < MIN_CLASS_IMAGES:
        return UNKNOWN
    return share_interval(is_correct[chosen], None if units is None else units[chosen])


def image_units(rows: pd.DataFrame) -> np.ndarray | None:
    """Return the group of each image, or the image where none is known; None if none is at all."""
    if rows["group"].isna().all():
        return None
    return rows["group"].fillna(rows["image"]).to_numpy()


def calibration_table(
    results: Results, key: str, subset: str = "test", bins: int = CALIBRATION_BINS
) -> pd.DataFrame:
    """Compare confidence with accuracy in bins of equal width.

    The columns are `low`, `high`, `n`, `confidence` and `accuracy`, the last two null where n is 0.
    `attrs["ece"]` is the expected calibration error.
    """
    rows = trial_predictions(results, key, subset)
    table = _bin_confidence(rows, bins)
    table.attrs["ece"] = calibration_error(rows, bins)
    return table


def calibration_error(rows: pd.DataFrame, bins: int = CALIBRATION_BINS) -> float:
    """Return the expected calibration error of predictions (Guo et al. 2017).

    It is the distance of accuracy and confidence in bins of equal width, averaged over images.
    """
    table = _bin_confidence(rows, bins)
    distance = (table["accuracy"] - table["confidence"]).abs()
    return float((table["n"] * distance).sum() / table["n"].sum())


def _bin_confidence(rows: pd.DataFrame, bins: int) -> pd.DataFrame:
    confidence, is_correct = _confidence_and_correctness(rows)
    bin_numbers = _confidence_bins(confidence, bins)
    n = np.bincount(bin_numbers, minlength=bins)
    edges = np.linspace(0, 1, bins + 1)
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "n": n})
    confidence_sum = np.bincount(bin_numbers, confidence, minlength=bins)
    correct_count = np.bincount(bin_numbers, is_correct, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 in empty bins
        table["confidence"] = confidence_sum / n
        table["accuracy"] = correct_count / n
    return table


def _confidence_bins(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Return each image's bin. Bins are open below and closed above, as in Guo et al."""
    numbers = np.ceil(confidence * bins).astype(int) - 1
    # a confidence of 0 belongs to the first bin, too
    return np.clip(numbers, 0, bins - 1)


def _confidence_and_correctness(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return each image's probability of the predicted class, and 1 if it is correct, else 0."""
    prediction = rows["prediction"].to_numpy()
    confidence = probability_matrix(rows)[np.arange(len(rows)), prediction]
    is_correct = rows["label"].to_numpy() == prediction
    return confidence, is_correct.astype(float)
