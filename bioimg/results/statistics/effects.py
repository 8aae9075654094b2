"""The effect of each axis on the test accuracy: least squares over completed trials."""

import warnings
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t
from statsmodels.regression.linear_model import OLS, RegressionResultsWrapper
from statsmodels.tools.sm_exceptions import SingularMatrixWarning

from bioimg.results.configurations import varying_fields
from bioimg.results.result_store import Results
from bioimg.results.statistics.standard_error import (
    UnitSample,
    Variance,
    nadeau_bengio_factor,
    t_interval,
)

EFFECT_COLUMNS = ("axis", "level", "reference", "n", "effect", "low", "high", "p")
MAX_LEVELS = 20
"""Axes with more levels are left out."""

Terms = dict[str, pd.DataFrame]
"""Indicators [trials, levels] by axis or interaction, with the reference level in `attrs`."""


def estimate_effects(results: Results) -> pd.DataFrame:
    """Estimate the mean effect of each axis and two-way interaction on the test accuracy.

    A level's effect is its mean difference from the axis's first level, with the other axes held
    fixed, as a fraction. An interaction, `a:b`, is what both levels together add to the sum of
    their effects. n is the number of completed trials at that level.

    Intervals (Student's t) and uncorrected p-values cover what the model leaves unexplained and, if
    there are predictions, the sampling of test images (or groups). They are null if no degree of
    freedom is left, with as many effects as trials. An effect that the completed trials can't
    separate from others is null, and such an interaction is left out.
    """
    trials = results.trials
    is_completed = trials["status"].eq("completed")
    completed = trials[is_completed & trials["test_accuracy"].notna()]
    terms: Terms = {}
    for axis in varying_fields(completed):
        if completed[axis].nunique(dropna=False) <= MAX_LEVELS:
            terms[axis] = _level_indicators(completed[axis])
    shares = _accuracy_contributions(results.predictions, completed["key"])
    rows: list[dict[str, object]] = []
    if terms:
        rows += _estimate_terms(completed, shares, terms, list(terms))
    # each interaction in a model of its own: a grid is too small for all at once
    for a, b in combinations(terms, 2):
        name = f"{a}:{b}"
        with_interaction = {**terms, name: _interaction_indicators(terms[a], terms[b])}
        estimates = _estimate_terms(completed, shares, with_interaction, [name])
        rows += [row for row in estimates if "effect" in row]
    return pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))


def _level_indicators(values: pd.Series) -> pd.DataFrame:
    """Return a column of 0 and 1 for each level but the first, which is the reference."""
    names = values.astype(str)
    reference, *others = names.drop_duplicates()
    table = pd.DataFrame({name: names.eq(name).astype(float) for name in others})
    table.attrs["reference"] = reference
    return table


def _interaction_indicators(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Return the products of the indicators, without combinations that no trial has."""
    products = {}
    for level_a, level_b in product(a, b):
        products[f"{level_a} and {level_b}"] = a[level_a] * b[level_b]
    table = pd.DataFrame(products, index=a.index)
    table = table.loc[:, table.any()]
    table.attrs["reference"] = "the sum of both effects"
    return table


def _accuracy_contributions(predictions: pd.DataFrame, keys: pd.Series) -> pd.DataFrame:
    """Return what each test image adds to the accuracy of each trial: [images, trials].

    The index is the unit (the group, else the image) and the image. The table is empty if a trial
    has no predictions.
    """
    is_test = predictions["subset"].eq("test")
    rows = predictions[is_test & predictions["key"].isin(keys)]
    if rows["key"].nunique() < len(keys):
        return pd.DataFrame()
    is_correct = rows["label"].eq(rows["prediction"])
    image_count = rows.groupby("key")["key"].transform("size")
    unit = rows["group"].fillna(rows["image"])
    rows = rows.assign(share=is_correct / image_count, unit=unit)
    table = rows.pivot_table(
        index=["unit", "image"], columns="key", values="share", aggfunc="sum", fill_value=0.0
    )
    return table.reindex(columns=keys)


class _Fit(NamedTuple):
    """A least-squares fit of the test accuracies of all completed trials."""

    regression: RegressionResultsWrapper
    inverse: np.ndarray
    """[coefficients, trials], the pseudo-inverse: each coefficient's weights of the accuracies."""
    is_estimable: np.ndarray
    """[coefficients], false where a column is a combination of others."""
    variance_factor: float
    """The factor for overlapping training sets."""
    shares: pd.DataFrame


def _estimate_terms(
    completed: pd.DataFrame, shares: pd.DataFrame, terms: Terms, wanted: list[str]
) -> list[dict[str, object]]:
    """Return the estimates of the wanted terms in a model of all terms."""
    fit = _fit_model(completed, shares, terms)
    rows = []
    coefficient = 0  # of the mean
    for axis, indicators in terms.items():
        for level in indicators:
            coefficient += 1
            if axis not in wanted:
                continue
            row: dict[str, object] = {
                "axis": axis,
                "level": level,
                "reference": indicators.attrs["reference"],
                "n": int(indicators[level].sum()),
            }
            if fit.is_estimable[coefficient]:
                row |= _estimate_effect(fit, coefficient)
            rows.append(row)
    return rows


def _fit_model(completed: pd.DataFrame, shares: pd.DataFrame, terms: Terms) -> _Fit:
    mean = pd.Series(1.0, completed.index, name="mean")
    design = pd.concat([mean, *terms.values()], axis=1).to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularMatrixWarning)
        regression = OLS(completed["test_accuracy"].to_numpy(), design).fit()
    inverse = np.linalg.pinv(design)
    # if the columns are independent, the inverse gives each coefficient back
    recovered = np.isclose(inverse @ design, np.eye(design.shape[1]))
    is_estimable = np.all(recovered, axis=1)
    test_train_ratio = completed["test_images"].mean() / completed["train_images"].mean()
    factor = nadeau_bengio_factor(completed["fold"].nunique(), test_train_ratio)
    return _Fit(regression, inverse, is_estimable, factor, shares)


def _estimate_effect(fit: _Fit, coefficient: int) -> dict[str, object]:
    """Return an effect, with an interval and a p-value where its error can be estimated."""
    regression = fit.regression
    effect = float(regression.params[coefficient])
    units = len(fit.shares.index.unique("unit")) if len(fit.shares) else 0
    if regression.df_resid < 1 or units == 1:
        return {"effect": effect}
    error = float(regression.bse[coefficient])
    variance = Variance(error**2, regression.df_resid)
    variance *= fit.variance_factor
    if units:
        # the effect is a weighted sum of accuracies, so it is a sum over images, too
        weights = fit.inverse[coefficient]
        contributions = pd.Series(fit.shares.to_numpy() @ weights, fit.shares.index)
        variance += UnitSample(contributions.index.get_level_values("unit")).variance(contributions)
    low, high = t_interval(effect, variance)
    p = np.nan
    if not np.isnan(low):
        statistic = abs(effect) / np.sqrt(variance.value)
        p = float(2 * t.sf(statistic, variance.degrees_of_freedom))
    return {"effect": effect, "low": low, "high": high, "p": p}
