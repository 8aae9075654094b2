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

from bioimg.results.configurations import configurations
from bioimg.results.statistics.intervals import LEVEL
from bioimg.results.statistics.standard_error import Variance, of_images, of_runs, overlap, t_test
from bioimg.results.store import Results

ALPHA = 0.05
SAME = {"data_fingerprint": "data", "split": "split", "group_pattern": "group pattern"}
COLUMNS = (
    *("a", "b", "n", "runs_a", "runs_b", "accuracy_a", "accuracy_b", "difference", "low", "high"),
    *("test", "p_mcnemar", "p", "p_holm", "holds", "claim"),
)
ONE_GROUP = "all test images are of one group, so nothing can be said about other groups"
UNEVEN = "early stopping ended different shares of their runs, and those that it spares are the lucky ones (see --finish)"
ONE_IMAGE = "there is only one test image"
MCNEMAR, PROPORTIONS = "exact McNemar", "two proportions, unpaired"
OVER_GROUPS, OVER_FOLDS = "t over groups", "corrected t over folds"
OVER_RUNS = {False: "t over images and runs", True: "t over groups and runs"}


def best(results: Results) -> str | None:
    """The configuration (key of its first trial) that validation chose: the lowest validation loss, averaged over repeats.

    Only configurations completed in the most folds and, among these, with the largest share of completed repeats are eligible:
    the repeats that early stopping spares are the lucky ones, and some folds are easier than others.
    The test set isn't used. None if no trial was completed.
    """
    trials, completed = _configured(results), _completed(results)
    repeats = completed[completed["best_val_loss"].notna()].groupby("configuration", sort=False)
    seen = pd.DataFrame({"loss": repeats["best_val_loss"].mean(), "folds": repeats["fold"].nunique(), "runs": repeats.size()})
    seen["share"] = seen["runs"] / trials.groupby("configuration").size()
    for most in ("folds", "share"):
        seen = seen[seen[most].eq(seen[most].max())]
    return None if seen.empty else str(seen["loss"].idxmin())


def paired(results: Results, against: str | None = None) -> pd.DataFrame:
    """Compare completed configurations in pairs: every pair, or all with one.

    a, b:       keys of the configurations' first trials; with `against`, b is that one.
    n:          test images; difference, low, high: accuracy of a minus that of b and its 95 % interval (uncorrected).
    p_mcnemar:  exact McNemar test, if both have one run each with predictions; else null.
    p, test:    the p-value used and its test, as above; without predictions a test of two proportions, which ignores that
                the images are the same.
    p_holm:     p corrected for the number of pairs. holds: null if the rows must not be compared.
    claim:      what can be said, in words.
    """
    arms = _Arms(results)
    pairs = [(key, against) for key in arms.keys if key != against] if against else combinations(arms.keys, 2)
    table = pd.DataFrame([arms.compare(a, b) for a, b in pairs], columns=list(COLUMNS))
    return _judge(table, arms)


def ties_with_best(results: Results, pairs: pd.DataFrame | None = None) -> list[str]:
    """The best configuration by validation, then those that the test set can't distinguish from it.

    pairs: the result of `paired(results, best(results))`, if it is already known.
    """
    key = best(results)
    if key is None:
        return []
    pairs = paired(results, key) if pairs is None else pairs
    return [key, *pairs.loc[pairs["holds"].eq(False), "a"]]


def _configured(results: Results) -> pd.DataFrame:
    return results.trials.assign(configuration=configurations(results.trials))


def _completed(results: Results) -> pd.DataFrame:
    trials = _configured(results)
    return trials[trials["status"].eq("completed")]


