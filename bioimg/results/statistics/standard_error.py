"""The uncertainty of a mean: the variances of all that is sampled, added up, and Student's t.

Test images and training runs (seeds) are both samples, like cases and readers in comparisons of
radiologists (Obuchowski & Rockette 1995), so both enter the standard error of a difference of
scores.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import fft, optimize, stats

CONFIDENCE_LEVEL = 0.95
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


class UnitSample:
    """How images fall into independent units, and into strata whose means are added.

    units: [images], their groups, or the images themselves.
    strata: [images], the classes, if a measure is a mean over classes; else all images are one.
    """

    def __init__(self, units: ArrayLike, strata: ArrayLike | None = None) -> None:
        unit_codes, unit_names = pd.factorize(np.asarray(units, dtype=object))
        if strata is None:
            strata = np.zeros(len(unit_codes), int)
        self._strata, stratum_names = pd.factorize(np.asarray(strata))
        self._shape = (len(unit_names), len(stratum_names))
        self._cells = unit_codes * self._shape[1] + self._strata
        self._stratum_sizes = np.bincount(self._strata)
        self._shares = self._sum_by_cell(np.ones(len(unit_codes))) / self._stratum_sizes

    @property
    def has_spread(self) -> bool:
        """Check that each stratum has images of two or more units."""
        return bool((self._shares < 1).all())

    def variance(self, contributions: ArrayLike) -> Variance:
        """Estimate the variance of a sum over images, also where units differ in size.

        This is the bias-reduced cluster-robust estimate CR2 with its degrees of freedom (Bell &
        McCaffrey 2002, Survey Methodology 28, 169-181) for a sum of means, one for each stratum.
        For one stratum and units of one size it equals Liang & Zeger's estimate (1986) with units
        - 1. A unit that holds most of the images leaves few degrees of freedom, however many small
        units there are.

        contributions: [images], the terms of the sum. Each stratum must have spread.
        """
        value = float((self.unit_sums(contributions) ** 2).sum())
        return Variance(value, self.degrees_of_freedom)

    def unit_sums(self, contributions: ArrayLike) -> np.ndarray:
        """Return what each unit adds to the sum's deviation from its expectation: [units]."""
        terms = np.asarray(contributions, float)
        means = np.bincount(self._strata, terms) / self._stratum_sizes
        residuals = self._sum_by_cell(terms - means[self._strata])
        # a stratum's mean follows a large unit, which makes that unit's residual too small
        return (residuals / np.sqrt(1 - self._shares)).sum(axis=1)

    @functools.cached_property
    def degrees_of_freedom(self) -> float:
        """Bell & McCaffrey's, if all images are equally uncertain and each stratum counts alike."""
        # trace(B)^2 / trace(B B), where B = diag(leverages) - factors diag(sizes) factors'
        sizes = 1 / self._stratum_sizes
        factors = self._shares / np.sqrt(1 - self._shares)
        leverages = (sizes * self._shares / (1 - self._shares)).sum(axis=1)
        inner = factors.T @ factors
        trace_of_square = (
            (leverages**2).sum()
            - 2 * (leverages * (sizes * factors**2).sum(axis=1)).sum()
            + (sizes * inner * sizes[:, None] * inner).sum()
        )
        return float(sizes.sum() ** 2 / trace_of_square)

    @property
    def effective_count(self) -> float:
        """How many units of equal size are worth as much; 1 without spread."""
        return self.degrees_of_freedom + 1 if self.has_spread else 1.0

    def _sum_by_cell(self, values: np.ndarray) -> np.ndarray:
        """Return sums: float64 [units, strata]."""
        sums = np.bincount(self._cells, values, minlength=self._shape[0] * self._shape[1])
        return sums.reshape(self._shape)


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
