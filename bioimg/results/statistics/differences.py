"""Which differences of test accuracy hold, and in which words they may be claimed.

Configurations are compared on the same test images, with their repeats (seeds, folds) averaged image by image. Holm's
correction is over the pairs of one call. Where groups are known a difference holds only if its interval, bootstrapped over
groups, excludes 0 as well, since no test on single images knows that those of one slide resemble each other.
"""

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ttest_rel
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

from bioimg.results.configurations import configurations
from bioimg.results.statistics.intervals import Resamples
from bioimg.results.store import Results

ALPHA = 0.05
SAME = {"data_fingerprint": "data", "split": "split", "group_pattern": "group pattern", "test_images": "test set"}
COLUMNS = (
    *("a", "b", "n", "runs_a", "runs_b", "accuracy_a", "accuracy_b", "difference", "low", "high"),
    *("test", "p_mcnemar", "p", "p_holm", "holds", "claim"),
)
ONE_GROUP = "all test images are of one group, so nothing can be said about others"
MCNEMAR, PAIRED_T, PROPORTIONS = "exact McNemar", "paired t over images", "two proportions, unpaired"


def best(results: Results) -> str | None:
    """The configuration (key of its first trial) that validation chose: the lowest validation loss, averaged over repeats.

    Only those are chosen from which were completed in the most folds and, of these, of which the largest share of repeats was
    completed: the repeats that early stopping spares are the lucky ones, and folds differ in how easy they are.
    The test set has no say in it. None where no trial was completed.
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
    n:          test images; difference, low, high: accuracy of a minus that of b and its 95 % interval.
    p_mcnemar:  exact McNemar test, where both have one run each and their predictions are there; else null.
    p, test:    the p-value used and its test: McNemar's; with repeats a paired t-test over images (or groups) of their mean
                correctness; without predictions a test of two proportions, which wastes that the images are the same.
    p_holm:     p corrected for the number of pairs. holds: null where the rows must not be compared.
    claim:      what can be said, in words.
    """
    arms = _Arms(results)
    pairs = [(key, against) for key in arms.keys if key != against] if against else combinations(arms.keys, 2)
    table = pd.DataFrame([arms.compare(a, b) for a, b in pairs], columns=list(COLUMNS))
    return _judge(table, arms)


def ties_with_best(results: Results, pairs: pd.DataFrame | None = None) -> list[str]:
    """The best configuration by validation, then those of which the test set can't say that they differ from it.

    pairs: what `paired(results, best(results))` gave, to save doing it again.
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
    """What is compared: for each completed configuration its row, and on which test images it was right."""

    def __init__(self, results: Results) -> None:
        completed = _completed(results)
        measured = completed[completed["test_accuracy"].notna()]
        groups = measured.groupby("configuration", sort=False)
        first = measured[~measured["configuration"].duplicated()].set_index("configuration")
        self.rows: dict[str, dict[str, Any]] = first[[*SAME, "epochs"]].to_dict("index")  # type: ignore[assignment]
        self.runs = {str(key): int(size) for key, size in groups.size().items()}
        self.accuracy = {str(key): float(mean) for key, mean in groups["test_accuracy"].mean().items()}
        self.keys = list(self.rows)
        predictions = results.predictions[results.predictions["split"].eq("test")]
        joined = predictions.merge(measured[["key", "configuration"]], on="key")
        self._tests = {str(key): _correctness(rows) for key, rows in joined.groupby("configuration", sort=False)}
        self._resamples: dict[str, np.ndarray] = {}

    def refusal(self, a: str, b: str) -> str:
        """Why two configurations can't be compared; empty if they can."""
        others = [word for name, word in SAME.items() if not _equal(self.rows[a][name], self.rows[b][name])]
        if not others and a in self._tests and b in self._tests and not self._tests[a].index.equals(self._tests[b].index):
            others = ["test images"]
        if others:
            return f"they differ in {' and '.join(others)}"
        return ONE_GROUP if self.grouped(a) and self._tests[a]["unit"].nunique() == 1 else ""

    def compare(self, a: str, b: str) -> dict[str, object]:
        """One row of `paired`, all but what depends on the other pairs."""
        row: dict[str, object] = {"a": a, "b": b, "runs_a": self.runs[a], "runs_b": self.runs[b]}
        row |= {"accuracy_a": self.accuracy[a], "accuracy_b": self.accuracy[b], "n": int(self.rows[a]["test_images"])}
        if self.refusal(a, b):
            return row
        both = a in self._tests and b in self._tests
        return row | (self._paired(a, b) if both else self._unpaired(a, b))

    def _paired(self, a: str, b: str) -> dict[str, object]:
        x, y = self._tests[a]["correct"], self._tests[b]["correct"]
        low, high = self._interval(a, b)
        found = {"n": len(x), "accuracy_a": x.mean(), "accuracy_b": y.mean(), "difference": (x - y).mean()}
        single = self.runs[a] == self.runs[b] == 1
        p = _mcnemar(x, y) if single else _paired_t(x - y, self._tests[a]["unit"])
        test = MCNEMAR if single else PAIRED_T
        return found | {"low": low, "high": high, "test": test, "p": p, "p_mcnemar": p if single else np.nan}

    def _interval(self, a: str, b: str) -> tuple[float, float]:
        """Percentiles of the difference over resamples of groups; the same resamples for all pairs on the same images."""
        samples = self._resampled(a) - self._resampled(b)
        low, high = np.quantile(samples, [0.025, 0.975])
        return float(low), float(high)

    def _resampled(self, key: str) -> np.ndarray:
        """The accuracy of a configuration in each resample, computed for all that have the same test images at once."""
        if key not in self._resamples:
            test = self._tests[key]
            alike = [other for other, its in self._tests.items() if its[["unit"]].equals(test[["unit"]])]
            correct = np.column_stack([self._tests[other]["correct"] for other in alike])
            draws = Resamples.of(test["group"]).weights()
            samples = np.concatenate([weights @ correct / weights.sum(axis=1, keepdims=True) for weights in draws])
            self._resamples.update(zip(alike, samples.T, strict=True))
        return self._resamples[key]

    def _unpaired(self, a: str, b: str) -> dict[str, object]:
        counts = [round(self.accuracy[key] * self.rows[key]["test_images"]) for key in (a, b)]
        n = int(self.rows[a]["test_images"])
        low, high = confint_proportions_2indep(counts[0], n, counts[1], n, method="newcomb")
        p = 1.0 if counts[0] == counts[1] else float(proportions_ztest(counts, [n, n])[1])
        difference = self.accuracy[a] - self.accuracy[b]
        return {"difference": difference, "low": low, "high": high, "test": PROPORTIONS, "p": p, "p_mcnemar": np.nan}

    def grouped(self, key: str) -> bool:
        return key in self._tests and bool(self._tests[key]["group"].notna().any())


