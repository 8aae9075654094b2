"""Which differences in the score hold, of what, and which could have been found.

Configurations are compared on the same test images, with their repeats (seeds, folds) averaged
image by image. A difference must pass each test that applies:

- always: the exact test of signs over single images, which is McNemar's for one run each;
- if groups are known or runs were repeated: a t-test whose variance is that of groups (else images)
  plus that of runs;
- with folds: a t-test over folds, corrected for overlapping training sets (Nadeau & Bengio 2003).

So the largest p and the widest interval count. Holm's correction (1979) is over the pairs of one
call. README.md in this folder has a table of which test is used when.
"""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from bioimg.results.result_store import Results
from bioimg.results.statistics.configuration_outcomes import (
    ConfigurationOutcome,
    measure_configurations,
    pool_run_spread,
)
from bioimg.results.statistics.paired_tests import (
    MCNEMAR_TEST,
    PairedSample,
    PairedTest,
    compare_proportions,
)
from bioimg.results.statistics.standard_error import Variance, mean_run_variance

SIGNIFICANCE_LEVEL = 0.05
MATCHING_COLUMNS = {"data_fingerprint": "data", "split": "split", "group_pattern": "group_pattern"}
"""Columns in which configurations must agree to be compared, and the reason if they don't."""
COMPARISON_COLUMNS = (
    "a",
    "b",
    "n",
    "runs_a",
    "runs_b",
    "accuracy_a",
    "accuracy_b",
    "score_a",
    "score_b",
    "difference",
    "low",
    "high",
    "test",
    "p_mcnemar",
    "p",
    "p_holm",
    "holds",
    "verdict",
    "reason",
    "scope",
    "detectable",
    "effective_units",
)


def compare_pairs(results: Results, against: str | None = None) -> pd.DataFrame:
    """Compare completed configurations in pairs: every pair, or all with one.

    a, b: keys of the configurations' first trials; with `against`, b is that one.
    n: test images.
    score_a, score_b: the scores, averaged over runs.
    difference, low, high: score of a minus that of b, and its 95 % interval (uncorrected).
    p_mcnemar: the exact McNemar test, if both have one run each with predictions; else null.
    p, test: the largest p-value of the tests that apply, and its test. Without predictions it is
        a test of two proportions, which ignores that the images are the same.
    p_holm: p corrected for the number of pairs.
    holds: true if p_holm is significant; null if the two must not be compared.
    verdict: of a against b: better, worse, tie (the test images don't show a difference), or
        unknown (they must not be compared).
    reason: why they must not be compared; empty if they may.
        data, split, group_pattern: they differ in it.
        score: they are measured by different scores.
        test_images: they were tested on other images, or it isn't known on which.
        uneven_stopping: early stopping ended different shares of their runs, and the runs that it
            doesn't end are better than average.
        one_group, one_image: all test images, or all of a class, are of one group, or are one.
        one_run: one side has one run and the other more, so the spread of its runs is unknown.
    scope: what a difference is one of: `recipes` if both were repeated, with seeds or folds, or
        else `models`, the trained ones.
    detectable: the smallest difference that has a chance of 80 % to hold, at the level of the first
        step of Holm's correction and with the spread that was seen; 1 if none has.
    effective_units: how many equal units (images, groups, folds) are worth as much as those that
        were tested: the degrees of freedom of the most demanding test, plus 1.
    """
    outcomes = measure_configurations(results)
    run_spread = pool_run_spread(outcomes)
    if against:
        pairs = [(key, against) for key in outcomes if key != against and against in outcomes]
    else:
        pairs = list(combinations(outcomes, 2))
    comparisons = [_Comparison(outcomes[a], outcomes[b], run_spread) for a, b in pairs]
    compared_count = sum(not comparison.reason for comparison in comparisons)
    level = SIGNIFICANCE_LEVEL / max(compared_count, 1)
    rows = [comparison.describe(level) for comparison in comparisons]
    return _add_verdicts(pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS)))


