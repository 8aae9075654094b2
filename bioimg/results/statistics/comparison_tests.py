"""Which differences in test accuracy hold, and the words in which they can be claimed.

Configurations are compared on the same test images, with their repeats (seeds, folds) averaged
image by image. The test depends on what was sampled:

- One run each: the exact McNemar test. If groups are known, also a t-test over groups; the larger p
  and the wider interval are used, since a test on single images ignores that images of one slide
  resemble each other.
- Seeds: a t-test whose standard error covers both images (or groups) and runs, so that it is about
  configurations, not about single trained models.
- Folds: a t-test over folds, corrected for overlapping training sets (Nadeau & Bengio 2003).

Holm's correction (1979) is over the pairs of one call. README.md in this folder has a table of
which test is used when.
"""

from collections.abc import Iterator
from itertools import combinations
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

from bioimg.results.configurations import configuration_keys
from bioimg.results.result_store import Results
from bioimg.results.statistics.intervals import CONFIDENCE_LEVEL
from bioimg.results.statistics.standard_error import (
    Variance,
    image_variance,
    nadeau_bengio_factor,
    run_variance,
    t_test,
)

SIGNIFICANCE_LEVEL = 0.05
MATCHING_COLUMNS = {"data_fingerprint": "data", "split": "split", "group_pattern": "group pattern"}
"""Columns in which configurations must agree to be compared, and their names in claims."""
COMPARISON_COLUMNS = (
    "a",
    "b",
    "n",
    "runs_a",
    "runs_b",
    "accuracy_a",
    "accuracy_b",
    "difference",
    "low",
    "high",
    "test",
    "p_mcnemar",
    "p",
    "p_holm",
    "holds",
    "claim",
)
ONE_GROUP_REASON = "all test images are of one group, so nothing can be said about other groups"
UNEVEN_STOPPING_REASON = (
    "early stopping ended different shares of their runs, and the runs that it doesn't end are "
    "better than average (see --finish)"
)
ONE_IMAGE_REASON = "there is only one test image"
MCNEMAR_TEST = "exact McNemar"
PROPORTIONS_TEST = "two proportions, unpaired"
GROUPS_TEST = "t over groups"
FOLDS_TEST = "corrected t over folds"
IMAGES_AND_RUNS_TEST = "t over images and runs"
GROUPS_AND_RUNS_TEST = "t over groups and runs"


def best_configuration(results: Results) -> str | None:
    """Return the configuration that validation chose, as the key of its first trial.

    It has the lowest validation loss, averaged over repeats. Only configurations completed in the
    most folds and, among these, with the largest share of completed repeats are eligible: repeats
    that early stopping didn't end are better than average, and some folds are easier than others.
    The test set isn't used. None if no trial was completed.
    """
    trials = _with_configuration(results)
    is_completed = trials["status"].eq("completed")
    completed = trials[is_completed & trials["best_val_loss"].notna()]
    repeats = completed.groupby("configuration", sort=False)
    candidates = pd.DataFrame(
        {
            "loss": repeats["best_val_loss"].mean(),
            "folds": repeats["fold"].nunique(),
            "runs": repeats.size(),
        }
    )
    candidates["share"] = candidates["runs"] / trials.groupby("configuration").size()
    for column in ("folds", "share"):
        largest = candidates[column].max()
        candidates = candidates[candidates[column].eq(largest)]
    if candidates.empty:
        return None
    return str(candidates["loss"].idxmin())


def compare_pairs(results: Results, against: str | None = None) -> pd.DataFrame:
    """Compare completed configurations in pairs: every pair, or all with one.

    a, b: keys of the configurations' first trials; with `against`, b is that one.
    n: test images.
    difference, low, high: accuracy of a minus that of b, and its 95 % interval (uncorrected).
    p_mcnemar: the exact McNemar test, if both have one run each with predictions; else null.
    p, test: the p-value used and its test, as above. Without predictions it is a test of two
        proportions, which ignores that the images are the same.
    p_holm: p corrected for the number of pairs.
    holds: true if p_holm is significant; null if the two must not be compared.
    claim: what can be said, in words.
    """
    comparisons = _PairedComparisons(results)
    keys = comparisons.keys
    if against:
        pairs = [(key, against) for key in keys if key != against]
    else:
        pairs = list(combinations(keys, 2))
    rows = [comparisons.compare(a, b) for a, b in pairs]
    table = pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))
    return _add_verdicts(table, comparisons)


