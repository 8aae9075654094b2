"""Which differences in test accuracy hold, and the words in which they can be claimed.

Configurations are compared on the same test images, with their repeats (seeds, folds) averaged image by image. The test
depends on what was sampled:

- one run each: exact McNemar; if groups are known, also a t-test over groups, and the larger p and the wider interval
  are used, since a test on single images ignores that images of one slide resemble each other;
- seeds: a t-test whose standard error covers both images (or groups) and runs, so that it is about recipes, not trained models;
- folds: a t-test over folds, corrected for overlapping training sets (Nadeau & Bengio 2003).

Holm's correction is over the pairs of one call.
"""

from collections.abc import Iterable, Iterator
from itertools import combinations
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
COMPARISON_COLUMNS = (
    *("a", "b", "n", "runs_a", "runs_b", "accuracy_a", "accuracy_b", "difference", "low", "high"),
    *("test", "p_mcnemar", "p", "p_holm", "holds", "claim"),
)
ONE_GROUP_REASON = "all test images are of one group, so nothing can be said about other groups"
UNEVEN_STOPPING_REASON = "early stopping ended different shares of their runs, and those that it spares are the lucky ones (see --finish)"
ONE_IMAGE_REASON = "there is only one test image"
MCNEMAR_TEST, PROPORTIONS_TEST = "exact McNemar", "two proportions, unpaired"
GROUPS_TEST, FOLDS_TEST = "t over groups", "corrected t over folds"
RUNS_TEST_BY_GROUPED = {False: "t over images and runs", True: "t over groups and runs"}


def best_configuration(results: Results) -> str | None:
    """The configuration (key of its first trial) that validation chose: the lowest validation loss, averaged over repeats.

    Only configurations completed in the most folds and, among these, with the largest share of completed repeats are eligible:
    the repeats that early stopping spares are the lucky ones, and some folds are easier than others.
    The test set isn't used. None if no trial was completed.
    """
    trials, completed = _with_configuration(results), _completed_trials(results)
    repeats = completed[completed["best_val_loss"].notna()].groupby("configuration", sort=False)
    seen = pd.DataFrame(
        {
            "loss": repeats["best_val_loss"].mean(),
            "folds": repeats["fold"].nunique(),
            "runs": repeats.size(),
        }
    )
    seen["share"] = seen["runs"] / trials.groupby("configuration").size()
    for most in ("folds", "share"):
        seen = seen[seen[most].eq(seen[most].max())]
    return None if seen.empty else str(seen["loss"].idxmin())


def compare_pairs(results: Results, against: str | None = None) -> pd.DataFrame:
    """Compare completed configurations in pairs: every pair, or all with one.

    a, b:       keys of the configurations' first trials; with `against`, b is that one.
    n:          test images; difference, low, high: accuracy of a minus that of b and its 95 % interval (uncorrected).
    p_mcnemar:  exact McNemar test, if both have one run each with predictions; else null.
    p, test:    the p-value used and its test, as above; without predictions a test of two proportions, which ignores that
                the images are the same.
    p_holm:     p corrected for the number of pairs. holds: null if the rows must not be compared.
    claim:      what can be said, in words.
    """
    arms = _PairedComparisons(results)
    pairs = (
        [(key, against) for key in arms.keys if key != against]
        if against
        else combinations(arms.keys, 2)
    )
    table = pd.DataFrame([arms.compare(a, b) for a, b in pairs], columns=list(COMPARISON_COLUMNS))
    return _add_verdicts(table, arms)


def best_and_indistinguishable(results: Results, pairs: pd.DataFrame | None = None) -> list[str]:
    """The best configuration by validation, then those that the test set can't distinguish from it.

    pairs: the result of `paired(results, best(results))`, if it is already known.
    """
    key = best_configuration(results)
    if key is None:
        return []
    pairs = compare_pairs(results, key) if pairs is None else pairs
    return [key, *pairs.loc[pairs["holds"].eq(False), "a"]]


def _with_configuration(results: Results) -> pd.DataFrame:
    return results.trials.assign(configuration=configuration_keys(results.trials))


def _completed_trials(results: Results) -> pd.DataFrame:
    trials = _with_configuration(results)
    return trials[trials["status"].eq("completed")]


