"""Methods give the values of their papers and of other programs, which each docstring names."""

import numpy as np
import pytest
from statsmodels.regression.linear_model import OLS

from bioimg.config import TrialConfig
from bioimg.data.image_groups import count_effective_groups
from bioimg.results.statistics.configuration_outcomes import measure_configurations
from bioimg.results.statistics.intervals import mean_interval, rank_interval, wilson_interval
from bioimg.results.statistics.measures import rank_contributions
from bioimg.results.statistics.paired_tests import PairedSample, compare_proportions
from bioimg.results.statistics.standard_error import UnitSample
from support.simulated_results import simulated_results

A, B = TrialConfig(batch_size=1), TrialConfig(batch_size=2)
RATINGS = {"normal": (33, 6, 6, 11, 2), "abnormal": (3, 2, 2, 11, 33)}
"""Numbers of CT images by rating, from 1 to 5 (Hanley & McNeil 1982, Radiology 143, table I)."""


def rated_images() -> tuple[np.ndarray, np.ndarray]:
    """Return which images of `RATINGS` are abnormal, and their ratings."""
    ratings = [np.repeat(np.arange(1.0, 6), counts) for counts in RATINGS.values()]
    return np.repeat([False, True], [len(side) for side in ratings]), np.concatenate(ratings)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_is_that_of_newcombe(correct: int, n: int, low: float, high: float) -> None:
    """Newcombe 1998, Stat. Med. 17, 857-872, table I, method 3."""
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)


def test_interval_of_unpaired_difference_is_that_of_newcombe() -> None:
    """Newcombe 1998, Stat. Med. 17, 873-890, table II, method 10: 9 of 10 against 3 of 10."""
    correct = {A: np.arange(10) < 9, B: np.arange(10) < 3}
    a, b = measure_configurations(simulated_results(correct)).values()
    test = compare_proportions(a, b, None, 0.05)
    assert (test.low, test.high) == pytest.approx((0.1705, 0.8090), abs=5e-5)


def test_mover_gives_interval_of_difference_of_newcombe() -> None:
    """The same table: 56 of 70 against 48 of 80.

    With Wilson's limits MOVER is Newcombe's method 10 (Zou & Donner 2008, Stat. Med. 27). The mean
    of a share and of the other's complement is half of (1 + difference).
    """
    shares = np.array([56 / 70, 32 / 80])
    limits = np.array([wilson_interval(56, 70), wilson_interval(32, 80)])
    mean_limits = np.array(mean_interval(shares, limits[:, 0], limits[:, 1]))
    assert 2 * mean_limits - 1 == pytest.approx([0.0524, 0.3339], abs=5e-5)


def test_interval_of_paired_difference_is_that_of_bonett_and_price() -> None:
    """The example of `ci.prop.ps` in Bonett's R package statpsych: counts of 12, 4, 26 and 6."""
    only_a, only_b = (
        np.repeat([True, False], [26, 22]),
        np.repeat([False, True, False], [26, 4, 18]),
    )
    both = np.arange(48) >= 42
    outcomes = measure_configurations(simulated_results({A: only_a | both, B: only_b | both}))
    test = PairedSample(*outcomes.values(), None).run_tests(0.05)[0]
    assert (test.low, test.high) == pytest.approx((0.2548067, 0.6251933), abs=5e-8)


def test_area_and_variance_are_those_of_delong() -> None:
    """Stata's manual, `roctab` on the data of Hanley & McNeil: 0.8932, standard error 0.0307."""
    is_abnormal, ratings = rated_images()
    area, contributions = rank_contributions(is_abnormal, ratings)
    variance = UnitSample(np.arange(109), is_abnormal).variance(contributions)
    assert area == pytest.approx(0.8932, abs=5e-5)
    assert np.sqrt(variance.value) == pytest.approx(0.0307, abs=5e-5)


def test_limits_of_perfect_area_solve_equation_of_newcombe() -> None:
    """Newcombe 2006, Stat. Med. 25, 559-573, method 5, for 10 images against 20, all told apart.

    There the squared distance from 1 is the squared quantile times Hanley & McNeil's variance,
    with 14 in place of both numbers of images less one.
    """
    is_positive = np.arange(30) < 10
    area, contributions = rank_contributions(is_positive, is_positive.astype(float))
    low, high = rank_interval(area, contributions, is_positive)
    pairs = (1 - low) / (2 - low) + low / (1 + low)
    variance = low * (1 - low) * (1 + 14 * pairs) / (10 * 20)
    assert (1 - low) ** 2 == pytest.approx(1.959964**2 * variance, rel=1e-5)
    assert high == 1