def best_and_indistinguishable(results: Results, pairs: pd.DataFrame | None = None) -> list[str]:
    """Return the best configuration by validation, then those that the test set can't tell from it.

    pairs: `compare_pairs(results, best_configuration(results))`, if it is already known.
    """
    best = best_configuration(results)
    if best is None:
        return []
    if pairs is None:
        pairs = compare_pairs(results, best)
    return [best, *pairs.loc[pairs["holds"].eq(False), "a"]]


def _with_configuration(results: Results) -> pd.DataFrame:
    return results.trials.assign(configuration=configuration_keys(results.trials))


class _PairedComparisons:
    """The completed configurations, and which test images each got right."""

    def __init__(self, results: Results) -> None:
        trials = _with_configuration(results)
        is_stopped = trials["status"].eq("stopped")
        self._stopped_shares = is_stopped.groupby(trials["configuration"]).mean()

        is_completed = trials["status"].eq("completed")
        measured = trials[is_completed & trials["test_accuracy"].notna()]
        first = measured.drop_duplicates("configuration").set_index("configuration")
        columns = [*MATCHING_COLUMNS, "epochs", "test_images"]
        self.first_rows: dict[str, dict[str, Any]] = first[columns].to_dict("index")  # type: ignore
        self.keys = list(self.first_rows)

        repeats = measured.groupby("configuration", sort=False)
        sizes = repeats[["test_images", "train_images"]].mean()
        ratios = sizes["test_images"] / sizes["train_images"]
        self._test_train_ratios: dict[str, float] = ratios.to_dict()  # type: ignore
        self._run_accuracies: dict[str, list[float]] = {}
        for key, accuracies in repeats["test_accuracy"]:
            self._run_accuracies[str(key)] = accuracies.to_list()

        is_test = results.predictions["subset"].eq("test")
        predictions = results.predictions[is_test]
        joined = predictions.merge(measured[["key", "configuration", "fold"]], on="key")
        self._images: dict[str, pd.DataFrame] = {}
        for key, rows in joined.groupby("configuration", sort=False):
            self._images[str(key)] = _correctness_by_image(rows)

    def why_not_comparable(self, a: str, b: str) -> str:
        """Say why two configurations can't be compared; return an empty text if they can."""
        differing = []
        for column, word in MATCHING_COLUMNS.items():
            value_a = self.first_rows[a][column]
            value_b = self.first_rows[b][column]
            if not _equal_or_both_missing(value_a, value_b):
                differing.append(word)
        if differing:
            return f"they differ in {' and '.join(differing)}"
        if not self._have_same_images(a, b):
            return "they differ in test images"
        if self._stopped_shares[a] != self._stopped_shares[b]:
            return UNEVEN_STOPPING_REASON
        if a in self._images and self._images[a]["unit"].nunique() == 1:
            return ONE_GROUP_REASON if self._has_groups(a) else ONE_IMAGE_REASON
        return ""

    def compare(self, a: str, b: str) -> dict[str, Any]:
        """Return one row of `compare_pairs`, except what depends on the other pairs."""
        row: dict[str, Any] = {
            "a": a,
            "b": b,
            "runs_a": len(self._run_accuracies[a]),
            "runs_b": len(self._run_accuracies[b]),
            "accuracy_a": self._mean_accuracy(a),
            "accuracy_b": self._mean_accuracy(b),
            "n": int(self.first_rows[a]["test_images"]),
        }
        if self.why_not_comparable(a, b):
            return row
        if a in self._images and b in self._images:
            return row | self._compare_paired(a, b)
        return row | self._compare_unpaired(a, b)

    def _have_same_images(self, a: str, b: str) -> bool:
        """Check that both were tested on the same images; without predictions, on equally many."""
        if a in self._images and b in self._images:
            return self._images[a].index.equals(self._images[b].index)
        return self.first_rows[a]["test_images"] == self.first_rows[b]["test_images"]

    def _compare_paired(self, a: str, b: str) -> dict[str, Any]:
        images = self._images[a]
        correct_a = images["correct"]
        correct_b = self._images[b]["correct"]
        difference = correct_a - correct_b
        columns = {
            "n": len(images),
            "accuracy_a": correct_a.mean(),
            "accuracy_b": correct_b.mean(),
            "difference": difference.mean(),
        }
        if images["fold"].nunique() > 1:
            return columns | self._test_over_folds(a, difference)
        runs = run_variance(self._run_accuracies[a], self._run_accuracies[b])
        if runs:
            return columns | self._test_over_runs(a, difference, runs)
        single = _mcnemar_columns(correct_a, correct_b)
        if self._has_groups(a):
            return columns | self._test_over_groups(a, difference, single)
        return columns | single

    def _test_over_folds(self, key: str, difference: pd.Series) -> dict[str, Any]:
        folds = self._images[key]["fold"]
        factor = nadeau_bengio_factor(folds, self._test_train_ratios[key])
        variance = image_variance(difference / len(difference), folds) * factor
        columns = _t_test_columns(difference, variance, folds.nunique())
        return columns | {"test": FOLDS_TEST}

    def _test_over_runs(self, key: str, difference: pd.Series, runs: Variance) -> dict[str, Any]:
        units = self._images[key]["unit"]
        variance = image_variance(difference / len(difference), units) + runs
        columns = _t_test_columns(difference, variance, units.nunique())
        test = GROUPS_AND_RUNS_TEST if self._has_groups(key) else IMAGES_AND_RUNS_TEST
        return columns | {"test": test}

    def _test_over_groups(
        self, key: str, difference: pd.Series, single: dict[str, Any]
    ) -> dict[str, Any]:
        """Combine the test over groups with that over single images: the more cautious of both."""
        units = self._images[key]["unit"]
        variance = image_variance(difference / len(difference), units)
        grouped = _t_test_columns(difference, variance, units.nunique()) | {"test": GROUPS_TEST}
        larger_p = max(grouped, single, key=itemgetter("p"))
        # the t-test may have no interval (null), which fmin and fmax ignore
        return larger_p | {
            "low": float(np.fmin(grouped["low"], single["low"])),
            "high": float(np.fmax(grouped["high"], single["high"])),
            "p_mcnemar": single["p"],
        }

    def _compare_unpaired(self, a: str, b: str) -> dict[str, Any]:
        accuracy_a = self._mean_accuracy(a)
        accuracy_b = self._mean_accuracy(b)
        # both were tested on equally many images, or else they aren't compared
        n = int(self.first_rows[a]["test_images"])
        correct_a = round(accuracy_a * n)
        correct_b = round(accuracy_b * n)
        low, high = confint_proportions_2indep(correct_a, n, correct_b, n, method="newcomb")
        p = 1.0
        # the test is undefined if both are right on all images or on none
        if correct_a != correct_b:
            p = float(proportions_ztest([correct_a, correct_b], [n, n])[1])
        return {
            "difference": accuracy_a - accuracy_b,
            "low": low,
            "high": high,
            "test": PROPORTIONS_TEST,
            "p": p,
            "p_mcnemar": np.nan,
        }

    def _mean_accuracy(self, key: str) -> float:
        return float(np.mean(self._run_accuracies[key]))

    def _has_groups(self, key: str) -> bool:
        return key in self._images and bool(self._images[key]["group"].notna().any())