class _PairedComparisons:
    """What is compared: for each completed configuration its row, and which test images it got right."""

    def __init__(self, results: Results) -> None:
        completed = _completed_trials(results)
        measured = completed[completed["test_accuracy"].notna()]
        groups = measured.groupby("configuration", sort=False)
        first = measured[~measured["configuration"].duplicated()].set_index("configuration")
        self.first_rows: dict[str, dict[str, Any]] = first[
            [*MATCHING_COLUMNS, "epochs", "test_images"]
        ].to_dict("index")  # type: ignore
        sizes = groups[["test_images", "train_images"]].mean()
        self._test_train_ratios: dict[str, float] = (
            sizes["test_images"] / sizes["train_images"]
        ).to_dict()  # type: ignore
        self.run_counts = {str(key): int(size) for key, size in groups.size().items()}
        self._run_accuracies = {str(key): runs.to_list() for key, runs in groups["test_accuracy"]}
        self._stopped_shares = (
            _with_configuration(results)
            .groupby("configuration")["status"]
            .agg(lambda states: states.eq("stopped").mean())
        )
        self.keys = list(self.first_rows)
        predictions = results.predictions[results.predictions["subset"].eq("test")]
        joined = predictions.merge(measured[["key", "configuration", "fold"]], on="key")
        self._image_correctness = {
            str(key): _correctness_by_image(rows)
            for key, rows in joined.groupby("configuration", sort=False)
        }

    def why_not_comparable(self, a: str, b: str) -> str:
        """Why two configurations can't be compared; empty if they can."""
        others = [
            word
            for name, word in MATCHING_COLUMNS.items()
            if not _equal_or_both_missing(self.first_rows[a][name], self.first_rows[b][name])
        ]
        if others:
            return f"they differ in {' and '.join(others)}"
        if not self._have_same_images(a, b):
            return "they differ in test images"
        if self._stopped_shares[a] != self._stopped_shares[b]:
            return UNEVEN_STOPPING_REASON
        if a in self._image_correctness and self._image_correctness[a]["unit"].nunique() == 1:
            return ONE_GROUP_REASON if self.has_groups(a) else ONE_IMAGE_REASON
        return ""

    def _have_same_images(self, a: str, b: str) -> bool:
        """Whether both were tested on the same images; without predictions, on equally many."""
        if a in self._image_correctness and b in self._image_correctness:
            return self._image_correctness[a].index.equals(self._image_correctness[b].index)
        return self.first_rows[a]["test_images"] == self.first_rows[b]["test_images"]

    def compare(self, a: str, b: str) -> dict[str, Any]:
        """One row of `paired`, except what depends on the other pairs."""
        row: dict[str, Any] = {
            "a": a,
            "b": b,
            "runs_a": self.run_counts[a],
            "runs_b": self.run_counts[b],
        }
        row |= {
            "accuracy_a": self.mean_accuracy(a),
            "accuracy_b": self.mean_accuracy(b),
            "n": int(self.first_rows[a]["test_images"]),
        }
        if self.why_not_comparable(a, b):
            return row
        both = a in self._image_correctness and b in self._image_correctness
        return row | (self._compare_paired(a, b) if both else self._compare_unpaired(a, b))

    def _compare_paired(self, a: str, b: str) -> dict[str, Any]:
        one, other = self._image_correctness[a], self._image_correctness[b]
        x, y = one["correct"], other["correct"]
        found = {
            "n": len(x),
            "accuracy_a": x.mean(),
            "accuracy_b": y.mean(),
            "difference": (x - y).mean(),
        }
        if one["fold"].nunique() > 1:
            return found | self._test_over_folds(a, x - y)
        if runs := run_variance(self._run_accuracies[a], self._run_accuracies[b]):
            variance = image_variance((x - y) / len(x), one["unit"]) + runs
            return (
                found
                | _t_test_columns(x - y, variance, one["unit"].nunique())
                | {"test": RUNS_TEST_BY_GROUPED[self.has_groups(a)]}
            )
        return found | (
            self._test_over_groups(a, x, y) if self.has_groups(a) else _mcnemar_columns(x, y)
        )

    def _test_over_groups(self, key: str, x: pd.Series, y: pd.Series) -> dict[str, Any]:
        """One run each on images of known groups."""
        units, single = self._image_correctness[key]["unit"], _mcnemar_columns(x, y)
        whole = {
            **_t_test_columns(x - y, image_variance((x - y) / len(x), units), units.nunique()),
            "test": GROUPS_TEST,
        }
        both = {
            "low": float(np.fmin(whole["low"], single["low"])),
            "high": float(np.fmax(whole["high"], single["high"])),
        }
        return {**max(whole, single, key=lambda test: test["p"]), **both, "p_mcnemar": single["p"]}

    def _test_over_folds(self, key: str, difference: pd.Series) -> dict[str, Any]:
        folds = self._image_correctness[key]["fold"]
        variance = image_variance(difference / len(difference), folds) * nadeau_bengio_factor(
            folds, self._test_train_ratios[key]
        )
        return {**_t_test_columns(difference, variance, folds.nunique()), "test": FOLDS_TEST}

    def _compare_unpaired(self, a: str, b: str) -> dict[str, Any]:
        counts = [
            round(self.mean_accuracy(key) * self.first_rows[key]["test_images"]) for key in (a, b)
        ]
        n = int(self.first_rows[a]["test_images"])
        low, high = confint_proportions_2indep(counts[0], n, counts[1], n, method="newcomb")
        p = 1.0 if counts[0] == counts[1] else float(proportions_ztest(counts, [n, n])[1])
        difference = self.mean_accuracy(a) - self.mean_accuracy(b)
        return {
            "difference": difference,
            "low": low,
            "high": high,
            "test": PROPORTIONS_TEST,
            "p": p,
            "p_mcnemar": np.nan,
        }

    def mean_accuracy(self, key: str) -> float:
        """The mean over runs."""
        return float(np.mean(self._run_accuracies[key]))

    def has_groups(self, key: str) -> bool:
        return key in self._image_correctness and bool(
            self._image_correctness[key]["group"].notna().any()
        )