class _Arms:
    """What is compared: for each completed configuration its row, and which test images it got right."""

    def __init__(self, results: Results) -> None:
        completed = _completed(results)
        measured = completed[completed["test_accuracy"].notna()]
        groups = measured.groupby("configuration", sort=False)
        first = measured[~measured["configuration"].duplicated()].set_index("configuration")
        self.rows: dict[str, dict[str, Any]] = first[[*SAME, "epochs", "test_images"]].to_dict("index")  # type: ignore
        sizes = groups[["test_images", "train_images"]].mean()
        self._held_out: dict[str, float] = (sizes["test_images"] / sizes["train_images"]).to_dict()  # type: ignore
        self.runs = {str(key): int(size) for key, size in groups.size().items()}
        self._accuracies = {str(key): runs.to_list() for key, runs in groups["test_accuracy"]}
        self._stopped = _configured(results).groupby("configuration")["status"].agg(lambda states: states.eq("stopped").mean())
        self.keys = list(self.rows)
        predictions = results.predictions[results.predictions["split"].eq("test")]
        joined = predictions.merge(measured[["key", "configuration", "fold"]], on="key")
        self._tests = {str(key): _correctness(rows) for key, rows in joined.groupby("configuration", sort=False)}

    def refusal(self, a: str, b: str) -> str:
        """Why two configurations can't be compared; empty if they can."""
        others = [word for name, word in SAME.items() if not _equal(self.rows[a][name], self.rows[b][name])]
        if others:
            return f"they differ in {' and '.join(others)}"
        if not self._same_images(a, b):
            return "they differ in test images"
        if self._stopped[a] != self._stopped[b]:
            return UNEVEN
        if a in self._tests and self._tests[a]["unit"].nunique() == 1:
            return ONE_GROUP if self.grouped(a) else ONE_IMAGE
        return ""

    def _same_images(self, a: str, b: str) -> bool:
        """Whether both were tested on the same images; without predictions, on equally many."""
        if a in self._tests and b in self._tests:
            return self._tests[a].index.equals(self._tests[b].index)
        return self.rows[a]["test_images"] == self.rows[b]["test_images"]

    def compare(self, a: str, b: str) -> dict[str, Any]:
        """One row of `paired`, except what depends on the other pairs."""
        row: dict[str, Any] = {"a": a, "b": b, "runs_a": self.runs[a], "runs_b": self.runs[b]}
        row |= {"accuracy_a": self.accuracy(a), "accuracy_b": self.accuracy(b), "n": int(self.rows[a]["test_images"])}
        if self.refusal(a, b):
            return row
        both = a in self._tests and b in self._tests
        return row | (self._paired(a, b) if both else self._unpaired(a, b))

    def _paired(self, a: str, b: str) -> dict[str, Any]:
        one, other = self._tests[a], self._tests[b]
        x, y = one["correct"], other["correct"]
        found = {"n": len(x), "accuracy_a": x.mean(), "accuracy_b": y.mean(), "difference": (x - y).mean()}
        if one["fold"].nunique() > 1:
            return found | self._over_folds(a, x - y)
        if runs := of_runs(self._accuracies[a], self._accuracies[b]):
            variance = of_images((x - y) / len(x), one["unit"]) + runs
            return found | _t(x - y, variance, one["unit"].nunique()) | {"test": OVER_RUNS[self.grouped(a)]}
        return found | (self._over_groups(a, x, y) if self.grouped(a) else _mcnemar(x, y))

    def _over_groups(self, key: str, x: pd.Series, y: pd.Series) -> dict[str, Any]:
        """One run each on images of known groups."""
        units, single = self._tests[key]["unit"], _mcnemar(x, y)
        whole = {**_t(x - y, of_images((x - y) / len(x), units), units.nunique()), "test": OVER_GROUPS}
        both = {"low": float(np.fmin(whole["low"], single["low"])), "high": float(np.fmax(whole["high"], single["high"]))}
        return {**max(whole, single, key=lambda test: test["p"]), **both, "p_mcnemar": single["p"]}

    def _over_folds(self, key: str, difference: pd.Series) -> dict[str, Any]:
        folds = self._tests[key]["fold"]
        variance = of_images(difference / len(difference), folds) * overlap(folds, self._held_out[key])
        return {**_t(difference, variance, folds.nunique()), "test": OVER_FOLDS}

    def _unpaired(self, a: str, b: str) -> dict[str, Any]:
        counts = [round(self.accuracy(key) * self.rows[key]["test_images"]) for key in (a, b)]
        n = int(self.rows[a]["test_images"])
        low, high = confint_proportions_2indep(counts[0], n, counts[1], n, method="newcomb")
        p = 1.0 if counts[0] == counts[1] else float(proportions_ztest(counts, [n, n])[1])
        difference = self.accuracy(a) - self.accuracy(b)
        return {"difference": difference, "low": low, "high": high, "test": PROPORTIONS, "p": p, "p_mcnemar": np.nan}

    def accuracy(self, key: str) -> float:
        """The mean over runs."""
        return float(np.mean(self._accuracies[key]))

    def grouped(self, key: str) -> bool:
        return key in self._tests and bool(self._tests[key]["group"].notna().any())


