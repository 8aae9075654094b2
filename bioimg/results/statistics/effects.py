"""The effect of each axis on the test accuracy: least squares over completed trials."""

import warnings
from itertools import combinations

import numpy as np
import pandas as pd
from statsmodels.regression.linear_model import OLS, RegressionResultsWrapper
from statsmodels.tools.sm_exceptions import SingularMatrixWarning

from bioimg.results.configurations import varying_fields
from bioimg.results.result_store import Results
from bioimg.results.statistics.standard_error import (
    Variance,
    image_variance,
    nadeau_bengio_factor,
    t_test,
)

EFFECT_COLUMNS = ("axis", "level", "reference", "n", "effect", "low", "high", "p")
MAX_LEVELS = 20


def estimate_effects(results: Results) -> pd.DataFrame:
    """Mean effect of each axis and the two-way interactions on the test accuracy, as fractions.

    A level's effect is its mean difference from the axis's first level, with the other axes held fixed. An interaction, `a:b`,
    is what both levels together add to the sum of their effects. Intervals (Student's t) and uncorrected p-values cover what
    the model leaves unexplained and, if there are predictions, the sampling of test images (or groups). They are null if no
    degree of freedom is left (as many effects as trials). An effect that the completed trials can't separate from others is
    null, and such an interaction is left out. n: completed trials at that level. Axes of more than 20 levels are left out.
    """
    completed = results.trials[
        results.trials["status"].eq("completed") & results.trials["test_accuracy"].notna()
    ]
    axes = [
        axis
        for axis in varying_fields(completed)
        if completed[axis].nunique(dropna=False) <= MAX_LEVELS
    ]
    levels = {axis: _level_indicators(completed[axis]) for axis in axes}
    shares = _accuracy_contributions(results.predictions, completed["key"])
    rows = _estimate_terms(completed, shares, levels, list(levels)) if axes else []
    for a, b in combinations(axes, 2):
        cross = {f"{a}:{b}": _interaction_indicators(levels[a], levels[b])}
        rows += [
            row
            for row in _estimate_terms(completed, shares, levels | cross, list(cross))
            if "effect" in row
        ]
    return pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))


def _level_indicators(values: pd.Series) -> pd.DataFrame:
    """0 or 1 for each level but the first, which is the reference (its name is in `attrs`)."""
    names = values.astype(str)
    first, *others = names.drop_duplicates()
    table = pd.DataFrame({name: names.eq(name).astype(float) for name in others})
    table.attrs["reference"] = first
    return table


def _interaction_indicators(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    products = {f"{x} and {y}": a[x] * b[y] for x in a for y in b}
    table = pd.DataFrame(
        {name: both for name, both in products.items() if both.any()}, index=a.index
    )
    table.attrs["reference"] = "the sum of both effects"
    return table


def _accuracy_contributions(predictions: pd.DataFrame, keys: pd.Series) -> pd.DataFrame:
    """What each test image adds to the accuracy of each trial: [images, trials], indexed by unit (group, else image) and image;
    empty if some trial has no predictions."""
    rows = predictions[predictions["subset"].eq("test") & predictions["key"].isin(keys)]
    if rows["key"].nunique() < len(keys):
        return pd.DataFrame()
    right = rows["label"].eq(rows["prediction"]) / rows.groupby("key")["key"].transform("size")
    rows = rows.assign(share=right, unit=rows["group"].fillna(rows["image"]))
    table = rows.pivot_table(
        index=["unit", "image"], columns="key", values="share", aggfunc="sum", fill_value=0.0
    )
    return table.reindex(columns=keys)


def _estimate_terms(
    completed: pd.DataFrame, shares: pd.DataFrame, terms: dict[str, pd.DataFrame], wanted: list[str]
) -> list[dict[str, object]]:
    """The estimates of the wanted terms in a model of all terms."""
    design = pd.concat(
        [pd.Series(1.0, completed.index, name="mean"), *terms.values()], axis=1
    ).to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularMatrixWarning)
        fit, inverse = (
            OLS(completed["test_accuracy"].to_numpy(), design).fit(),
            np.linalg.pinv(design),
        )
    estimable = np.all(
        np.isclose(inverse @ design, np.eye(design.shape[1])), axis=1
    )  # other columns are combinations
    widened = nadeau_bengio_factor(
        completed["fold"], completed["test_images"].mean() / completed["train_images"].mean()
    )
    places = {
        term: place
        for place, term in enumerate(((t, level) for t in terms for level in terms[t]), start=1)
    }
    return [
        {
            "axis": axis,
            "level": level,
            "reference": terms[axis].attrs["reference"],
            "n": int(terms[axis][level].sum()),
        }
        | (
            _estimate_effect(fit, place, shares, inverse[place], widened)
            if estimable[place]
            else {}
        )
        for (axis, level), place in places.items()
        if axis in wanted
    ]


def _estimate_effect(
    fit: RegressionResultsWrapper,
    place: int,
    shares: pd.DataFrame,
    weights: np.ndarray,
    widened: float,
) -> dict[str, object]:
    """An effect, the sum of accuracies with `weights` [trials]; no interval where nothing tells how far it may be off."""
    effect, units = float(fit.params[place]), len(shares.index.unique("unit")) if len(shares) else 0
    if fit.df_resid < 1 or units == 1:
        return {"effect": effect}
    variance = Variance(float(fit.bse[place]) ** 2, fit.df_resid) * widened
    if units:  # a sum over trials is one over images, too
        contributions = pd.Series(shares.to_numpy() @ weights, shares.index)
        variance += image_variance(contributions, contributions.index.to_frame()["unit"])
    low, high, p = t_test(effect, variance, units)
    return {
        "effect": effect,
        "low": low,
        "high": high,
        "p": p if units or not np.isnan(low) else np.nan,
    }
