"""The score: the one measure that selects, ranks, stops and is tested in an experiment.

`accuracy` weighs images alike. `balanced_accuracy` weighs classes alike: it is the mean over
classes of the share of their images that are recognised (Brodersen et al. 2010, ICPR).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Score = Literal["accuracy", "balanced_accuracy"]

MAX_CLASS_RATIO = 2
"""How many times as many images as the smallest class the largest may have for plain accuracy."""


def resolve_score(score: str, class_counts: Sequence[int] | np.ndarray) -> Score:
    """Return the score that a trial is measured by.

    Args:
        score: the value of `TrialConfig.score`.
        class_counts: the number of images of each class in the whole data set.
    """
    if score == "accuracy":
        return "accuracy"
    is_imbalanced = max(class_counts) > MAX_CLASS_RATIO * min(class_counts)
    if score == "balanced_accuracy" or is_imbalanced:
        return "balanced_accuracy"
    return "accuracy"


def measure_score(labels: np.ndarray, predictions: np.ndarray, score_used: Score) -> float:
    """Return the score of predictions, from 0 to 1.

    Args:
        labels: int [N], N > 0. Classes without an image don't count.
        predictions: int [N].
        score_used: which score.
    """
    is_correct = labels == predictions
    if score_used == "accuracy":
        return float(is_correct.mean())
    image_counts = np.bincount(labels)
    correct_counts = np.bincount(labels[is_correct], minlength=len(image_counts))
    occurs = image_counts > 0
    return float(np.mean(correct_counts[occurs] / image_counts[occurs]))


def measure_macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the mean over classes of F1, the harmonic mean of precision and recall.

    Args:
        labels: int [N], N > 0. Classes without an image don't count.
        predictions: int [N].
    """
    classes = max(labels.max(), predictions.max()) + 1
    image_counts = np.bincount(labels, minlength=classes)
    prediction_counts = np.bincount(predictions, minlength=classes)
    correct_counts = np.bincount(labels[labels == predictions], minlength=classes)
    occurs = image_counts > 0
    counts = image_counts[occurs] + prediction_counts[occurs]
    return float(np.mean(2 * correct_counts[occurs] / counts))


def image_weights(labels: np.ndarray, score_used: str) -> np.ndarray:
    """Return float64 [N], what each image adds to the score if it is classified correctly.

    That is 1 / N, or 1 / (K n) for an image whose class has n of the images and K classes occur.
    """
    if score_used == "accuracy":
        return np.full(len(labels), 1 / len(labels))
    image_counts = np.bincount(labels)
    class_count = np.count_nonzero(image_counts)
    return 1 / (class_count * image_counts[labels])
