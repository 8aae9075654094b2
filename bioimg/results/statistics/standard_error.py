"""The uncertainty of a mean: the variances of all that is sampled, added up, and Student's t.

Test images and training runs (seeds) are both samples, like cases and readers in comparisons of
radiologists (Obuchowski & Rockette 1995), so both enter the standard error of a difference of
accuracies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from bioimg.results.statistics.intervals import CONFIDENCE_LEVEL

ROUNDING_TOLERANCE = 1e-12
"""Differences of shares below this count as none."""


@dataclass(frozen=True)
class Variance:
    """A squared standard error and its degrees of freedom."""

    value: float
    degrees_of_freedom: float

    def __add__(self, other: "Variance") -> "Variance":
        """Add independent variances, with Satterthwaite's degrees of freedom (1946)."""
        total = self.value + other.value
        if total == 0:
            return Variance(0.0, min(self.degrees_of_freedom, other.degrees_of_freedom))
        own_spread = self.value**2 / self.degrees_of_freedom
        other_spread = other.value**2 / other.degrees_of_freedom
        return Variance(total, total**2 / (own_spread + other_spread))

    def __mul__(self, factor: float) -> "Variance":
        """Multiply the variance; the degrees of freedom stay."""
        return Variance(self.value * factor, self.degrees_of_freedom)


def image_variance(contributions: pd.Series, units: pd.Series) -> Variance:
    """Estimate the variance of a sum over images, also where units differ in size.

    This is the bias-reduced cluster-robust estimate CR2 with its degrees of freedom (Bell &
    McCaffrey 2002, Survey Methodology 28, 169-181). For units of one size it equals Liang & Zeger's
    estimate (1986) with units - 1. A unit that holds most of the images leaves few degrees of
    freedom, however many small units there are.

    contributions: [images], the terms of the sum.
    units: [images], their groups, or the images themselves. Units are independent; there must be
    two or more.
    """
    deviations = contributions - contributions.mean()
    by_unit = deviations.groupby(units)
    residuals = by_unit.sum()
    shares = by_unit.size() / len(contributions)
    # the mean follows a large unit, which makes that unit's residual too small
    value = float((residuals**2 / (1 - shares)).sum())
    # trace(B)^2 / trace(B B) of the quadratic form of the estimate, whose trace is 1
    leverages = shares**2 / (1 - shares)
    off_diagonal = leverages.sum() ** 2 - (leverages**2).sum()
    trace_of_square = (shares**2).sum() + off_diagonal
    return Variance(value, float(1 / trace_of_square))


def run_variance(*accuracies: Sequence[float]) -> Variance | None:
    """Estimate the variance that runs (seeds) add to a difference of mean accuracies.

    The spread of the configurations is pooled, as in Student's t-test, so that it applies to one
    with a single run, too. None if nothing was repeated.
    """
    degrees_of_freedom = 0
    squares = 0.0
    inverse_counts = 0.0
    for runs in accuracies:
        count = len(runs)
        degrees_of_freedom += count - 1
        squares += count * float(np.var(runs))
        inverse_counts += 1 / count
    if degrees_of_freedom == 0:
        return None
    pooled = squares / degrees_of_freedom
    # a mean of `count` runs has the variance pooled / count
    return Variance(pooled * inverse_counts, degrees_of_freedom)


def nadeau_bengio_factor(folds: pd.Series, test_train_ratio: float) -> float:
    """Return the factor by which overlapping training sets enlarge a variance over folds.

    Nadeau & Bengio 2003: 1 / folds + ratio instead of 1 / folds. It is 1 with one fold.

    test_train_ratio: test images of a fold per training image.
    """
    count = folds.nunique()
    if count < 2:
        return 1.0
    return 1 + count * test_train_ratio


def t_test(mean: float, variance: Variance, units: int) -> tuple[float, float, float]:
    """Return the 95 % interval (low, high) of a mean, and its two-sided p-value against 0.

    If all units are alike, there is no spread to estimate. Then p is that of a sign test over the
    units, and the interval is null.
    """
    if variance.value < ROUNDING_TOLERANCE**2:
        is_zero = abs(mean) <= ROUNDING_TOLERANCE
        p = 1.0 if is_zero else min(1.0, 2 * 0.5**units)
        return float("nan"), float("nan"), p
    error = float(np.sqrt(variance.value))
    degrees_of_freedom = variance.degrees_of_freedom
    quantile = float(stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, degrees_of_freedom))
    half_width = quantile * error
    upper_tail = stats.t.sf(abs(mean) / error, degrees_of_freedom)
    p = float(2 * upper_tail)
    return mean - half_width, mean + half_width, p
