"""The uncertainty of a mean: the variances of all that is sampled, added up, and Student's t.

Test images and training runs (seeds) are both samples, like cases and readers in comparisons of
radiologists (Obuchowski & Rockette 1995), so both enter the standard error of a difference of
scores.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import fft, optimize, stats

from bioimg.results.statistics.intervals import CONFIDENCE_LEVEL

ROUNDING_TOLERANCE = 1e-12
"""Differences of shares below this count as none."""
POWER = 0.8
"""How probable it is that the smallest detectable difference is found."""
MIN_SIGN_FLIP_STEPS = 2**14
"""The exact test of signs rounds contributions to this part of the sum of their sizes, or finer."""


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


def image_variance(
    contributions: pd.Series,
    units: pd.Series,
    strata: pd.Series | None = None,
    weights: pd.Series | None = None,
) -> Variance:
    """Estimate the variance of a sum over images, also where units differ in size.

    This is the bias-reduced cluster-robust estimate CR2 with its degrees of freedom (Bell &
    McCaffrey 2002, Survey Methodology 28, 169-181) for a sum of means, one for each stratum. For
    one stratum and units of one size it equals Liang & Zeger's estimate (1986) with units - 1. A
    unit that holds most of the images leaves few degrees of freedom, however many small units
    there are.

    contributions: [images], the terms of the sum.
    units: [images], their groups, or the images themselves. Units are independent. Each stratum
        must have images of two or more.
    strata: [images], the classes, if the score is a mean over classes; else all images are one.
    weights: [images], the relative standard deviations of the contributions that the degrees of
        freedom assume, the same for all images of a stratum; default: the same for all.
    """
    if strata is None:
        strata = pd.Series(0, contributions.index)
    unit_codes, unit_names = pd.factorize(units)
    stratum_codes, stratum_names = pd.factorize(strata)
    shape = (len(unit_names), len(stratum_names))
    cells = unit_codes * shape[1] + stratum_codes

    def sum_by_cell(values: np.ndarray | None) -> np.ndarray:
        """Return sums, or counts, as float64 [units, strata]."""
        return (
            np.bincount(cells, values, minlength=shape[0] * shape[1]).reshape(shape).astype(float)
        )

    means = contributions.groupby(stratum_codes).transform("mean")
    residuals = sum_by_cell((contributions - means).to_numpy(float))
    counts = sum_by_cell(None)
    stratum_sizes = counts.sum(axis=0)
    shares = counts / stratum_sizes
    # a stratum's mean follows a large unit, which makes that unit's residual too small
    adjusted = residuals / np.sqrt(1 - shares)
    value = float((adjusted.sum(axis=1) ** 2).sum())

    squared_weights = np.ones(shape[1])
    if weights is not None:
        squared_weights = (weights**2).groupby(stratum_codes).first().to_numpy(float)
    # trace(B)^2 / trace(B B), where B = diag(leverages) - factors diag(sizes) factors'
    sizes = squared_weights * stratum_sizes
    factors = shares / np.sqrt(1 - shares)
    leverages = (sizes * shares / (1 - shares)).sum(axis=1)
    inner = factors.T @ factors
    trace_of_square = (
        (leverages**2).sum()
        - 2 * (leverages * (sizes * factors**2).sum(axis=1)).sum()
        + (sizes * inner * sizes[:, None] * inner).sum()
    )
    return Variance(value, float(sizes.sum() ** 2 / trace_of_square))


def pool_run_variance(repeats: Iterable[Sequence[float] | np.ndarray]) -> Variance | None:
    """Estimate the variance of one run's score from the spread within each set of repeats.

    The spread is pooled over all sets, as in an analysis of variance. None if no set has two runs.
    """
    degrees_of_freedom = 0
    squares = 0.0
    for scores in repeats:
        degrees_of_freedom += len(scores) - 1
        squares += len(scores) * float(np.var(scores))
    if degrees_of_freedom == 0:
        return None
    return Variance(squares / degrees_of_freedom, degrees_of_freedom)


def nadeau_bengio_factor(fold_count: int, test_train_ratio: float) -> float:
    """Return the factor by which overlapping training sets enlarge a variance over folds.

    Nadeau & Bengio 2003: 1 / folds + ratio instead of 1 / folds. It is 1 with one fold.

    test_train_ratio: test images of a fold per training image.
    """
    if fold_count < 2:
        return 1.0
    return 1 + fold_count * test_train_ratio


def t_interval(mean: float, variance: Variance) -> tuple[float, float]:
    """Return the 95 % interval (low, high) of a mean; null if there is no spread to estimate."""
    if variance.value < ROUNDING_TOLERANCE**2:
        return float("nan"), float("nan")
    quantile = stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, variance.degrees_of_freedom)
    half_width = float(quantile * np.sqrt(variance.value))
    return mean - half_width, mean + half_width


def t_test(contributions: pd.Series, units: pd.Series, variance: Variance) -> float:
    """Return the two-sided p-value of a sum over images against 0.

    If all units are alike, there is no spread to estimate. Then p is that of the exact test of
    signs over units.
    """
    if variance.value < ROUNDING_TOLERANCE**2:
        return sign_flip_test(contributions.groupby(units).sum().to_numpy())
    statistic = abs(contributions.sum()) / np.sqrt(variance.value)
    return float(2 * stats.t.sf(statistic, variance.degrees_of_freedom))


def sign_flip_test(contributions: np.ndarray) -> float:
    """Return the exact two-sided p-value of a sum whose terms are as likely positive as negative.

    It is the share of all assignments of signs whose sum is at least as far from 0 (Fisher's
    randomization test of pairs, 1935). For terms of one size it is the exact test of McNemar
    (1947). Sizes are rounded to whole steps, exactly if they are multiples of the smallest.
    """
    terms = contributions[np.abs(contributions) > ROUNDING_TOLERANCE]
    if not len(terms):
        return 1.0
    relative = terms / np.abs(terms).min()
    refinement = max(1, int(MIN_SIGN_FLIP_STEPS / np.abs(relative).sum()))
    steps = np.rint(relative * refinement).astype(int)
    # the distribution of the sum is a product of cosines in the frequency domain
    length = int(fft.next_fast_len(2 * int(np.abs(steps).sum()) + 1, real=True))  # type: ignore[arg-type]
    angles = 2 * np.pi / length * np.arange(length // 2 + 1)
    spectrum = np.ones(len(angles))
    for size, count in zip(*np.unique(np.abs(steps), return_counts=True), strict=True):
        spectrum *= np.cos(size * angles) ** count
    observed = abs(int(steps.sum()))
    if observed == 0:
        return 1.0
    probabilities = np.asarray(fft.irfft(spectrum, length))
    upper_tail = float(probabilities[observed : length // 2 + 1].sum())
    # rounding in the frequency domain must not give less than the least possible p
    return min(1.0, max(2 * upper_tail, 2.0 ** (1 - len(terms))))


def detectable_by_t(variance: Variance, level: float) -> float:
    """Return the smallest difference that a two-sided t-test at this level finds with 80 % power.

    Its statistic has the noncentral t-distribution (Cohen 1988). The variance is taken as known.
    """
    freedom = variance.degrees_of_freedom
    critical = float(stats.t.isf(level / 2, freedom))

    def missing_power(noncentrality: float) -> float:
        return POWER - float(stats.nct.sf(critical, freedom, noncentrality))

    largest = critical
    while missing_power(largest) > 0:
        largest *= 2
    noncentrality = float(optimize.brentq(missing_power, 0, largest))  # type: ignore[arg-type]
    return noncentrality * float(np.sqrt(variance.value))