class _Comparison:
    """Two configurations, and every test of their difference that applies."""

    def __init__(
        self, a: ConfigurationOutcome, b: ConfigurationOutcome, run_spread: Variance | None
    ) -> None:
        self.a, self.b = a, b
        self._run_spread = run_spread
        self.reason = self._find_reason()

    def describe(self, level: float) -> dict[str, Any]:
        """Return one row of `compare_pairs`, except what depends on the other pairs.

        level: the level at which a difference must be found to be detectable.
        """
        a, b = self.a, self.b
        row: dict[str, Any] = {
            "a": a.key,
            "b": b.key,
            "n": a.image_count,
            "runs_a": a.run_count,
            "runs_b": b.run_count,
            "accuracy_a": a.accuracy,
            "accuracy_b": b.accuracy,
            "score_a": a.score,
            "score_b": b.score,
            "reason": self.reason,
            "scope": "recipes" if a.is_repeated and b.is_repeated else "models",
        }
        if self.reason:
            return row
        tests = self._run_tests(level)
        deciding = max(tests, key=lambda test: test.p)
        mcnemar = [test.p for test in tests if test.name == MCNEMAR_TEST]
        lows = [test.low for test in tests if not np.isnan(test.low)]
        highs = [test.high for test in tests if not np.isnan(test.high)]
        return row | {
            "difference": a.score - b.score,
            "low": float(np.clip(min(lows, default=np.nan), -1, 1)),
            "high": float(np.clip(max(highs, default=np.nan), -1, 1)),
            "test": deciding.name,
            "p_mcnemar": mcnemar[0] if mcnemar else np.nan,
            "p": deciding.p,
            "detectable": min(1.0, max(test.detectable for test in tests)),
            "effective_units": min(test.units for test in tests),
        }

    def _find_reason(self) -> str:
        """Return the code of why the two can't be compared; empty if they can."""
        a, b = self.a, self.b
        for column, reason in MATCHING_COLUMNS.items():
            if not _equal_or_both_missing(a.first_row[column], b.first_row[column]):
                return reason
        if a.score_used != b.score_used:
            return "score"
        if not self._have_same_images():
            return "test_images"
        if a.stopped_share != b.stopped_share:
            return "uneven_stopping"
        if a.images is not None and not a.images.has_spread:
            return "one_group" if a.has_groups else "one_image"
        if self._has_one_run_on_one_side():
            return "one_run"
        return ""

    def _have_same_images(self) -> bool:
        """Check that both were tested on the same images; without predictions, on equally many."""
        a, b = self.a, self.b
        if a.images is not None and b.images is not None:
            return a.images.names.equals(b.images.names)
        has_folds = a.fold_count > 1 or b.fold_count > 1
        if has_folds or a.score_used != "accuracy":
            return False
        return a.image_count == b.image_count

    def _has_one_run_on_one_side(self) -> bool:
        return self.a.fold_count == 1 and self.a.has_repeats != self.b.has_repeats

    def _run_tests(self, level: float) -> list[PairedTest]:
        runs = self._run_variance()
        if self.a.images is None or self.b.images is None:
            return [compare_proportions(self.a, self.b, runs, level)]
        return PairedSample(self.a, self.b, runs).run_tests(level)

    def _run_variance(self) -> Variance | None:
        """Return what runs add to the variance of the difference; None if none was repeated."""
        a, b = self.a, self.b
        is_repeated = a.fold_count == 1 and a.has_repeats and b.has_repeats
        if self._run_spread is None or not is_repeated:
            return None
        return mean_run_variance(self._run_spread, a.run_scores, b.run_scores)


def _equal_or_both_missing(a: object, b: object) -> bool:
    return bool(a == b or (pd.isna(a) and pd.isna(b)))  # type: ignore[call-overload]


def holm_correction(p: pd.Series) -> pd.Series:
    """Return p-values that are corrected for their number (Holm 1979); null ones don't count."""
    ordered = p.dropna().sort_values()
    remaining = np.arange(len(ordered), 0, -1)
    corrected = (ordered * remaining).cummax().clip(upper=1)
    return corrected.reindex(p.index)


def _add_verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Add what depends on all pairs: corrected p-values and verdicts."""
    p = table["p"].astype(float)
    is_tested = p.notna()
    p_holm = holm_correction(p)
    is_significant = p_holm.lt(SIGNIFICANCE_LEVEL)
    is_better = table["difference"].astype(float).gt(0)
    verdict = pd.Series(np.where(is_better, "better", "worse"), table.index)
    verdict = verdict.where(is_significant, "tie").where(is_tested, "unknown")
    return table.assign(
        p=p,
        p_mcnemar=table["p_mcnemar"].astype(float),
        p_holm=p_holm,
        holds=is_significant.astype(object).where(is_tested, None),
        verdict=verdict,
    )
