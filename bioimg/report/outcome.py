"""The best configuration by validation, and how every other one compares with it on test images.

Tables, console and page take these from here, so that all of them give the same numbers.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from bioimg.results import statistics
from bioimg.results.configurations import configuration_keys
from bioimg.results.result_store import Results

Verdict = Literal["best", "tie", "better", "worse", "unknown"]
"""tie: not distinguishable from the best. unknown: the two must not be compared."""


@dataclass(frozen=True)
class BestConfiguration:
    """The configuration that validation chose, its test accuracy, and how certain its lead is.

    key:      key of its first trial.
    runs:     its completed trials.
    accuracy: share of correct test images in all runs.
    images:   number of different test images.
    interval: 95 % Wilson interval of the accuracy.
    pairs:    every other completed configuration against it, as from `statistics.compare_pairs`.
    """

    key: str
    runs: pd.DataFrame
    accuracy: float
    images: int
    interval: tuple[float, float]
    pairs: pd.DataFrame

    @property
    def compared_count(self) -> int:
        """How many others can be compared with it."""
        return int(self.pairs["holds"].notna().sum())

    @property
    def tie_count(self) -> int:
        """How many others can't be distinguished from it."""
        return int(self.pairs["holds"].eq(False).sum())

    @property
    def difference_count(self) -> int:
        """How many others differ from it."""
        return int(self.pairs["holds"].eq(True).sum())


@functools.lru_cache(maxsize=2)
def find_best_configuration(results: Results) -> BestConfiguration | None:
    """Find what validation chose. Return None if no trial was completed."""
    pairs = compare_with_best(results)
    key = statistics.best_configuration(results)
    if key is None:
        return None
    trials = results.trials
    of_best = configuration_keys(trials).eq(key)
    runs = trials[of_best & trials["status"].eq("completed")]
    accuracy, images = pooled_test_accuracy(runs)
    interval = statistics.wilson_interval(round(accuracy * images), images)
    return BestConfiguration(key, runs, accuracy, images, interval, pairs)


@functools.lru_cache(maxsize=2)
def compare_with_best(results: Results) -> pd.DataFrame:
    """Compare every completed configuration with the best one; empty if there is none.

    The columns are those of `statistics.compare_pairs`.
    """
    key = statistics.best_configuration(results)
    return pd.DataFrame() if key is None else statistics.compare_pairs(results, key)


def configuration_verdicts(results: Results) -> dict[str, Verdict]:
    """Return the verdict on each completed configuration that can be compared with the best one."""
    key = statistics.best_configuration(results)
    if key is None:
        return {}
    verdicts: dict[str, Verdict] = {key: "best"}
    for pair in compare_with_best(results).to_dict("records"):
        verdict = pair_verdict(pair)
        if verdict != "unknown":
            verdicts[pair["a"]] = verdict
    return verdicts


def pair_verdict(pair: Mapping[Any, Any]) -> Verdict:
    """Return the verdict on configuration `a` of a pair, compared with `b`."""
    if pd.isna(pair["holds"]):
        return "unknown"
    if not pair["holds"]:
        return "tie"
    return "better" if pair["difference"] > 0 else "worse"


def pooled_test_accuracy(runs: pd.DataFrame) -> tuple[float, int]:
    """Return the share of correct test images in all runs, and the number of different images.

    Args:
        runs: the completed trials of one configuration. Seeds share their test images, folds don't.
    """
    share = float(np.average(runs["test_accuracy"], weights=runs["test_images"]))
    different_images = runs.drop_duplicates("fold")["test_images"].sum()
    return share, int(different_images)