def _equal(a: object, b: object) -> bool:
    return bool(a == b or (pd.isna(a) and pd.isna(b)))  # type: ignore[call-overload]


def _correctness(rows: pd.DataFrame) -> pd.DataFrame:
    """By image: `correct`, the mean over repeats, its `group` (or null), and its `unit`, the group or else the image itself."""
    rows = rows.assign(correct=rows["label"].eq(rows["prediction"]).astype(float))
    images = rows.groupby("image").agg(correct=("correct", "mean"), group=("group", "first"))
    return images.assign(unit=images["group"].fillna(pd.Series(images.index, index=images.index)))


def _mcnemar(x: pd.Series, y: pd.Series) -> float:
    table = [[int((x * y).sum()), int((x * (1 - y)).sum())], [int(((1 - x) * y).sum()), int(((1 - x) * (1 - y)).sum())]]
    return float(mcnemar(table, exact=True).pvalue)  # type: ignore[attr-defined]


def _paired_t(difference: pd.Series, unit: pd.Series) -> float:
    means = difference.groupby(unit).mean()
    return float(ttest_rel(means, np.zeros(len(means))).pvalue) if means.nunique() > 1 else 1.0 - float(means.iloc[0] != 0)


def _judge(table: pd.DataFrame, arms: _Arms) -> pd.DataFrame:
    """Fill in what follows from all pairs together: corrected p-values, verdicts, words."""
    p = table["p"].astype(float)
    tested = p.notna()
    corrected = pd.Series(np.nan, index=table.index)
    if tested.any():
        corrected[tested] = multipletests(p[tested], method="holm")[1]
    excludes = (table["low"].astype(float) > 0) | (table["high"].astype(float) < 0)
    grouped = table["a"].map(arms.grouped).astype(bool)
    holds = (corrected.lt(ALPHA) & (excludes | ~grouped)).astype(object).where(tested, None)
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
        cause = " (single images differ, groups of them don't)" if row["p_holm"] < ALPHA else ""
        return f"{shares}: not distinguishable, {p}{cause}"
    better = row["difference"] > 0
    low, by, high = sorted(100 * (1 if better else -1) * row[name] for name in ("low", "difference", "high"))
    return f"{shares}: {'better' if better else 'worse'} by {by:.1f} points [{low:.1f}, {high:.1f}], {p}"


def _p(name: str, p: float) -> str:
    return f"{name} < 0.001" if p < 0.001 else f"{name} = {p:.2g}"


def _lengths(epochs: Iterable[int]) -> str:
    a, b = epochs
    return f" (after {a} and {b} epochs)" if a != b else ""
