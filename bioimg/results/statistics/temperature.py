"""Temperature scaling: probabilities that are as high as predictions are often right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bioimg.results.result_store import Results
from bioimg.results.statistics.measures import probability_matrix
from bioimg.results.statistics.metrics import calibration_error, mean_predictions

TEMPERATURE_LIMITS = (0.05, 20.0)
SMALLEST_PROBABILITY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The temperature of a trial or the mean of some, and what it changes on test images."""

    temperature: float
    """Above 1 it lowers probabilities, below 1 it raises them."""
    val_images: int
    test_images: int
    test_accuracy: float
    """Share of the test images that are predicted correctly, at any temperature."""
    error_before: float
    """Expected calibration error of the test images with the model's own probabilities."""
    error_after: float
    """The same with the temperature."""


def calibrate_trials(results: Results, keys: Sequence[str]) -> Calibration:
    """Fit the temperature of the mean of completed trials on their validation images.

    Test images have no part in it: they show what it does to images that it wasn't fitted to.

    Raises:
        UserError: a trial has no predictions.
    """
    val = mean_predictions(results, keys, "val")
    test = mean_predictions(results, keys, "test")
    temperature = fit_temperature(probability_matrix(val), val["label"].to_numpy())
    scaled = scale_probabilities(probability_matrix(test), temperature)
    return Calibration(
        temperature=temperature,
        val_images=len(val),
        test_images=len(test),
        test_accuracy=float(test["label"].eq(test["prediction"]).mean()),
        error_before=calibration_error(test),
        error_after=calibration_error(test.assign(probabilities=list(scaled))),
    )


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature with the lowest cross-entropy (Guo et al. 2017).

    Targets aren't 0 and 1 but smoothed by the number of images, as Platt (1999) does. Otherwise
    images that are all classified correctly would make the model certain of everything.

    Args:
        probabilities: float [N, C].
        labels: int [N].
    """
    from scipy.optimize import minimize_scalar

    images, classes = probabilities.shape
    targets = np.full(probabilities.shape, 1 / (images + classes))
    targets[np.arange(images), labels] = (images + 1) / (images + classes)

    def cross_entropy(log_temperature: float) -> float:
        scaled = scale_probabilities(probabilities, np.exp(log_temperature))
        return -float((targets * np.log(np.maximum(scaled, SMALLEST_PROBABILITY))).sum())

    fitted = minimize_scalar(cross_entropy, bounds=np.log(TEMPERATURE_LIMITS), method="bounded")
    return float(np.exp(fitted.x))


def scale_probabilities(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities [N, C] as if logits were divided by the temperature.

    The order of classes stays.
    """
    logits = np.log(np.maximum(probabilities, SMALLEST_PROBABILITY)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
