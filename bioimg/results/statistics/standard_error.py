"""The uncertainty of a mean: the variances of all that is sampled, added up, and Student's t.

Test images and training runs (seeds) are both samples, like cases and readers in comparisons of radiologists, so both
enter the standard error of a difference of accuracies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from bioimg.results.statistics.intervals import CONFIDENCE_LEVEL

ROUNDING_TOLERANCE = 1e-12
"""Differences of shares below this are none."""


@dataclass(frozen=True)
class Variance:
    """A squared standard error and its degrees of freedom."""

    value: float
    degrees_of_freedom: float

    def __add__(self, other: "Variance") -> "Variance":
        """The variance of a sum of independent parts, with Satterthwaite's degrees of freedom (1946)."""
        total = self.value + other.value
        if total == 0:
            return Variance(0.0, min(self.degrees_of_freedom, other.degrees_of_freedom))
        return Variance(
            total,
            total**2
            / (self.value**2 / self.degrees_of_freedom + other.value**2 / other.degrees_of_freedom),
        )

    def __mul__(self, factor: float) -> "Variance":
        return Variance(self.value * factor, self.degrees_of_freedom)


def image_variance(contributions: pd.Series, units: pd.Series) -> Variance:
    """The variance of a sum over images [images] whose units [images] (groups, or the images themselves) are independent.

    Liang & Zeger's cluster-robust estimate (1986) for units of any size; there must be two units or more.
    """
    residuals = (contributions - contributions.mean()).groupby(units).sum()
    count = len(residuals)
    return Variance(float((residuals**2).sum()) * count / (count - 1), count - 1)


def run_variance(*accuracies: Sequence[float]) -> Variance | None:
    """The variance that runs (seeds) add to a difference of mean accuracies; None if nothing was repeated.

    Their spread is pooled, as in the t-test, so that it applies to a configuration with one run, too.
    """
    df = sum(len(runs) - 1 for runs in accuracies)
    if df == 0:
        return None
    pooled = sum(len(runs) * float(np.var(runs)) for runs in accuracies) / df
    return Variance(pooled * sum(1 / len(runs) for runs in accuracies), df)


def nadeau_bengio_factor(folds: pd.Series, held_out: float) -> float:
    """The factor by which training sets that overlap enlarge the variance of a mean over folds (Nadeau & Bengio 2003).

    held_out: test images of a fold per training image.
    """
    return 1 + folds.nunique() * held_out if folds.nunique() > 1 else 1.0


def t_test(mean: float, variance: Variance, units: int) -> tuple[float, float, float]:
    """The 95 % interval of a mean and its two-sided p-value against 0.

    If all units are alike, there is no spread to estimate: p is that of a sign test over the units, and there is no interval.
    """
    if variance.value < ROUNDING_TOLERANCE**2:
        return (
            float("nan"),
            float("nan"),
            min(1.0, 2 * 0.5**units) if abs(mean) > ROUNDING_TOLERANCE else 1.0,
        )
    error = float(np.sqrt(variance.value))
    half = float(stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, variance.degrees_of_freedom)) * error
    return (
        mean - half,
        mean + half,
        float(2 * stats.t.sf(abs(mean) / error, variance.degrees_of_freedom)),
    )
