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

import functools
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm, t
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep

from bioimg.results.result_store import Results
from bioimg.results.statistics.claims import claim_texts
from bioimg.results.statistics.configuration_outcomes import (
    ConfigurationOutcome,
    measure_configurations,
    pool_run_spread,
)
from bioimg.results.statistics.intervals import MIN_CLASS_IMAGES, mean_interval
from bioimg.results.statistics.standard_error import (
    CONFIDENCE_LEVEL,
    POWER,
    UnitSample,
    Variance,
    detectable_by_t,
    nadeau_bengio_factor,
    sign_flip_test,
    t_interval,
    t_test,
)

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
    "claim",
)
MCNEMAR_TEST = "exact McNemar"
SIGNS_TEST = "exact signs over images"
PROPORTIONS_TEST = "two proportions, unpaired"
GROUPS_TEST = "t over groups"
FOLDS_TEST = "corrected t over folds"
IMAGES_AND_RUNS_TEST = "t over images and runs"
GROUPS_AND_RUNS_TEST = "t over groups and runs"


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
    claim: what can be said, in words.
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
    table = _add_verdicts(pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS)))
    return table.assign(claim=list(claim_texts(table, outcomes)))


class _Test(NamedTuple):
    """One test of a difference. What it can't give is NaN."""

    name: str
    p: float
    low: float
    high: float
    units: float
    """Effective number of units."""
    detectable: float


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
        if a.images is not None and self._find_single_unit(a.images):
            return "one_group" if a.has_groups else "one_image"
        if self._has_one_run_on_one_side():
            return "one_run"
        return ""

    def _have_same_images(self) -> bool:
        """Check that both were tested on the same images; without predictions, on equally many."""
        a, b = self.a, self.b
        if a.images is not None and b.images is not None:
            return a.images.index.equals(b.images.index)
        has_folds = a.fold_count > 1 or b.fold_count > 1
        if has_folds or a.score_used != "accuracy":
            return False
        return a.image_count == b.image_count

    def _find_single_unit(self, images: pd.DataFrame) -> bool:
        """Check whether all images, or all of a class that the score weighs, are of one unit."""
        sampled = ["unit", "fold"] if self.a.fold_count > 1 else ["unit"]
        counts = images.groupby("stratum")[sampled].nunique()
        return bool(counts.lt(2).any(axis=None))

    def _has_one_run_on_one_side(self) -> bool:
        if self.a.fold_count > 1:
            return False
        return self.a.has_repeats != self.b.has_repeats

    def _run_tests(self, level: float) -> list[_Test]:
        if self.a.images is None or self.b.images is None:
            return [self._test_proportions(level)]
        tests = [self._test_signs(level)]
        if self.a.fold_count > 1:
            tests.append(self._test_folds(level))
        if self.a.has_groups or (self.a.fold_count == 1 and self.a.has_repeats):
            tests.append(self._test_units(level))
        return tests

    def _test_signs(self, level: float) -> _Test:
        """Test single images: exactly, if each is as likely to favour either side."""
        images = self._paired_images
        p = sign_flip_test(images["contribution"].to_numpy())
        name = SIGNS_TEST
        low = high = np.nan
        if self.a.run_count == 1 and self.b.run_count == 1:
            low, high = _paired_interval(images)
            if self.a.score_used == "accuracy":
                name = MCNEMAR_TEST
        units = UnitSample(images.index, images["stratum"]).effective_count
        return _Test(name, p, low, high, units, _detectable_by_signs(images, level))

    def _test_units(self, level: float) -> _Test:
        """Test groups, else images, and runs."""
        images = self._paired_images
        variance = _variance_of_units(images, images["unit"])
        units = variance.degrees_of_freedom + 1
        name = GROUPS_TEST
        runs = self._run_variance()
        if runs:
            variance += runs
            name = GROUPS_AND_RUNS_TEST if self.a.has_groups else IMAGES_AND_RUNS_TEST
        return self._test_by_t(name, images["unit"], variance, units, level)

    def _test_folds(self, level: float) -> _Test:
        images = self._paired_images
        factor = nadeau_bengio_factor(self.a.fold_count, self.a.test_train_ratio)
        variance = _variance_of_units(images, images["fold"]) * factor
        units = variance.degrees_of_freedom + 1
        return self._test_by_t(FOLDS_TEST, images["fold"], variance, units, level)

    def _test_by_t(
        self, name: str, sampled: pd.Series, variance: Variance, units: float, level: float
    ) -> _Test:
        contributions = self._paired_images["contribution"]
        low, high = t_interval(contributions.sum(), variance)
        p = t_test(contributions, sampled, variance)
        return _Test(name, p, low, high, units, detectable_by_t(variance, level))

    def _test_proportions(self, level: float) -> _Test:
        """Test two accuracies of which only the number of images is known."""
        n = self.a.image_count
        correct_a = round(self.a.accuracy * n)
        correct_b = round(self.b.accuracy * n)
        a, b = correct_a / n, correct_b / n
        pooled = (a + b) / 2
        variance = Variance(2 * pooled * (1 - pooled) / n, np.inf)
        limits = confint_proportions_2indep(
            correct_a, n, correct_b, n, method="newcomb", alpha=1 - CONFIDENCE_LEVEL
        )
        low, high = (float(limit) for limit in limits)
        runs = self._run_variance()
        if runs:
            variance += runs
            low, high = t_interval(a - b, variance)
        # the test is undefined if both are right on all images or on none
        p = 1.0
        if variance.value > 0:
            p = float(2 * t.sf(abs(a - b) / np.sqrt(variance.value), variance.degrees_of_freedom))
        return _Test(PROPORTIONS_TEST, p, low, high, n, detectable_by_t(variance, level))

    @functools.cached_property
    def _paired_images(self) -> pd.DataFrame:
        """Return the images with `difference`, and with what each adds to that of the scores."""
        assert self.a.images is not None
        assert self.b.images is not None
        difference = self.a.images["correct"] - self.b.images["correct"]
        contribution = difference * self.a.images["weight"]
        return self.a.images.assign(difference=difference, contribution=contribution)

    def _run_variance(self) -> Variance | None:
        """Return what runs add to the variance of the difference; None if none was repeated."""
        a, b = self.a, self.b
        if self._run_spread is None or not (a.has_repeats and b.has_repeats):
            return None
        return self._run_spread * (1 / a.run_count + 1 / b.run_count)