def _equal_or_both_missing(a: object, b: object) -> bool:
    return bool(a == b or (pd.isna(a) and pd.isna(b)))  # type: ignore[call-overload]


def _correctness_by_image(rows: pd.DataFrame) -> pd.DataFrame:
    """Average the repeats of one configuration by image.

    The columns are `correct`, the mean over repeats, `group` (or null), `fold`, and `unit`: the
    group, or else the image itself.
    """
    is_correct = rows["label"].eq(rows["prediction"])
    rows = rows.assign(correct=is_correct.astype(float))
    images = rows.groupby("image").agg(
        correct=("correct", "mean"), group=("group", "first"), fold=("fold", "first")
    )
    names = pd.Series(images.index, index=images.index)
    return images.assign(unit=images["group"].fillna(names))


def _t_test_columns(difference: pd.Series, variance: Variance, units: int) -> dict[str, Any]:
    low, high, p = t_test(difference.mean(), variance, units)
    return {"low": max(low, -1.0), "high": min(high, 1.0), "p": p, "p_mcnemar": np.nan}


def _mcnemar_columns(correct_a: pd.Series, correct_b: pd.Series) -> dict[str, Any]:
    """Compare two runs that were right (1) or wrong (0) on each image.

    The test is the exact one of McNemar (1947), the interval that of Bonett & Price (2012): Wald's,
    with one image added to each of the two counts of disagreement.
    """
    n = len(correct_a)
    only_a = int((correct_a > correct_b).sum())
    only_b = int((correct_a < correct_b).sum())
    # images that both or neither got right don't matter to the test
    disagreements = [[0, only_a], [only_b, 0]]
    p = float(mcnemar(disagreements, exact=True).pvalue)  # type: ignore[attr-defined]

    share_a = (only_a + 1) / (n + 2)
    share_b = (only_b + 1) / (n + 2)
    difference = share_a - share_b
    error = np.sqrt((share_a + share_b - difference**2) / (n + 2))
    quantile = norm.ppf((1 + CONFIDENCE_LEVEL) / 2)
    half_width = float(quantile * error)
    return {
        "low": difference - half_width,
        "high": difference + half_width,
        "test": MCNEMAR_TEST,
        "p": p,
        "p_mcnemar": p,
    }