def _equal(a: object, b: object) -> bool:
    return bool(a == b or (pd.isna(a) and pd.isna(b)))  # type: ignore[call-overload]


def _correctness(rows: pd.DataFrame) -> pd.DataFrame:
    """By image: `correct`, the mean over repeats, its `fold`, its `group` (or null), and its `unit`, the group or else the
    image itself."""
    rows = rows.assign(correct=rows["label"].eq(rows["prediction"]).astype(float))
    images = rows.groupby("image").agg(correct=("correct", "mean"), group=("group", "first"), fold=("fold", "first"))
    return images.assign(unit=images["group"].fillna(pd.Series(images.index, index=images.index)))


def _t(difference: pd.Series, variance: Variance, units: int) -> dict[str, Any]:
    low, high, p = t_test(difference.mean(), variance, units)
    return {"low": max(low, -1.0), "high": min(high, 1.0), "p": p, "p_mcnemar": np.nan}


def _mcnemar(x: pd.Series, y: pd.Series) -> dict[str, Any]:
    """The exact test, and Bonett & Price's interval (2012), of two runs that were right (1) or wrong (0) on each image."""
    n, ours, theirs = len(x), int((x > y).sum()), int((x < y).sum())
    p = float(mcnemar([[0, ours], [theirs, 0]], exact=True).pvalue)  # type: ignore[attr-defined]
    more, less = (ours + 1) / (n + 2), (theirs + 1) / (n + 2)
    half = float(norm.ppf((1 + LEVEL) / 2) * np.sqrt((more + less - (more - less) ** 2) / (n + 2)))
    return {"low": more - less - half, "high": more - less + half, "test": MCNEMAR, "p": p, "p_mcnemar": p}


def _judge(table: pd.DataFrame, arms: _Arms) -> pd.DataFrame:
    """Add what depends on all pairs: corrected p-values, verdicts, claims."""
    p = table["p"].astype(float)
    tested = p.notna()
    corrected = pd.Series(np.nan, index=table.index)
    if tested.any():
        corrected[tested] = multipletests(p[tested], method="holm")[1]
    holds = corrected.lt(ALPHA).astype(object).where(tested, None)
    table = table.assign(p=p, p_mcnemar=table["p_mcnemar"].astype(float), p_holm=corrected, holds=holds)
    return table.assign(claim=list(_claims(table, arms)))


def _claims(table: pd.DataFrame, arms: _Arms) -> Iterator[str]:
    for row in table.to_dict("records"):
        reason = arms.refusal(row["a"], row["b"])
        yield f"not compared: {reason}" if reason else _claim(row, _lengths(arms.rows[row[side]]["epochs"] for side in "ab"))


def _claim(row: dict, lengths: str) -> str:
    shares = f"{row['accuracy_a']:.1%} and {row['accuracy_b']:.1%} of {row['n']} images{lengths}".replace("%", " %")
    p = f"{_p('p', row['p'])} ({_p('Holm', row['p_holm'])})"
    if not row["holds"]:
        cause = " (a difference over single images, but not over groups)" if row["p_mcnemar"] < ALPHA <= row["p"] else ""
        return f"{shares}: not distinguishable, {p}{cause}"
    better = row["difference"] > 0
    low, high = sorted(100 * (1 if better else -1) * row[name] for name in ("low", "high"))
    interval = "" if np.isnan(low) else f" [{low:.1f}, {high:.1f}]"
    return f"{shares}: {'better' if better else 'worse'} by {100 * abs(row['difference']):.1f} points{interval}, {p}"


def _p(name: str, p: float) -> str:
    return f"{name} < 0.001" if p < 0.001 else f"{name} = {p:.2g}"


def _lengths(epochs: Iterable[int]) -> str:
    a, b = epochs
    return f" (after {a} and {b} epochs)" if a != b else ""
