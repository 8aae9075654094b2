"""The uncertainty of a mean: the variances of all that is sampled, added up, and Student's t.

Test images and training runs (seeds) are both samples, like cases and readers in comparisons of
radiologists (Obuchowski & Rockette 1995), so both enter the standard error of a difference of
scores.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import fft, optimize, special, stats

CONFIDENCE_LEVEL = 0.95
ROUNDING_TOLERANCE = 1e-12
"""Differences of shares below this count as none."""
POWER = 0.8
"""How probable it is that the smallest detectable difference is found."""
MIN_P = 1e-100
"""Smaller p-values aren't told apart."""
MIN_STEPS = 16
"""The exact test of signs rounds sizes to this part of the smallest, if they aren't multiples."""
MIN_TOTAL_STEPS = 4096
"""It also rounds them to this part of their sum, or finer."""


@dataclass(frozen=True)
class Variance:
    """A squared standard error and its degrees of freedom."""

    value: float
    degrees_of_freedom: float

    def __mul__(self, factor: float) -> "Variance":
        """Multiply the variance; the degrees of freedom stay."""
        return Variance(self.value * factor, self.degrees_of_freedom)

    @property
    def has_spread(self) -> bool:
        """Check that it isn't 0, as it is where all units are alike."""
        return self.value > ROUNDING_TOLERANCE**2


class StandardError:
    """The uncertainty of an estimate from all that was sampled, each source with its own variance.

    Sources are independent. The margin of their sum is the root of the sum of their squared
    margins, each from its own t-distribution. This holds the level also where one source has few
    degrees of freedom and is small by chance, which Satterthwaite's approximation (1946) doesn't.
    """

    def __init__(self, *variances: Variance) -> None:
        self.variances = variances

    @property
    def has_spread(self) -> bool:
        return any(variance.has_spread for variance in self.variances)

    def margin(self, level: float = 1 - CONFIDENCE_LEVEL) -> float:
        """Return half the width of the interval that leaves out the true value at this level."""
        squares = 0.0
        for variance in self.variances:
            quantile = float(special.stdtrit(variance.degrees_of_freedom, level / 2))
            squares += quantile**2 * variance.value
        return math.sqrt(squares)

    def interval(self, estimate: float) -> tuple[float, float]:
        """Return the 95 % interval; NaN if there is no spread."""
        if not self.has_spread:
            return float("nan"), float("nan")
        margin = self.margin()
        return estimate - margin, estimate + margin

    def p_value(self, estimate: float) -> float:
        """Return the two-sided p-value against 0: the level whose margin is the estimate."""
        distance = abs(estimate)
        if len(self.variances) == 1:
            variance = self.variances[0]
            statistic = -distance / math.sqrt(variance.value)
            return float(2 * special.stdtr(variance.degrees_of_freedom, statistic))
        if self.margin(MIN_P) <= distance:
            return MIN_P

        def excess(log_level: float) -> float:
            return self.margin(math.exp(log_level)) - distance

        return math.exp(float(optimize.brentq(excess, math.log(MIN_P), 0)))  # type: ignore[arg-type]

    def detectable(self, level: float) -> float:
        """Return the smallest difference that a test at this level finds with 80 % power.

        The spread is taken as known. The statistic of one source has the noncentral t-distribution
        (Cohen 1988).
        """
        squares = 0.0
        for variance in self.variances:
            squares += _noncentrality(variance.degrees_of_freedom, level) ** 2 * variance.value
        return math.sqrt(squares)


@functools.lru_cache(maxsize=1024)
def _noncentrality(degrees_of_freedom: float, level: float) -> float:
    """Return the noncentrality at which a two-sided t-test at this level has 80 % power."""
    critical = float(stats.t.isf(level / 2, degrees_of_freedom))

    def missing_power(noncentrality: float) -> float:
        return POWER - float(stats.nct.sf(critical, degrees_of_freedom, noncentrality))

    largest = critical
    while missing_power(largest) > 0:
        largest *= 2
    return float(optimize.brentq(missing_power, 0, largest))  # type: ignore[arg-type]


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

    def sign_test(self, contributions: ArrayLike) -> float:
        """Return the p-value of `sign_flip_test` over units."""
        units = self._cells // self._shape[1]
        return sign_flip_test(np.bincount(units, np.asarray(contributions, float)))

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


def mean_run_variance(spread: Variance, *repeats: Sequence[float] | np.ndarray) -> Variance:
    """Estimate the variance of a mean over runs, or of a difference of two such means.

    Runs that scatter more than those of other configurations count as much as they do, so that an
    unstable configuration isn't taken for a stable one. Fewer runs than those of all configurations
    say little of a spread, so they can't make the variance smaller.

    spread: from `pool_run_variance`.
    repeats: the scores of the runs, two or more, of each mean.
    """
    pooled = sum(spread.value / len(scores) for scores in repeats)
    own = sum(float(np.var(scores, ddof=1)) / len(scores) for scores in repeats)
    return Variance(max(pooled, own), spread.degrees_of_freedom)


def nadeau_bengio_factor(fold_count: int, test_train_ratio: float) -> float:
    """Return the factor by which overlapping training sets enlarge a variance over folds.

    Nadeau & Bengio 2003: 1 / folds + ratio instead of 1 / folds. It is 1 with one fold.

    test_train_ratio: test images of a fold per training image.
    """
    if fold_count < 2:
        return 1.0
    return 1 + fold_count * test_train_ratio


def sign_flip_test(contributions: np.ndarray) -> float:
    """Return the exact two-sided p-value of a sum whose terms are as likely positive as negative.

    It is the share of all assignments of signs whose sum is at least as far from 0 (Fisher's
    randomization test of pairs, 1935). For terms of one size it is the exact test of McNemar
    (1947). Sizes are rounded to whole steps; multiples of the smallest stay exact.
    """
    terms = contributions[np.abs(contributions) > ROUNDING_TOLERANCE]
    if not len(terms):
        return 1.0
    relative = terms / np.abs(terms).min()
    is_exact = np.allclose(relative, np.rint(relative))
    refinement = max(1 if is_exact else MIN_STEPS, int(MIN_TOTAL_STEPS / np.abs(relative).sum()))
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
