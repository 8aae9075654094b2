"""The effect of each axis on the score of test images: least squares over completed trials."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import pandas as pd
from statsmodels.regression.linear_model import OLS
from statsmodels.tools.sm_exceptions import SingularMatrixWarning

from bioimg.results.configurations import varying_fields
from bioimg.results.result_store import Results
from bioimg.results.score import image_weights
from bioimg.results.statistics.configuration_outcomes import (
    ConfigurationOutcome,
    measure_configurations,
)
from bioimg.results.statistics.standard_error import (
    StandardError,
    UnitSample,
    Variance,
    nadeau_bengio_factor,
)

EFFECT_COLUMNS = (
    "axis",
    "level",
    "reference",
    "n",
    "effect",
    "low",
    "high",
    "p",
    "reason",
    "missing",
)
MAX_LEVELS = 20
"""Axes with more levels are left out."""


def estimate_effects(results: Results) -> pd.DataFrame:
    """Estimate the mean effect of each axis and two-way interaction on the score of test images.

    A level's effect is its mean difference from the axis's first level, with the other axes held
    fixed, as a fraction. An interaction, `a:b`, is what both levels together add to the sum of
    their effects. n is the number of completed trials at that level.

    Intervals (Student's t) and uncorrected p-values cover what the model leaves unexplained and, if
    there are predictions, the sampling of test images (or groups). They are null if no degree of
    freedom is left, with as many effects as trials, and with one group.

    reason: why the effect is null; empty if it isn't.
        stopped: early stopping ended trials that the effect averages over, so only better ones are
            left.
        failed: of a setting that the effect averages over no trial could be completed.
        score: trials are measured by different scores.
        inseparable: completed trials can't separate it from others. An interaction is left out.
    missing: the keys of the stopped or failed trials.
    """
    trials = results.trials
    axes = pd.DataFrame(index=trials.index)
    for name in varying_fields(trials, results.tuned_fields):
        if trials[name].nunique(dropna=False) <= MAX_LEVELS:
            axes[name] = trials[name].astype(str)
    outcomes = list(measure_configurations(results).values())
    if axes.empty or not outcomes:
        return pd.DataFrame(columns=list(EFFECT_COLUMNS))

    terms = [term for name in axes for term in _level_terms(axes[name])]
    rows = _estimate_terms(trials, axes, outcomes, terms, terms)
    # each interaction in a model of its own: a grid is too small for all at once
    for a, b in combinations(axes, 2):
        wanted = _interaction_terms(axes[a], axes[b])
        estimates = _estimate_terms(trials, axes, outcomes, [*terms, *wanted], wanted)
        rows += [row for row in estimates if row["reason"] != "inseparable"]
    return pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))


@dataclass(frozen=True, eq=False)
class _Term:
    """One column of a linear model, which is one effect.

    indicator: [trials], 1 at the level, else 0.
    averaged: bool [trials], the trials of the settings that the effect averages over.
    """

    axis: str
    level: str
    reference: str
    indicator: pd.Series
    averaged: pd.Series


def _level_terms(values: pd.Series) -> list[_Term]:
    """Return a term for each level of an axis but the first, which is the reference."""
    reference, *levels = values.drop_duplicates()
    terms = []
    for level in levels:
        is_level = values.eq(level)
        averaged = is_level | values.eq(reference)
        terms.append(_Term(str(values.name), level, reference, is_level.astype(float), averaged))
    return terms


def _interaction_terms(a: pd.Series, b: pd.Series) -> list[_Term]:
    """Return a term for each combination of levels, without those that no trial has."""
    terms = []
    for of_a, of_b in product(_level_terms(a), _level_terms(b)):
        indicator = of_a.indicator * of_b.indicator
        if indicator.any():
            level = f"{of_a.level} and {of_b.level}"
            averaged = of_a.averaged & of_b.averaged
            name = f"{a.name}:{b.name}"
            terms.append(_Term(name, level, "the sum of both effects", indicator, averaged))
    return terms


def _estimate_terms(
    trials: pd.DataFrame,
    axes: pd.DataFrame,
    outcomes: Sequence[ConfigurationOutcome],
    terms: Sequence[_Term],
    wanted: Sequence[_Term],
) -> list[dict[str, object]]:
    """Return one row for each wanted term, from a model of all terms."""
    model = _LinearModel(outcomes, terms)
    rows = []
    for term in wanted:
        is_completed = trials["status"].eq("completed")
        row: dict[str, object] = {
            "axis": term.axis,
            "level": term.level,
            "reference": term.reference,
            "n": int((term.indicator.astype(bool) & is_completed).sum()),
            "missing": (),
        }
        reason, keys = _find_lost_trials(trials, axes, term.averaged)
        if len({outcome.score_used for outcome in outcomes}) > 1:
            row["reason"] = "score"
        elif reason:
            row |= {"reason": reason, "missing": keys}
        else:
            row |= model.estimate(terms.index(term) + 1)
        rows.append(row)
    return rows


def _find_lost_trials(
    trials: pd.DataFrame, axes: pd.DataFrame, averaged: pd.Series
) -> tuple[str, tuple[str, ...]]:
    """Return why, and the keys of which, trials are missing from an average; else nothing.

    A setting of which some repeats failed still counts: that doesn't depend on how good they were.
    """
    status = trials["status"]
    stopped = trials.loc[averaged & status.eq("stopped"), "key"]
    if len(stopped):
        return "stopped", tuple(stopped)
    settings = axes.apply(tuple, axis=1)
    is_known = settings.isin(settings[status.eq("completed")])
    failed = trials.loc[averaged & status.eq("failed") & ~is_known, "key"]
    return ("failed" if len(failed) else ""), tuple(failed)


class _LinearModel:
    """A least-squares fit of the scores of all completed trials."""

    def __init__(self, outcomes: Sequence[ConfigurationOutcome], terms: Sequence[_Term]) -> None:
        runs = pd.concat([outcome.runs for outcome in outcomes]).sort_index()
        columns = [np.ones(len(runs))]
        columns += [term.indicator.loc[runs.index].to_numpy() for term in terms]
        design = np.column_stack(columns)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SingularMatrixWarning)
            self._regression = OLS(runs["run_score"].to_numpy(), design).fit()
        # each coefficient's weights of the scores: [coefficients, trials]
        self._inverse = np.linalg.pinv(design)
        # if the columns are independent, the inverse gives each coefficient back
        recovered = np.isclose(self._inverse @ design, np.eye(design.shape[1]))
        self._is_estimable = np.all(recovered, axis=1)
        test_train_ratio = runs["test_images"].mean() / runs["train_images"].mean()
        self._fold_factor = nadeau_bengio_factor(runs["fold"].nunique(), test_train_ratio)
        self._images = _image_contributions(outcomes, runs["key"])

    def estimate(self, coefficient: int) -> dict[str, object]:
        """Return an effect, with an interval and a p-value where its error can be estimated."""
        if not self._is_estimable[coefficient]:
            return {"reason": "inseparable"}
        effect = float(self._regression.params[coefficient])
        error = self._error(coefficient)
        if error is None or not error.has_spread:
            return {"effect": effect, "reason": ""}
        low, high = error.interval(effect)
        p = error.p_value(effect)
        return {"effect": effect, "low": low, "high": high, "p": p, "reason": ""}

    def _error(self, coefficient: int) -> StandardError | None:
        """Return the standard error of an effect; None if it can't be estimated."""
        freedom = self._regression.df_resid
        if freedom < 1:
            return None
        unexplained = float(self._regression.bse[coefficient]) ** 2
        variance = Variance(unexplained, freedom) * self._fold_factor
        if self._images is None:
            return StandardError(variance)
        sample = UnitSample(
            self._images.index.get_level_values("unit"),
            self._images.index.get_level_values("stratum"),
        )
        if not sample.has_spread:
            return None
        # the effect is a weighted sum of scores, so it is a sum over images, too
        contributions = self._images.to_numpy() @ self._inverse[coefficient]
        return StandardError(variance, sample.variance(contributions))


def _image_contributions(
    outcomes: Sequence[ConfigurationOutcome], keys: pd.Series
) -> pd.DataFrame | None:
    """Return what each test image adds to the score of each trial: [images, trials].

    The index is the unit (the group, else the image), the stratum (the class, if the score weighs
    classes) and the image. None if a trial has no predictions.
    """
    tables = []
    for outcome in outcomes:
        if outcome.images is None or outcome.predictions is None:
            return None
        rows = outcome.predictions
        unit = rows["group"].fillna(rows["image"])
        is_balanced = outcome.score_used == "balanced_accuracy"
        tables.append(rows.assign(unit=unit, stratum=rows["label"] if is_balanced else 0))
    rows = pd.concat(tables)
    weight = rows.groupby("key")["label"].transform(
        lambda labels: image_weights(labels.to_numpy(), outcomes[0].score_used)
    )
    share = weight * rows["label"].eq(rows["prediction"])
    table = rows.assign(share=share).pivot_table(
        index=["unit", "stratum", "image"], columns="key", values="share", fill_value=0.0
    )
    return table.reindex(columns=keys)