def _equal_or_both_missing(a: object, b: object) -> bool:
    return bool(a == b or (pd.isna(a) and pd.isna(b)))  # type: ignore[call-overload]


def _correctness_by_image(rows: pd.DataFrame) -> pd.DataFrame:
    """By image: `correct`, the mean over repeats, its `fold`, its `group` (or null), and its `unit`, the group or else the
    image itself."""
    rows = rows.assign(correct=rows["label"].eq(rows["prediction"]).astype(float))
    images = rows.groupby("image").agg(
        correct=("correct", "mean"), group=("group", "first"), fold=("fold", "first")
    )
    return images.assign(unit=images["group"].fillna(pd.Series(images.index, index=images.index)))


def _t_test_columns(difference: pd.Series, variance: Variance, units: int) -> dict[str, Any]:
    low, high, p = t_test(difference.mean(), variance, units)
    return {"low": max(low, -1.0), "high": min(high, 1.0), "p": p, "p_mcnemar": np.nan}


def _mcnemar_columns(x: pd.Series, y: pd.Series) -> dict[str, Any]:
    """The exact test, and Bonett & Price's interval (2012), of two runs that were right (1) or wrong (0) on each image."""
    n, ours, theirs = len(x), int((x > y).sum()), int((x < y).sum())
    p = float(mcnemar([[0, ours], [theirs, 0]], exact=True).pvalue)  # type: ignore[attr-defined]
    more, less = (ours + 1) / (n + 2), (theirs + 1) / (n + 2)
    half = float(
        norm.ppf((1 + CONFIDENCE_LEVEL) / 2) * np.sqrt((more + less - (more - less) ** 2) / (n + 2))
    )
    return {
        "low": more - less - half,
        "high": more - less + half,
        "test": MCNEMAR_TEST,
        "p": p,
        "p_mcnemar": p,
    }


def _add_verdicts(table: pd.DataFrame, arms: _PairedComparisons) -> pd.DataFrame:
    """Add what depends on all pairs: corrected p-values, verdicts, claims."""
    p = table["p"].astype(float)
    tested = p.notna()
    corrected = pd.Series(np.nan, index=table.index)
    if tested.any():
        corrected[tested] = multipletests(p[tested], method="holm")[1]
    holds = corrected.lt(SIGNIFICANCE_LEVEL).astype(object).where(tested, None)
    table = table.assign(
        p=p, p_mcnemar=table["p_mcnemar"].astype(float), p_holm=corrected, holds=holds
    )
    return table.assign(claim=list(_verdict_texts(table, arms)))


def _verdict_texts(table: pd.DataFrame, arms: _PairedComparisons) -> Iterator[str]:
    for row in table.to_dict("records"):
        reason = arms.why_not_comparable(row["a"], row["b"])
        yield (
            f"not compared: {reason}"
            if reason
            else _verdict_text(
                row, _epochs_note(arms.first_rows[row[side]]["epochs"] for side in "ab")
            )
        )


def _verdict_text(row: dict, lengths: str) -> str:
    shares = f"{row['accuracy_a']:.1%} and {row['accuracy_b']:.1%} of {row['n']} images{lengths}".replace(
        "%", " %"
    )
    p = f"{_format_p('p', row['p'])} ({_format_p('Holm', row['p_holm'])})"
    if not row["holds"]:
        cause = (
            " (a difference over single images, but not over groups)"
            if row["p_mcnemar"] < SIGNIFICANCE_LEVEL <= row["p"]
            else ""
        )
        return f"{shares}: not distinguishable, {p}{cause}"
    better = row["difference"] > 0
    low, high = sorted(100 * (1 if better else -1) * row[name] for name in ("low", "high"))
    interval = "" if np.isnan(low) else f" [{low:.1f}, {high:.1f}]"
    return f"{shares}: {'better' if better else 'worse'} by {100 * abs(row['difference']):.1f} points{interval}, {p}"


def _format_p(name: str, p: float) -> str:
    return f"{name} < 0.001" if p < 0.001 else f"{name} = {p:.2g}"


def _epochs_note(epochs: Iterable[int]) -> str:
    a, b = epochs
    return f" (after {a} and {b} epochs)" if a != b else ""
