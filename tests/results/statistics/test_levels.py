"""How often reports claim what isn't so, and intervals miss the truth, on simulated results."""

import numpy as np
import pytest
from scipy.stats import norm

from bioimg.config import TrialConfig
from bioimg.results import statistics
from bioimg.results.result_store import Results
from support.simulated_results import simulated_results

REPORTS = 300
MAX_FALSE_REPORTS = 21
"""7 % of reports. At the level of 5 %, more are seen with 5 % of seeds; at 10 %, with 95 %."""
INTERVALS = 1000
MIN_COVERAGE = 0.93
"""Intervals that cover 95 % fall below it with 0.3 % of seeds; those that cover 91 %, with 99 %."""

SLIDES = {
    "ten of 30 images": [30] * 10,
    "one of 200 and four of 10 images": [200, *[10] * 4],
    "one of 300 and 19 of 10 images": [300, *[10] * 19],
    "30 of 300/i images": [300 // number for number in range(1, 31)],
}

HAM10000_CLASSES = (1006, 167, 165, 77, 49, 21, 17)
"""Images of each class in a test subset of 15 % (Tschandl et al. 2018, Sci. Data 5)."""


def two_classes_per_slide(slide_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the slides and labels of 300 images."""
    slides = np.repeat(np.arange(slide_count), 300 // slide_count)
    return slides, np.arange(300) % 2


def claims_difference(results: Results) -> bool:
    """Check whether a recipe is said to differ from the first."""
    pairs = statistics.compare_pairs(results, against=results.trials["key"].iloc[0])
    return pairs["verdict"].isin(["better", "worse"]).any()


def coverage(
    measure: str,
    truth: float,
    correct: np.ndarray,
    scores: np.ndarray | None = None,
    **more: np.ndarray,
) -> float:
    """Return the share of trials, [trials, images], whose interval covers the truth."""
    configs = [TrialConfig(batch_size=number) for number in range(1, len(correct) + 1)]
    by_config = dict(zip(configs, correct, strict=True))
    if scores is not None:
        more["scores"] = dict(zip(configs, scores, strict=True))
    table = statistics.configuration_scores(simulated_results(by_config, **more))
    covers = table[f"{measure}_low"].le(truth) & table[f"{measure}_high"].ge(truth)
    return covers.mean()


@pytest.mark.nightly
@pytest.mark.parametrize("recipe_count", [2, 12])
@pytest.mark.parametrize("sizes", SLIDES.values(), ids=SLIDES.keys())
def test_equal_recipes_rarely_differ_on_slides(sizes: list[int], recipe_count: int) -> None:
    random = np.random.default_rng(0)
    slides = np.repeat(np.arange(len(sizes)), sizes)
    configs = [TrialConfig(batch_size=number) for number in range(1, recipe_count + 1)]
    false_reports = 0
    for _ in range(REPORTS):
        difficulty = random.logistic(-2, 1, len(slides))
        # a recipe is better on some slides, but no recipe is better on average
        preference = random.normal(0, 1, (recipe_count, len(sizes)))[:, slides]
        correct = preference + random.logistic(0, 0.5, preference.shape) > difficulty
        results = simulated_results(dict(zip(configs, correct, strict=True)), groups=slides)
        false_reports += claims_difference(results)
    assert false_reports <= MAX_FALSE_REPORTS


@pytest.mark.nightly
@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_recipes_rarely_differ_if_runs_scatter(seeds: int) -> None:
    """Check 12 recipes whose runs scatter by 3 points."""
    random = np.random.default_rng(0)
    false_reports = 0
    for _ in range(REPORTS):
        difficulty = random.uniform(0.05, 0.25, 600)
        correct = {}
        for recipe in range(1, 13):
            for seed in range(seeds):
                chance = difficulty + random.normal(0, 0.03)
                correct[TrialConfig(batch_size=recipe, seed=seed)] = random.random(600) > chance
        false_reports += claims_difference(simulated_results(correct))
    assert false_reports <= MAX_FALSE_REPORTS


@pytest.mark.nightly
@pytest.mark.parametrize(("recipe_count", "seeds"), [(2, 2), (2, 3), (12, 3), (12, 5)])
def test_equal_recipes_rarely_differ_if_one_is_unstable(recipe_count: int, seeds: int) -> None:
    """Check recipes whose runs scatter by 2 points, and those of the first one by 6.

    12 recipes with two seeds each are too many: 8 % of their reports claim a difference.
    """
    random = np.random.default_rng(0)
    spreads = [0.06, *[0.02] * (recipe_count - 1)]
    false_reports = 0
    for _ in range(REPORTS):
        difficulty = random.uniform(0.05, 0.25, 600)
        correct = {}
        for recipe, spread in enumerate(spreads, start=1):
            for seed in range(seeds):
                chance = difficulty + random.normal(0, spread)
                correct[TrialConfig(batch_size=recipe, seed=seed)] = random.random(600) > chance
        false_reports += claims_difference(simulated_results(correct))
    assert false_reports <= MAX_FALSE_REPORTS


@pytest.mark.nightly
@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("sizes", SLIDES.values(), ids=SLIDES.keys())
def test_equal_recipes_rarely_differ_on_slides_with_seeds(sizes: list[int], seeds: int) -> None:
    """Check six recipes that prefer some slides, as each of their runs does."""
    random = np.random.default_rng(0)
    slides = np.repeat(np.arange(len(sizes)), sizes)
    false_reports = 0
    for _ in range(REPORTS):
        difficulty = random.logistic(-2, 1, len(slides))
        correct = {}
        for recipe in range(1, 7):
            preference = random.normal(0, 0.7, len(sizes))
            for seed in range(seeds):
                of_run = preference + random.normal(0, 0.3) + random.normal(0, 0.5, len(sizes))
                ability = of_run[slides] + random.logistic(0, 0.5, len(slides))
                correct[TrialConfig(batch_size=recipe, seed=seed)] = ability > difficulty
        false_reports += claims_difference(simulated_results(correct, groups=slides))
    assert false_reports <= MAX_FALSE_REPORTS


@pytest.mark.nightly
@pytest.mark.parametrize("recipe_count", [2, 6])
@pytest.mark.parametrize("sizes", SLIDES.values(), ids=SLIDES.keys())
def test_equal_recipes_rarely_differ_in_folds_of_few_slides(
    sizes: list[int], recipe_count: int
) -> None:
    """Check five folds of whole slides, in each of which a recipe's model is better or worse."""
    random = np.random.default_rng(0)
    slides = np.repeat(np.arange(len(sizes)), sizes)
    folds = slides % 5
    false_reports = 0
    for _ in range(REPORTS):
        difficulty = random.logistic(-2, 1, len(slides))
        correct = {}
        for recipe in range(1, recipe_count + 1):
            preference = random.normal(0, 1, len(sizes))[slides]
            ability = preference + random.normal(0, 0.3, 5)[folds]
            is_correct = ability + random.logistic(0, 0.5, len(slides)) > difficulty
            for fold in range(5):
                correct[TrialConfig(batch_size=recipe, folds=5, fold=fold)] = is_correct
        results = simulated_results(correct, groups=slides, folds=folds)
        false_reports += claims_difference(results)
    assert false_reports <= MAX_FALSE_REPORTS


@pytest.mark.nightly
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("recipe_count", [2, 4])
def test_recipes_of_equal_balanced_accuracy_rarely_differ(recipe_count: int, seeds: int) -> None:
    """Check the classes of HAM10000: a recipe recognises some better, and others worse."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(7), HAM10000_CLASSES)
    false_reports = 0
    for _ in range(REPORTS):
        difficulty = random.uniform(-0.2, 0.2, len(labels))
        correct = {}
        for recipe in range(1, recipe_count + 1):
            preference = random.permutation(np.linspace(-0.1, 0.1, 7))
            for seed in range(seeds):
                shift = random.normal(0, 0.02, 7) if seeds > 1 else 0
                chance = difficulty + (0.7 + preference + shift)[labels]
                correct[TrialConfig(batch_size=recipe, seed=seed)] = (
                    random.random(len(labels)) < chance
                )
        results = simulated_results(correct, labels=labels, score_used="balanced_accuracy")
        false_reports += claims_difference(results)
    assert false_reports <= MAX_FALSE_REPORTS


@pytest.mark.nightly
@pytest.mark.parametrize("slide_count", [20, 10, 6, 3])
def test_interval_of_accuracy_covers_that_on_new_slides(slide_count: int) -> None:
    """Check an accuracy of 85 % over 600 images, of which those of a slide correlate by 0.05."""
    random = np.random.default_rng(0)
    slides = np.repeat(np.arange(slide_count), 600 // slide_count)
    accuracies = random.beta(0.85 * 19, 0.15 * 19, (INTERVALS, slide_count))[:, slides]
    correct = random.random(accuracies.shape) < accuracies
    assert coverage("accuracy", 0.85, correct, groups=slides) >= MIN_COVERAGE


@pytest.mark.nightly
@pytest.mark.parametrize(
    "class_sizes", [(180, 10, 10), (180, 30, 10), (60, 60, 60), HAM10000_CLASSES]
)
def test_interval_of_balanced_accuracy_covers_truth(class_sizes: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(class_sizes)), class_sizes)
    recalls = np.linspace(0.95, 0.7, len(class_sizes))
    correct = random.random((INTERVALS, len(labels))) < recalls[labels]
    assert coverage("balanced_accuracy", recalls.mean(), correct, labels=labels) >= MIN_COVERAGE


@pytest.mark.nightly
@pytest.mark.parametrize("positive_spread", [0.5, 1, 2])
def test_interval_of_auroc_near_one_covers_truth(positive_spread: float) -> None:
    """Check ten positive images, whose scores scatter by this, and those of negative ones by 1."""
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [190, 10])
    # a positive image has the higher score in 99 % of pairs
    distance = np.hypot(1, positive_spread) * norm.ppf(0.99)
    spread = np.where(labels, positive_spread, 1)
    scores = norm.cdf(random.normal(labels * distance - distance / 2, spread, (INTERVALS, 200)))
    correct = (scores > 0.5) == labels
    assert coverage("auroc", 0.99, correct, labels=labels, scores=scores) >= MIN_COVERAGE


@pytest.mark.nightly
@pytest.mark.parametrize("slide_count", [5, 3])
def test_interval_of_balanced_accuracy_covers_that_on_new_slides(slide_count: int) -> None:
    random = np.random.default_rng(0)
    slides, labels = two_classes_per_slide(slide_count)
    recalls = np.array([0.9, 0.75])
    of_slides = random.beta(recalls * 19, (1 - recalls) * 19, (INTERVALS, slide_count, 2))
    correct = random.random((INTERVALS, len(labels))) < of_slides[:, slides, labels]
    share = coverage("balanced_accuracy", recalls.mean(), correct, labels=labels, groups=slides)
    assert share >= MIN_COVERAGE


@pytest.mark.nightly
@pytest.mark.parametrize("slide_count", [5, 3])
def test_interval_of_auroc_covers_that_on_new_slides(slide_count: int) -> None:
    """Check an area of 0.9, where a slide shifts the scores of its positive images."""
    random = np.random.default_rng(0)
    slides, labels = two_classes_per_slide(slide_count)
    shift = 0.5
    distance = np.sqrt(2 + shift**2) * norm.ppf(0.9)
    centres = labels * (distance + random.normal(0, shift, (INTERVALS, slide_count))[:, slides])
    scores = norm.cdf(random.normal(centres - distance / 2, 1))
    correct = (scores > 0.5) == labels
    share = coverage("auroc", 0.9, correct, labels=labels, scores=scores, groups=slides)
    assert share >= MIN_COVERAGE
