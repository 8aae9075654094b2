"""Tests of the difference between two configurations that were tested on the same images."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from statsmodels.stats.proportion import confint_proportions_2indep

from bioimg.results.statistics.configuration_outcomes import ConfigurationOutcome, TestedImages
from bioimg.results.statistics.intervals import MIN_CLASS_IMAGES, UNKNOWN, mean_interval
from bioimg.results.statistics.standard_error import (
    CONFIDENCE_LEVEL,
    POWER,
    StandardError,
    UnitSample,
    Variance,
    nadeau_bengio_factor,
    sign_flip_test,
)

MCNEMAR_TEST = "mcnemar"
SIGNS_TEST = "signs"
PROPORTIONS_TEST = "proportions"
GROUPS_TEST = "groups"
FOLDS_TEST = "folds"
IMAGES_AND_RUNS_TEST = "images_and_runs"
GROUPS_AND_RUNS_TEST = "groups_and_runs"


@dataclass(frozen=True)
class PairedTest:
    """The outcome of one test. What it can't give is NaN.

    units: how many units of equal size are worth as much as those that were sampled.
    detectable: the smallest difference that it finds with 80 % power.
    """

    name: str
    p: float
    low: float
    high: float
    units: float
    detectable: float


class PairedSample:
    """What each test image adds to the difference of two scores.

    runs: what runs add to the variance of the difference, if they were repeated.
    """

    def __init__(
        self, a: ConfigurationOutcome, b: ConfigurationOutcome, runs: Variance | None
    ) -> None:
        assert a.images is not None
        assert b.images is not None
        self._a, self._b, self._runs = a, b, runs
        self._images: TestedImages = a.images
        self._difference = a.images.correct - b.images.correct
        self._contributions = a.images.weights * self._difference

    def run_tests(self, level: float) -> list[PairedTest]:
        """Return every test that applies.

        level: the level at which a difference must be found to be detectable.
        """
        tests = [self._test_signs(level)]
        if self._a.fold_count > 1:
            tests.append(self._test_folds(level))
        if self._a.has_groups or self._runs:
            tests.append(self._test_units(level))
        return tests

    def _test_signs(self, level: float) -> PairedTest:
        """Test single images: exactly, if each is as likely to favour either side."""
        name = SIGNS_TEST
        low, high = UNKNOWN
        if self._a.run_count == 1 and self._b.run_count == 1:
            low, high = self._paired_interval()
            if self._a.score_used == "accuracy":
                name = MCNEMAR_TEST
        p = sign_flip_test(self._contributions)
        units = self._images.by_image.effective_count
        return PairedTest(name, p, low, high, units, self._detectable_by_signs(level))

    def _test_units(self, level: float) -> PairedTest:
        """Test groups, else images, and runs."""
        sample = self._images.by_unit
        error = StandardError(sample.variance(self._contributions))
        name = GROUPS_TEST
        if self._runs:
            error = StandardError(*error.variances, self._runs)
            name = GROUPS_AND_RUNS_TEST if self._a.has_groups else IMAGES_AND_RUNS_TEST
        return self._test_by_t(name, sample, error, level)

    def _test_folds(self, level: float) -> PairedTest:
        sample = self._images.by_fold
        factor = nadeau_bengio_factor(self._a.fold_count, self._a.test_train_ratio)
        error = StandardError(sample.variance(self._contributions) * factor)
        return self._test_by_t(FOLDS_TEST, sample, error, level)

    def _test_by_t(
        self, name: str, sample: UnitSample, error: StandardError, level: float
    ) -> PairedTest:
        difference = float(self._contributions.sum())
        low, high = error.interval(difference)
        # without spread there is nothing to estimate: all units agree, so their signs are counted
        has_spread = error.has_spread
        p = error.p_value(difference) if has_spread else sample.sign_test(self._contributions)
        return PairedTest(name, p, low, high, sample.effective_count, error.detectable(level))

    @functools.cached_property
    def _strata(self) -> tuple[np.ndarray, np.ndarray]:
        """The stratum of each image, counted from 0, and the images of each stratum."""
        _, codes, counts = np.unique(self._images.strata, return_inverse=True, return_counts=True)
        return codes, counts

    def _paired_interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the difference between two runs.

        It is that of Bonett & Price (2012): Wald's, with one image added to each of the two counts
        of disagreement. Those of classes are combined by MOVER. It is null if a class has too few
        images.
        """
        codes, n = self._strata
        if len(n) > 1 and n.min() < MIN_CLASS_IMAGES:
            return UNKNOWN
        only_a = np.bincount(codes, self._difference > 0)
        only_b = np.bincount(codes, self._difference < 0)
        share_a = (only_a + 1) / (n + 2)
        share_b = (only_b + 1) / (n + 2)
        centre = share_a - share_b
        error = np.sqrt((share_a + share_b - centre**2) / (n + 2))
        half_width = norm.ppf((1 + CONFIDENCE_LEVEL) / 2) * error
        difference = (only_a - only_b) / n
        return mean_interval(difference, centre - half_width, centre + half_width)

    def _detectable_by_signs(self, level: float) -> float:
        """Return the difference that the exact test of signs finds with 80 % power, about.

        As many disagreements as were seen are expected, and in each class two more, as in Bonett &
        Price's interval; but never fewer than a difference of this size needs.
        """
        codes, n = self._strata
        quantiles = float(norm.isf(level / 2) + norm.ppf(POWER))
        variances = (np.bincount(codes, self._difference**2) + 2) / (n + 2) ** 2
        expected = quantiles * np.sqrt(variances.sum()) / len(n)
        least = quantiles**2 * (self._images.weights**2).sum()
        return float(max(expected, least))


def compare_proportions(
    a: ConfigurationOutcome, b: ConfigurationOutcome, runs: Variance | None, level: float
) -> PairedTest:
    """Test two accuracies of which only the number of images is known.

    This ignores that the images are the same, so it is less sensitive than a paired test.
    """
    n = a.image_count
    correct_a, correct_b = round(a.accuracy * n), round(b.accuracy * n)
    difference = (correct_a - correct_b) / n
    pooled = (correct_a + correct_b) / (2 * n)
    error = StandardError(Variance(2 * pooled * (1 - pooled) / n, math.inf))
    limits = confint_proportions_2indep(
        correct_a, n, correct_b, n, method="newcomb", alpha=1 - CONFIDENCE_LEVEL
    )
    low, high = (float(limit) for limit in limits)
    if runs:
        error = StandardError(*error.variances, runs)
        low, high = error.interval(difference)
    # the test is undefined if both are right on all images or on none
    p = error.p_value(difference) if error.has_spread else 1.0
    return PairedTest(PROPORTIONS_TEST, p, low, high, n, error.detectable(level))
