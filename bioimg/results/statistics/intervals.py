"""Intervals: Wilson's for a share, and the bootstrap over groups for everything else."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

CONFIDENCE_LEVEL = 0.95
MIN_CLASS_IMAGES = 10
"""A class with fewer test images has no interval, nor has a mean over classes with such a one."""
MAX_CHUNK_NUMBERS = 4_000_000
"""Numbers in memory at once while resampling: tens of MB, however many images there are."""


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of n independent images (Wilson 1927); null if n is 0."""
    if n == 0:
        return float("nan"), float("nan")
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


def mean_interval(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, image_counts: np.ndarray
) -> tuple[float, float]:
    """Return the interval of a mean over classes, given each class's value, limits and images.

    It is MOVER's, the method of variance estimates recovery (Zou, Huang & Zhang 2009, Comput. Stat.
    Data Anal. 53): distances from value to limit are added like standard errors. For one class the
    limits stay as they are. For several it is null if one has fewer than MIN_CLASS_IMAGES images.
    """
    class_count = len(values)
    if class_count > 1 and min(image_counts) < MIN_CLASS_IMAGES:
        return float("nan"), float("nan")
    mean = float(np.mean(values))
    below = float(np.sqrt(np.sum((values - low) ** 2))) / class_count
    above = float(np.sqrt(np.sum((high - values) ** 2))) / class_count
    return mean - below, mean + above


def percentile_interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % percentile interval over the first axis, without samples that are null."""
    empty = np.isnan(samples).all(axis=0)
    filled = np.where(empty, 0, samples)  # NumPy warns of columns that are all null
    lower_limit = (1 - CONFIDENCE_LEVEL) / 2
    upper_limit = (1 + CONFIDENCE_LEVEL) / 2
    low, high = np.nanquantile(filled, [lower_limit, upper_limit], axis=0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


@dataclass(frozen=True)
class GroupBootstrap:
    """The cluster bootstrap: groups (slides, patients) are drawn whole, with replacement.

    Images of one group aren't independent, so drawing single images would make intervals too
    narrow.

    units: int64 [images], the group of each image, counted from 0. Every image is its own group
    where none are known.
    """

    units: np.ndarray
    resample_count: int = 2000
    seed: int = 0

    @classmethod
    def from_groups(cls, groups: pd.Series, resample_count: int = 2000) -> "GroupBootstrap":
        """Return a bootstrap of images with these groups; null: the image stands alone."""
        # no group has a name that begins with a null character
        unique_names = [f"\0{position}" for position in range(len(groups))]
        alone = pd.Series(unique_names, index=groups.index)
        names = groups.astype(object).where(groups.notna(), alone)
        return cls(pd.factorize(names)[0], resample_count)

    def draw_weights(self) -> Iterator[np.ndarray]:
        """Yield how often each image was drawn, in chunks: float64 [resamples, images]."""
        generator = np.random.default_rng(self.seed)
        group_count = int(self.units.max()) + 1
        probabilities = np.full(group_count, 1 / group_count)
        chunk = max(1, MAX_CHUNK_NUMBERS // len(self.units))
        for start in range(0, self.resample_count, chunk):
            size = min(chunk, self.resample_count - start)
            counts = generator.multinomial(group_count, probabilities, size=size)
            yield counts[:, self.units].astype(float)

    def interval(
        self, statistic: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the 95 % percentile interval of a statistic.

        `statistic` takes weights [resamples, images] and returns [resamples, ...]. The interval is
        null if there is one unit: every resample is then the same, which says nothing about others.
        """
        samples = np.concatenate([statistic(weights) for weights in self.draw_weights()])
        if self.units.max() == 0:
            samples = np.full_like(samples, np.nan)
        return percentile_interval(samples)