def test_degrees_of_freedom_are_those_of_imbens_and_kolesar() -> None:
    """Imbens & Kolesár 2016, Rev. Econ. Stat. 98, 701-712: 2.5 for means of 27 and of 3 units."""
    sample = UnitSample(np.arange(30), np.repeat([0, 1], [27, 3]))
    assert sample.degrees_of_freedom == pytest.approx(2.5, abs=0.05)


@pytest.mark.parametrize("sizes", [(20, 3, 3, 2), (1, 1, 5, 30, 2), (7, 9), (200, 10, 10, 10, 10)])
def test_variance_and_degrees_of_freedom_are_those_of_clubsandwich(sizes: tuple[int, ...]) -> None:
    """The formulas that clubSandwich holds its CR2 to, in its file test_intercept_formulas.R."""
    n = np.array(sizes)
    units = np.repeat(np.arange(len(n)), n)
    values = np.random.default_rng(0).normal(0.1, 1, n.sum()) + units / 5
    variance = UnitSample(units).variance(values / n.sum())
    total = n.sum()
    distances = np.bincount(units, values) / n - values.mean()
    expected = np.sum(n**2 * distances**2 / (1 - n / total)) / total**2
    freedom = total**2 / (
        total**2 * np.sum(n**2 / (total - n) ** 2)
        - 2 * total * np.sum(n**3 / (total - n) ** 2)
        + np.sum(n**2 / (total - n)) ** 2
    )
    assert variance.value == pytest.approx(expected)
    assert variance.degrees_of_freedom == pytest.approx(freedom)
    assert count_effective_groups(map(str, units)) == pytest.approx(freedom + 1)


def test_variance_of_sum_of_means_is_hc2_of_statsmodels() -> None:
    """With images as units, CR2 is HC2 (MacKinnon & White 1985)."""
    strata = np.repeat([0, 1, 2], [30, 5, 12])
    values = np.random.default_rng(0).normal(strata, 1 + strata)
    means = OLS(values, np.eye(3)[strata]).fit(cov_type="HC2")
    variance = UnitSample(np.arange(47), strata).variance(values / np.bincount(strata)[strata])
    assert variance.value == pytest.approx(means.cov_params().sum())


def bell_mccaffrey(
    values: np.ndarray, units: np.ndarray, strata: np.ndarray
) -> tuple[float, float]:
    """Return variance and degrees of freedom of a sum of the strata's means.

    They follow from the matrices of Bell & McCaffrey (2002), with square roots of blocks of the
    matrix that makes residuals.
    """
    design = np.eye(strata.max() + 1)[strata]
    inverse = np.linalg.pinv(design)
    residual_maker = np.eye(len(values)) - design @ inverse
    residuals = residual_maker @ values
    variance = 0.0
    columns = []
    for unit in np.unique(units):
        rows = units == unit
        eigenvalues, vectors = np.linalg.eigh(residual_maker[np.ix_(rows, rows)])
        adjustment = vectors @ np.diag(eigenvalues**-0.5) @ vectors.T
        weights = adjustment @ inverse.sum(axis=0)[rows]
        variance += float(weights @ residuals[rows]) ** 2
        columns.append(residual_maker[:, rows] @ weights)
    products = np.array(columns) @ np.array(columns).T
    return variance, np.trace(products) ** 2 / np.sum(products**2)


@pytest.mark.parametrize("sizes", [(20, 3, 3, 2), (1, 1, 5, 30, 2), (7, 9), (4,) * 6])
@pytest.mark.parametrize("stratum_count", [1, 2])
def test_variance_of_unequal_units_is_bell_and_mccaffreys(
    sizes: tuple[int, ...], stratum_count: int
) -> None:
    units = np.repeat(np.arange(len(sizes)), sizes)
    strata = np.arange(len(units)) % stratum_count
    values = np.random.default_rng(0).normal(0.1, 1, len(units)) + units / 5
    variance = UnitSample(units, strata).variance(values / np.bincount(strata)[strata])
    expected_value, expected_freedom = bell_mccaffrey(values, units, strata)
    assert variance.value == pytest.approx(expected_value)
    assert variance.degrees_of_freedom == pytest.approx(expected_freedom)