def _add_verdicts(table: pd.DataFrame, comparisons: _PairedComparisons) -> pd.DataFrame:
    """Add what depends on all pairs: corrected p-values, verdicts and claims."""
    p = table["p"].astype(float)
    is_tested = p.notna()
    p_holm = pd.Series(np.nan, index=table.index)
    if is_tested.any():
        p_holm[is_tested] = multipletests(p[is_tested], method="holm")[1]
    is_significant = p_holm.lt(SIGNIFICANCE_LEVEL)
    table = table.assign(
        p=p,
        p_mcnemar=table["p_mcnemar"].astype(float),
        p_holm=p_holm,
        holds=is_significant.astype(object).where(is_tested, None),
    )
    return table.assign(claim=list(_verdict_texts(table, comparisons)))


def _verdict_texts(table: pd.DataFrame, comparisons: _PairedComparisons) -> Iterator[str]:
    for row in table.to_dict("records"):
        reason = comparisons.why_not_comparable(row["a"], row["b"])
        if reason:
            yield f"not compared: {reason}"
            continue
        epochs_a = comparisons.first_rows[row["a"]]["epochs"]
        epochs_b = comparisons.first_rows[row["b"]]["epochs"]
        yield _verdict_text(row, _epochs_note(epochs_a, epochs_b))


def _verdict_text(row: dict, epochs_note: str) -> str:
    percent_a = 100 * row["accuracy_a"]
    percent_b = 100 * row["accuracy_b"]
    shares = f"{percent_a:.1f} % and {percent_b:.1f} % of {row['n']} images{epochs_note}"
    p = _format_p("p", row["p"])
    p_holm = _format_p("Holm", row["p_holm"])
    if not row["holds"]:
        cause = ""
        if row["p_mcnemar"] < SIGNIFICANCE_LEVEL <= row["p"]:
            cause = " (a difference over single images, but not over groups)"
        return f"{shares}: not distinguishable, {p} ({p_holm}){cause}"

    points = 100 * row["difference"]
    low = 100 * row["low"]
    high = 100 * row["high"]
    verdict = "better"
    if points < 0:
        # "worse by" states how much lower a is, as a positive number
        points, low, high = -points, -high, -low
        verdict = "worse"
    interval = "" if np.isnan(low) else f" [{low:.1f}, {high:.1f}]"
    return f"{shares}: {verdict} by {points:.1f} points{interval}, {p} ({p_holm})"


def _format_p(name: str, p: float) -> str:
    if p < 0.001:
        return f"{name} < 0.001"
    return f"{name} = {p:.2g}"


def _epochs_note(epochs_a: int, epochs_b: int) -> str:
    if epochs_a == epochs_b:
        return ""
    return f" (after {epochs_a} and {epochs_b} epochs)"
