"""95 % intervals of shares, of areas under the ROC curve, and of means of several of them.

Each is of an infinite number of images like those tested. Where images fall into groups, it is of
images of other groups. What can't be estimated is NaN.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, special, stats
from statsmodels.stats.proportion import proportion_confint

from bioimg.results.statistics.standard_error import (
    CONFIDENCE_LEVEL,
    UnitSample,
    Variance,
)

MIN_CLASS_IMAGES = 10
"""A class with fewer test images has no interval, nor has a mean over classes with such a one."""
UNKNOWN = (float("nan"), float("nan"))


def wilson_interval(correct: float, n: float) -> tuple[float, float]:
    """Return the interval of a share of n independent images (Wilson 1927); NaN if n is 0."""
    if n == 0:
        return UNKNOWN
    limits = proportion_confint(correct, n, alpha=1 - CONFIDENCE_LEVEL, method="wilson")
    low, high = np.asarray(limits, float)
    return float(low), float(high)


def wilson_columns(share: pd.Series, n: pd.Series) -> pd.DataFrame:
    """Return `low` and `high` of Wilson's interval for columns of shares and numbers of images.

    They are null where either is null or n is 0.
    """
    table = pd.DataFrame({"low": np.nan, "high": np.nan}, index=share.index)
    known = share.notna() & n.gt(0)
    if known.any():
        known_n = n[known]
        correct = (share[known] * known_n).round()
        limits = proportion_confint(correct, known_n, alpha=1 - CONFIDENCE_LEVEL, method="wilson")
        table.loc[known] = np.column_stack(limits)
    return table


def share_interval(correct: ArrayLike, units: ArrayLike | None = None) -> tuple[float, float]:
    """Return the interval of the share of images that are classified correctly.

    Without groups it is Wilson's, with groups `logit_interval` of the variance between them.

    correct: [images], 1 or 0, or a mean over runs.
    units: [images], their groups, if these are known.
    """
    is_correct = np.asarray(correct, float)
    n = len(is_correct)
    if units is None:
        return wilson_interval(float(is_correct.sum()), n)
    sample = UnitSample(units)
    if not n or not sample.has_spread:
        return UNKNOWN
    return logit_interval(float(is_correct.mean()), sample.variance(is_correct / n))


def logit_interval(share: float, variance: Variance) -> tuple[float, float]:
    """Return the interval of a share from its variance: Student's t on the scale of the logit.

    So it lies between 0 and 1, and is longer towards a half (as for surveys of clusters: Dean &
    Pagano 2015, J. Surv. Stat. Methodol. 3). If there is no spread, as when all images are right,
    each effective unit counts as one image, which is the most cautious reading.
    """
    freedom = variance.degrees_of_freedom
    if not variance.has_spread:
        return wilson_interval(share * (freedom + 1), freedom + 1)
    centre = special.logit(share)
    error = np.sqrt(variance.value) / (share * (1 - share))
    half_width = stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, freedom) * error
    return float(special.expit(centre - half_width)), float(special.expit(centre + half_width))


def rank_interval(
    area: float, contributions: np.ndarray, is_positive: np.ndarray, units: ArrayLike | None = None
) -> tuple[float, float]:
    """Return the interval of an area under the ROC curve: the wider limits of two intervals.

    One is that of DeLong, DeLong & Clarke-Pearson (1988), with groups that of Obuchowski (1997,
    Biometrics 53), on the scale of the logit. It is too narrow near 1 with few positive images. So
    the other assumes a variance for each area, as Hanley & McNeil do, and doesn't estimate it:
    method 5 of Newcombe (2006, Stat. Med. 25), with as many images as they are worth with groups.
    That one is too narrow if positive images scatter more than negative ones. Neither is enough:
    of 10 positive images among 200 and an area of 0.95, they cover 81 and 91 % if the scores of
    positive images scatter twice as much. Both together are cautious there: 98 to 99.9 %.

    contributions: [images], from `measures.rank_contributions`.
    is_positive: [images].
    """
    alone = np.arange(len(is_positive))
    sample = UnitSample(alone if units is None else units, is_positive)
    if not sample.has_spread:
        return UNKNOWN
    counts = []
    for side in (is_positive, ~is_positive):
        side_units = alone if units is None else np.asarray(units, dtype=object)
        counts.append(UnitSample(side_units[side]).effective_count)
    value = float((sample.unit_sums(contributions) ** 2).sum())
    freedom = min(counts) - 1
    inflation = 1.0
    if units is not None and value > 0:
        independent = float((UnitSample(alone, is_positive).unit_sums(contributions) ** 2).sum())
        inflation = max(1.0, value / independent)
    image_counts = [is_positive.sum() / inflation, (~is_positive).sum() / inflation]
    variance = Variance(value, freedom)
    if variance.has_spread:
        estimated = logit_interval(area, variance)
    else:
        estimated = UNKNOWN
        if units is not None:
            image_counts = counts
    assumed = _newcombe_interval(area, *image_counts)
    low = np.fmin(estimated[0], assumed[0])
    high = np.fmax(estimated[1], assumed[1])
    return float(low), float(high)


def _newcombe_interval(area: float, positives: float, negatives: float) -> tuple[float, float]:
    """Return the areas whose own variance makes this area one of the likely 95 %."""
    quantile = stats.norm.ppf((1 + CONFIDENCE_LEVEL) / 2)
    mean_count = (positives + negatives) / 2 - 1

    def excess(candidate: float) -> float:
        pairs = (1 - candidate) / (2 - candidate) + candidate / (1 + candidate)
        variance = candidate * (1 - candidate) * (1 + mean_count * pairs) / (positives * negatives)
        return float((area - candidate) ** 2 - quantile**2 * variance)

    # the limit itself is a solution for an area of 0 or 1, so the search keeps off it
    low = optimize.brentq(excess, 0, min(area, 1 - 1e-9)) if area > 0 else 0.0
    high = optimize.brentq(excess, max(area, 1e-9), 1) if area < 1 else 1.0
    return float(low), float(high)  # type: ignore[arg-type]


def mean_interval(
    values: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    correlation: np.ndarray | None = None,
) -> tuple[float, float]:
    """Return the interval of a mean, given each value and its limits.

    It is MOVER's, the method of variance estimates recovery (Zou, Huang & Zhang 2009, Comput. Stat.
    Data Anal. 53): distances from value to limit are added like standard errors. The interval of
    one value stays as it is.

    correlation: float64 [values, values]; default: the values are independent.
    """
    if correlation is None:
        correlation = np.eye(len(values))
    mean = float(np.mean(values))
    below = values - low
    above = high - values
    return (
        mean - float(np.sqrt(below @ correlation @ below)) / len(values),
        mean + float(np.sqrt(above @ correlation @ above)) / len(values),
    )


def difference_interval(
    a: float, a_limits: tuple[float, float], b: float, b_limits: tuple[float, float]
) -> tuple[float, float]:
    """Return the interval of a - b, two measures of different images, from those of each.

    It is MOVER's (Zou & Donner 2008, Stat. Med. 27). A null limit makes it null.
    """
    difference = a - b
    below = np.hypot(a - a_limits[0], b_limits[1] - b)
    above = np.hypot(a_limits[1] - a, b - b_limits[0])
    return float(difference - below), float(difference + above)


def unit_correlation(contributions: np.ndarray, sample: UnitSample) -> np.ndarray:
    """Return how measures of the same images vary together: float64 [measures, measures].

    contributions: float64 [images, measures].
    """
    sums = np.column_stack([sample.unit_sums(column) for column in contributions.T])
    products = sums.T @ sums
    errors = np.sqrt(np.diag(products))
    scale = np.outer(errors, errors)
    # a measure without spread varies with no other
    correlation = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    np.fill_diagonal(correlation, 1)
    return correlation
