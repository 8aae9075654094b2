"""Intervals: Wilson's for a share, and the bootstrap over groups for everything else."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

CONFIDENCE_LEVEL = 0.95
MAX_HELD_NUMBERS = 4_000_000
"""Numbers held at once while resampling, which limits memory to tens of MB for any number of images."""


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n independent images (Wilson 1927); null where n is 0."""
    if n == 0:
        return float("nan"), float("nan")
    low, high = np.asarray(
        proportion_confint(correct, n, alpha=1 - CONFIDENCE_LEVEL, method="wilson"), float
    )
    return float(low), float(high)


def wilson_columns(share: pd.Series, n: pd.Series) -> pd.DataFrame:
    """The same for columns of shares and numbers of images: columns `low` and `high`, null where either is null or n is 0."""
    table = pd.DataFrame({"low": np.nan, "high": np.nan}, index=share.index)
    known = share.notna() & n.gt(0)
    if known.any():
        correct = (share[known] * n[known]).round()
        table.loc[known] = np.column_stack(
            proportion_confint(correct, n[known], alpha=1 - CONFIDENCE_LEVEL, method="wilson")
        )
    return table


def percentile_interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval over the first axis; samples that have no value are left out."""
    empty = np.isnan(samples).all(axis=0)
    low, high = np.nanquantile(
        np.where(empty, 0, samples),
        [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2],
        axis=0,
    )
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


@dataclass(frozen=True)
class GroupBootstrap:
    """The bootstrap: whole groups (slides, patients) are drawn with replacement, since their images aren't independent.

    units: int64 [images], the group of each image from 0; every image is its own group where none are known.
    """

    units: np.ndarray
    resample_count: int = 2000
    seed: int = 0

    @classmethod
    def from_groups(cls, groups: pd.Series, count: int = 2000) -> "GroupBootstrap":
        """Resamples of images with these groups (null: the image stands alone)."""
        alone = pd.Series([f"\0{position}" for position in range(len(groups))], index=groups.index)
        return cls(pd.factorize(groups.astype(object).where(groups.notna(), alone))[0], count)

    def draw_weights(self) -> Iterator[np.ndarray]:
        """How often each image was drawn: float64 [some resamples, images], chunk by chunk."""
        random = np.random.default_rng(self.seed)
        groups = int(self.units.max()) + 1
        chunk = max(1, MAX_HELD_NUMBERS // len(self.units))
        for start in range(0, self.resample_count, chunk):
            rows = min(chunk, self.resample_count - start)
            yield random.multinomial(groups, np.full(groups, 1 / groups), size=rows)[
                :, self.units
            ].astype(float)

    def interval(
        self, statistic: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The 95 % percentile interval of a statistic of weights [resamples, images] -> [resamples, ...].

        Null where there is one unit: every resample is then the same, which says nothing about other units.
        """
        samples = np.concatenate([statistic(weights) for weights in self.draw_weights()])
        return percentile_interval(
            samples if self.units.max() > 0 else np.full_like(samples, np.nan)
        )