def _equal_or_both_missing(a: object, b: object) -> bool:
    return bool(a == b or (pd.isna(a) and pd.isna(b)))  # type: ignore[call-overload]


def _variance_of_units(images: pd.DataFrame, units: pd.Series) -> Variance:
    return UnitSample(units, images["stratum"]).variance(images["contribution"])


def _paired_interval(images: pd.DataFrame) -> tuple[float, float]:
    """Return the 95 % interval of a difference between two runs, each right or wrong on an image.

    It is that of Bonett & Price (2012): Wald's, with one image added to each of the two counts of
    disagreement. Those of classes are combined by MOVER. It is null if a class has too few images.
    """
    strata = images.groupby("stratum")["difference"]
    n = strata.size().to_numpy()
    only_a = strata.agg(lambda difference: (difference > 0).sum()).to_numpy()
    only_b = strata.agg(lambda difference: (difference < 0).sum()).to_numpy()
    share_a = (only_a + 1) / (n + 2)
    share_b = (only_b + 1) / (n + 2)
    centre = share_a - share_b
    error = np.sqrt((share_a + share_b - centre**2) / (n + 2))
    half_width = norm.ppf((1 + CONFIDENCE_LEVEL) / 2) * error
    difference = (only_a - only_b) / n
    if len(n) > 1 and n.min() < MIN_CLASS_IMAGES:
        return np.nan, np.nan
    return mean_interval(difference, centre - half_width, centre + half_width)


def _detectable_by_signs(images: pd.DataFrame, level: float) -> float:
    """Return the difference that the exact test of signs finds with 80 % power, about.

    As many disagreements as were seen are expected, and in each class two more, as in Bonett &
    Price's interval; but never fewer than a difference of this size needs.
    """
    quantiles = float(norm.isf(level / 2) + norm.ppf(POWER))
    strata = images.assign(square=images["difference"] ** 2).groupby("stratum")
    n = strata.size()
    variances = (strata["square"].sum() + 2) / (n + 2) ** 2
    expected = quantiles * np.sqrt(variances.sum()) / len(n)
    least = quantiles**2 * (images["weight"] ** 2).sum()
    return float(max(expected, least))


def _add_verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Add what depends on all pairs: corrected p-values and verdicts."""
    p = table["p"].astype(float)
    is_tested = p.notna()
    p_holm = pd.Series(np.nan, index=table.index)
    if is_tested.any():
        p_holm[is_tested] = multipletests(p[is_tested], method="holm")[1]
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
