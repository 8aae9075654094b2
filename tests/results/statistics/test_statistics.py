"""What the statistics claim, against libraries, hand counts and data whose truth is known."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, t, ttest_ind
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.results import result_store, statistics
from bioimg.results.statistics.comparison_tests import holm_correction
from bioimg.results.statistics.standard_error import (
    StandardError,
    UnitSample,
    Variance,
    mean_run_variance,
    pool_run_variance,
    sign_flip_test,
)
from support.example_results import (
    V1,
    V2,
    epoch_rows,
    prediction_rows,
    trial_row,
    write_report_2023,
    write_results,
)

A, B = TrialConfig(weights=V1), TrialConfig(weights=V2)


def two(path: Path, wrong_a: list[int], wrong_b: list[int], **more: object) -> result_store.Results:
    """Return two trials that get different ones of 600 test images wrong. B has the lower loss."""
    groups = more.pop("groups", None)
    rows = [
        trial_row(A, test_accuracy=1 - len(wrong_a) / 600, best_val_loss=0.3),
        trial_row(B, test_accuracy=1 - len(wrong_b) / 600, best_val_loss=0.2, **more),
    ]
    images = prediction_rows(A.key, wrong_a, groups=groups) + prediction_rows(
        B.key, wrong_b, groups=groups
    )  # type: ignore[arg-type]
    return result_store.read_results(write_results(path, rows, predictions=images))


def test_wilson_columns_equal_single_intervals_and_keep_nulls() -> None:
    table = statistics.wilson_columns(
        pd.Series([572 / 600, None, 0.5]), pd.Series([600.0, 600.0, 0.0])
    )
    assert tuple(table.loc[0]) == pytest.approx(statistics.wilson_interval(572, 600))
    assert np.isnan(statistics.wilson_interval(0, 0)).all()
    assert table.loc[1:].isna().all(axis=None)


def test_mcnemar_counts_only_disagreements(tmp_path: Path) -> None:
    results = two(tmp_path, wrong_a=list(range(30)), wrong_b=list(range(20, 36)))
    row = statistics.compare_pairs(results, B.key).iloc[0]
    assert row["p_mcnemar"] == pytest.approx(binomtest(20, 26).pvalue)
    assert row["difference"] == pytest.approx((16 - 30) / 600)
    assert row["test"] == "mcnemar"


def test_small_difference_of_2023_report_does_not_hold(tmp_path: Path) -> None:
    results = result_store.read_results(write_report_2023(tmp_path))
    pairs = statistics.compare_pairs(results)
    pair = pairs[pairs["accuracy_a"].eq(0.94) & pairs["accuracy_b"].eq(0.953)].iloc[0]
    assert pair["p"] == pytest.approx(0.304, abs=1e-3)
    assert pair["holds"] is False
    assert pair["verdict"] == "tie"


def test_large_difference_of_2023_report_holds(tmp_path: Path) -> None:
    results = result_store.read_results(write_report_2023(tmp_path))
    pairs = statistics.compare_pairs(results, statistics.best_configuration(results))
    frozen = pairs[pairs["accuracy_a"].eq(0.875)].iloc[0]
    assert frozen["holds"] is True
    assert frozen["verdict"] == "worse"
    assert frozen[["difference", "low", "high"]].tolist() == pytest.approx(
        [-0.078, -0.111, -0.047], abs=5e-4
    )


def test_holm_multiplies_smallest_p_by_number_of_pairs(
    tmp_path: Path,
) -> None:
    pairs = statistics.compare_pairs(result_store.read_results(write_report_2023(tmp_path)))
    assert len(pairs) == 36
    assert pairs["p_holm"].min() == pytest.approx(36 * pairs["p"].min())
    assert pairs["p_holm"].nsmallest(2).iloc[1] == pytest.approx(
        35 * pairs["p"].nsmallest(2).iloc[1]
    )
    assert (pairs["p_holm"] >= pairs["p"]).all()


def test_difference_within_one_slide_does_not_hold(tmp_path: Path) -> None:
    """The 20 images that differ are of one slide: one piece of evidence, not 20 as for McNemar."""
    slides = [f"slide{image // 60}" for image in range(600)]
    alone = two(tmp_path / "images", list(range(20)), [])
    grouped = two(tmp_path / "slides", list(range(20)), [], groups=slides)
    assert statistics.compare_pairs(alone)["holds"].tolist() == [True]
    assert statistics.compare_pairs(grouped)["holds"].tolist() == [False]


@pytest.mark.parametrize(
    ("change", "word"),
    [({"data_fingerprint": "other"}, "data"), ({"split": "grouped"}, "split")],
)
def test_other_data_split_or_test_set_is_not_compared(
    tmp_path: Path, change: dict, word: str
) -> None:
    results = two(tmp_path, list(range(60)), [], **change)
    pair = statistics.compare_pairs(results).iloc[0]
    assert pair["holds"] is None
    assert pair["reason"] == word
    assert statistics.best_and_indistinguishable(results) == [B.key]


def test_other_number_of_test_images_is_not_compared(tmp_path: Path) -> None:
    results = two(tmp_path, list(range(60)), [], test_images=500)
    bare = dataclasses.replace(results, predictions=results.predictions.iloc[:0])
    assert statistics.compare_pairs(bare)["reason"][0] == "test_images"


def test_other_test_images_are_not_compared(tmp_path: Path) -> None:
    results = two(tmp_path, [], [])
    other = results.predictions["key"].eq(B.key)
    results.predictions.loc[other, "image"] = "other/" + results.predictions.loc[other, "image"]
    assert statistics.compare_pairs(results)["reason"][0] == "test_images"


def test_best_is_chosen_by_validation_not_test(tmp_path: Path) -> None:
    results = two(tmp_path, wrong_a=[], wrong_b=list(range(100)))
    assert statistics.best_configuration(results) == B.key
    pair = statistics.compare_pairs(results, B.key).iloc[0]
    assert pair["verdict"] == "better"
    assert pair[["score_a", "score_b"]].tolist() == pytest.approx([1, 5 / 6])


def repeats(path: Path, **losses: list[float | None]) -> result_store.Results:
    """Two recipes with a validation loss for each fold, or seed; None: that one was stopped."""
    rows = []
    for recipe, field in ((A, "a"), (B, "b")):
        for number, loss in enumerate(losses[field]):
            varied = {"folds": 5, "fold": number} if losses.get("folds") else {"seed": number}
            config = dataclasses.replace(recipe, **varied)
            rows.append(
                trial_row(
                    config, best_val_loss=loss or 0.0, status="completed" if loss else "stopped"
                )
            )
    return result_store.read_results(write_results(path, rows))


def test_recipe_completed_in_one_fold_is_not_best(tmp_path: Path) -> None:
    stopped = repeats(tmp_path / "stopped", a=[0.1, None, None], b=[0.15, 0.4, 0.4], folds=[1])
    assert statistics.best_configuration(stopped) == dataclasses.replace(B, folds=5).key
    never_run = repeats(tmp_path / "never", a=[0.1], b=[0.15, 0.4, 0.4], folds=[1])
    assert statistics.best_configuration(never_run) == dataclasses.replace(B, folds=5).key


def test_recipe_with_stopped_seeds_is_not_best(tmp_path: Path) -> None:
    assert (
        statistics.best_configuration(
            repeats(tmp_path / "stopped", a=[0.1, None, None], b=[0.2, 0.3, 0.2])
        )
        == B.key
    )
    assert (
        statistics.best_configuration(repeats(tmp_path / "never", a=[0.1], b=[0.2, 0.3, 0.2]))
        == A.key
    ), "no seed of it was lost"


def test_indistinguishable_recipes_tie_with_best(tmp_path: Path) -> None:
    results = result_store.read_results(write_report_2023(tmp_path))
    ties = results.trials.set_index("key").loc[statistics.best_and_indistinguishable(results)]
    assert ties["freeze"].unique().tolist() == ["none"]
    assert len(ties) == 6
    assert ties["test_accuracy"].iloc[0] == 0.953


def test_stopped_and_failed_trials_are_not_compared(tmp_path: Path) -> None:
    rows = [
        trial_row(A, test_accuracy=0.9, best_val_loss=0.3),
        trial_row(B, status="stopped", best_val_loss=0.1),
    ]
    results = result_store.read_results(write_results(tmp_path, rows))
    assert statistics.best_configuration(results) == A.key
    assert statistics.compare_pairs(results).empty
    assert statistics.best_and_indistinguishable(results) == [A.key]


def test_no_completed_trial_means_no_best(tmp_path: Path) -> None:
    results = result_store.read_results(
        write_results(tmp_path, [trial_row(A, status="failed", error="boom")])
    )
    assert statistics.best_configuration(results) is None
    assert statistics.best_and_indistinguishable(results) == []
    assert statistics.compare_pairs(results).empty


def test_seeds_are_averaged_image_by_image(tmp_path: Path) -> None:
    seeds = [TrialConfig(weights=weights, seed=seed) for weights in (V1, V2) for seed in (0, 1)]
    wrong = [[0, 1, 2, 3], [0, 1, 4, 5], [6], [6]]
    rows = [
        trial_row(c, test_accuracy=1 - len(w) / 600, best_val_loss=0.1)
        for c, w in zip(seeds, wrong, strict=True)
    ]
    images = [row for c, w in zip(seeds, wrong, strict=True) for row in prediction_rows(c.key, w)]
    pair = statistics.compare_pairs(
        result_store.read_results(write_results(tmp_path, rows, predictions=images))
    )
    assert pair[["a", "b", "runs_a", "runs_b"]].to_numpy().tolist() == [
        [seeds[0].key, seeds[2].key, 2, 2]
    ]
    assert pair["difference"][0] == pytest.approx(-3 / 600)
    assert np.isnan(pair["p_mcnemar"][0])
    assert pair["scope"][0] == "recipes"


def recipes(
    path: Path, wrong: dict[TrialConfig, list[int]], n: int, groups: list[str] | None = None
) -> result_store.Results:
    """Trials that get these of n test images wrong; folds have images of their own."""
    rows, images = [], []
    for config, missed in wrong.items():
        rows.append(
            trial_row(
                config,
                test_accuracy=1 - len(missed) / n,
                best_val_loss=0.1,
                train_images=3 * n,
                test_images=n,
            )
        )
        names = prediction_rows(config.key, missed, n=n, groups=groups)
        images += [{**row, "image": f"{config.fold}/{row['image']}"} for row in names]
    return result_store.read_results(write_results(path, rows, predictions=images))


def false_claims(
    path: Path,
    draw: Callable[[np.random.Generator], dict[TrialConfig, list[int]]],
    n: int,
) -> int:
    """Count false differences in 20 experiments with equally good recipes; 1 is expected."""
    random = np.random.default_rng(0)
    return sum(
        statistics.compare_pairs(recipes(path / str(number), draw(random), n))["holds"]
        .eq(True)
        .any()
        for number in range(20)
    )


def missed(random: np.random.Generator, chance: np.ndarray) -> list[int]:
    return np.flatnonzero(random.random(len(chance)) < chance).tolist()


@pytest.mark.nightly
@pytest.mark.parametrize("field", ["seed", "fold"])
def test_seed_noise_rarely_gives_false_differences(field: str, tmp_path: Path) -> None:
    def draw(random: np.random.Generator) -> dict[TrialConfig, list[int]]:
        folds = 3 if field == "fold" else 0
        configs = [
            TrialConfig(weights=w, folds=folds, **{field: run})
            for w in (V1, V2)
            for run in range(3)
        ]
        hard = random.uniform(0, 0.3, 200)
        return {
            config: missed(random, (hard + random.normal(0, 0.03)).clip(0, 1)) for config in configs
        }

    assert false_claims(tmp_path, draw, 200) <= 3


@pytest.mark.parametrize("field", ["seed", "fold"])
def test_difference_in_every_run_holds(field: str, tmp_path: Path) -> None:
    random, folds = np.random.default_rng(0), 5 if field == "fold" else 0
    chances = {V1: np.full(200, 0.4), V2: np.full(200, 0.1)}
    wrong = {
        TrialConfig(weights=w, folds=folds, **{field: run}): missed(random, chance)
        for w, chance in chances.items()
        for run in range(5)
    }
    pair = statistics.compare_pairs(recipes(tmp_path, wrong, 200)).iloc[0]
    assert pair["test"] == {"seed": "images_and_runs", "fold": "folds"}[field]
    assert pair["holds"] is True
    assert pair["low"] < pair["difference"] < pair["high"] < 0


def test_image_variance_of_equal_units_matches_statsmodels() -> None:
    random = np.random.default_rng(0)
    units = pd.Series(np.arange(99) % 9)
    differences = pd.Series(random.normal(0.1, 1, 99) + units / 5)
    robust = OLS(differences, np.ones(99)).fit(
        cov_type="cluster", cov_kwds={"groups": units}, use_t=True
    )
    variance = UnitSample(units).variance(differences / 99)
    # for a mean of equal units both are the estimate of Liang and Zeger
    assert variance.value == pytest.approx(robust.bse.iloc[0] ** 2)
    assert variance.degrees_of_freedom == pytest.approx(8)
    p = StandardError(variance).p_value(differences.mean())
    assert p == pytest.approx(robust.pvalues.iloc[0])


def test_run_variance_matches_t_test() -> None:
    """For two configurations the pooled spread gives the t-test of Student."""
    a, b = [0.9, 0.92, 0.87], [0.85, 0.87, 0.82]
    spread = pool_run_variance([a, b])
    assert spread
    p = StandardError(mean_run_variance(spread, a, b)).p_value(np.mean(a) - np.mean(b))
    assert p == pytest.approx(ttest_ind(a, b).pvalue)
    assert pool_run_variance([[0.9], [0.8]]) is None


def test_unstable_configuration_keeps_its_own_spread() -> None:
    calm, other, wild = [0.9, 0.91, 0.92], [0.9, 0.92, 0.91], [0.7, 0.8, 0.9]
    spread = pool_run_variance([calm, other, wild])
    assert spread
    own = (np.var(calm, ddof=1) + np.var(wild, ddof=1)) / 3
    assert mean_run_variance(spread, calm, wild).value == pytest.approx(own)
    assert mean_run_variance(spread, calm, other).value == pytest.approx(spread.value * 2 / 3)
    assert mean_run_variance(spread, wild).degrees_of_freedom == 6


def test_fold_test_matches_nadeau_and_bengio(tmp_path: Path) -> None:
    """With 5 folds of 100 test and 300 training images, the factor is 1/5 + 100/300."""
    counts = {V1: [10, 12, 9, 14, 11], V2: [5, 8, 6, 6, 9]}
    wrong = {
        TrialConfig(weights=w, folds=5, fold=f): [*range(n)]
        for w, each in counts.items()
        for f, n in enumerate(each)
    }
    pair = statistics.compare_pairs(recipes(tmp_path, wrong, 100)).iloc[0]
    differences = np.subtract(counts[V2], counts[V1]) / 100
    expected = differences.mean() / np.sqrt((1 / 5 + 100 / 300) * differences.var(ddof=1))
    assert pair["p"] == pytest.approx(2 * t.sf(abs(expected), 4))


def test_fold_order_and_size_do_not_change_p(tmp_path: Path) -> None:
    found = []
    for number, sizes in enumerate([(20, 90, 60), (90, 20, 60)]):
        rows, images = [], []
        for weights, share in ((V1, 0.2), (V2, 0.1)):
            for fold, n in enumerate(sizes):
                config, wrong = (
                    TrialConfig(weights=weights, folds=3, fold=fold),
                    [*range(round(share * n + (n == 60)))],
                )
                size = {"test_images": n, "train_images": 170 - n}
                rows.append(
                    trial_row(config, test_accuracy=1 - len(wrong) / n, best_val_loss=0.1, **size)
                )
                images += [
                    {**row, "image": f"{n}/{row['image']}"}
                    for row in prediction_rows(config.key, wrong, n=n)
                ]
        results = result_store.read_results(
            write_results(tmp_path / str(number), rows, predictions=images)
        )
        found.append(statistics.compare_pairs(results)["p"][0])
    assert found[0] == pytest.approx(found[1])


def test_equal_difference_in_every_image_has_no_interval(
    tmp_path: Path,
) -> None:
    wrong = {
        TrialConfig(weights=w, seed=seed): [*range(20)] if w == V1 else []
        for w in (V1, V2)
        for seed in (0, 1)
    }
    pair = statistics.compare_pairs(recipes(tmp_path, wrong, 20)).iloc[0]
    assert pair["verdict"] == "worse"
    assert np.isnan(pair["low"])


def test_known_groups_give_wider_interval(tmp_path: Path) -> None:
    """20 images that differ, of one slide: as single images they are many, as slides one of ten."""
    slides = [f"slide{image // 60}" for image in range(600)]
    alone = statistics.compare_pairs(two(tmp_path / "images", list(range(20)), [])).iloc[0]
    grouped = statistics.compare_pairs(
        two(tmp_path / "slides", list(range(20)), [], groups=slides)
    ).iloc[0]
    assert grouped["low"] < alone["low"] < alone["high"] < 0 < grouped["high"]


def test_two_images_never_prove_difference(tmp_path: Path) -> None:
    wrong = {
        TrialConfig(weights=w, seed=seed): [0, 1] if w == V1 else []
        for w in (V1, V2)
        for seed in (0, 1)
    }
    pair = statistics.compare_pairs(recipes(tmp_path, wrong, 2)).iloc[0]
    assert pair["p"] == 0.5
    assert pair["holds"] is False


def test_mcnemar_interval_agrees_with_verdict(tmp_path: Path) -> None:
    """Five images against none of 100 aren't enough (p = 0.06), and the interval includes 0."""
    pair = statistics.compare_pairs(recipes(tmp_path, {A: [], B: [*range(5)]}, 100)).iloc[0]
    assert pair["p"] == pytest.approx(0.0625)
    assert pair["low"] < 0 < pair["difference"] < pair["high"]


def test_unevenly_stopped_recipes_are_not_compared(tmp_path: Path) -> None:
    results = repeats(tmp_path, a=[0.1, None, None], b=[0.2, 0.3, 0.2])
    trials = results.trials.assign(
        test_accuracy=np.where(results.trials["status"].eq("completed"), 0.9, np.nan)
    )
    pair = statistics.compare_pairs(dataclasses.replace(results, trials=trials)).iloc[0]
    assert pair["holds"] is None
    assert pair["reason"] == "uneven_stopping"


def grid(path: Path, accuracy: dict[tuple[str, int], float]) -> result_store.Results:
    rows = [
        trial_row(TrialConfig(weights=w, batch_size=b), test_accuracy=x, best_val_loss=1 - x)
        for (w, b), x in accuracy.items()
    ]
    return result_store.read_results(write_results(path, rows))


def test_effects_of_additive_grid_are_recovered(tmp_path: Path) -> None:
    cells = {
        (w, b): 0.8 + 0.05 * (w == V2) - 0.01 * (b == 64) - 0.03 * (b == 128)
        for w in (V1, V2)
        for b in (32, 64, 128)
    }
    table = statistics.estimate_effects(grid(tmp_path, cells)).set_index(["axis", "level"])
    assert table.loc[("weights", V2), "effect"] == pytest.approx(0.05)
    assert table.loc[("batch_size", "128"), "effect"] == pytest.approx(-0.03)
    assert table.loc[("weights:batch_size", f"{V2} and 128"), "effect"] == pytest.approx(
        0, abs=1e-12
    )
    assert table.loc[("weights", V2), "n"] == 3


def test_interaction_of_single_runs_has_no_interval(
    tmp_path: Path,
) -> None:
    cells = {(w, b): 0.8 + 0.07 * (w == V2 and b == 64) for w in (V1, V2) for b in (32, 64)}
    table = statistics.estimate_effects(grid(tmp_path, cells)).set_index("axis")
    assert table.loc["weights:batch_size", "effect"] == pytest.approx(0.07)
    assert np.isnan(table.loc["weights:batch_size", "low"])
    assert table.loc["weights", "low"] < 0.035 < table.loc["weights", "high"]


def test_effect_intervals_include_image_sampling(tmp_path: Path) -> None:
    """An additive grid leaves nothing unexplained, yet its effects are those of 20 images."""
    wrong = {
        TrialConfig(weights=w, batch_size=b): [*range(4 - (w == V2) - (b == 64))]
        for w in (V1, V2)
        for b in (32, 64)
    }
    table = statistics.estimate_effects(recipes(tmp_path, wrong, 20)).set_index("axis")
    assert table.loc["weights", "effect"] == pytest.approx(0.05)
    assert table.loc["weights", "low"] < 0 < table.loc["weights", "high"]
    assert table.loc["weights", "p"] > 0.05


def test_inseparable_effects_are_null(tmp_path: Path) -> None:
    table = statistics.estimate_effects(grid(tmp_path, {(V1, 32): 0.8, (V2, 64): 0.9}))
    assert table["axis"].tolist() == ["weights", "batch_size"]
    assert table["effect"].isna().all()


def scored(path: Path, n: int = 300, groups: int = 30) -> result_store.Results:
    """Return noisy predictions of three classes, one of them rare, with ties of probabilities."""
    random = np.random.default_rng(3)
    labels = random.choice(3, n, p=[0.6, 0.35, 0.05])
    logits = random.normal(size=(n, 3)).round(1) + 1.5 * np.eye(3)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = [
        {
            "key": A.key,
            "subset": "test",
            "image": f"{i:04}",
            "group": f"g{i % groups}",
            "label": label,
        }
        | {"prediction": p.argmax(), "probabilities": p.astype(np.float32)}
        for i, (label, p) in enumerate(zip(labels, probabilities, strict=True))
    ]
    return result_store.read_results(
        write_results(
            path, [trial_row(A, test_accuracy=0.8)], predictions=rows, classes=("a", "b", "c")
        )
    )


def test_metrics_match_scikit_learn(tmp_path: Path) -> None:
    results = scored(tmp_path)
    rows = results.predictions
    probabilities = np.stack(rows["probabilities"].to_list()).astype(float)
    table = statistics.trial_metrics(results, A.key).set_index("metric")
    expected = {
        "accuracy": rows["label"].eq(rows["prediction"]).mean(),
        "balanced_accuracy": balanced_accuracy_score(rows["label"], rows["prediction"]),
        "macro_f1": f1_score(rows["label"], rows["prediction"], average="macro"),
        "auroc": np.mean(
            [roc_auc_score(rows["label"] == c, probabilities[:, c]) for c in range(3)]
        ),
    }
    for metric, value in expected.items():
        row = table.loc[metric]
        assert row["value"] == pytest.approx(value)
        assert row["low"] < row["value"] < row["high"]
    assert np.isnan(table.loc["ece", "low"])


def test_groups_widen_intervals_of_similar_images(tmp_path: Path) -> None:
    """Whole slides are right or wrong: 10 slides tell less than 600 images."""
    wrong = [image for image in range(600) if image // 60 in (2, 5)]
    slides = [f"s{image // 60}" for image in range(600)]
    tables = []
    for name, groups in (("images", None), ("slides", slides)):
        rows = prediction_rows(A.key, wrong, groups=groups)
        trials = [trial_row(A, test_accuracy=0.8)]
        results = result_store.read_results(
            write_results(tmp_path / name, trials, predictions=rows)
        )
        tables.append(statistics.trial_metrics(results, A.key).set_index("metric"))
    alone, grouped = (table["high"] - table["low"] for table in tables)
    measured = ["accuracy", "balanced_accuracy", "macro_f1", "auroc"]
    assert (grouped[measured] > 3 * alone[measured]).all()


def test_all_images_right_has_interval_below_one(tmp_path: Path) -> None:
    """60 of 60 images right doesn't mean that all images of the world are."""
    table = statistics.trial_metrics(recipes(tmp_path, {A: []}, 60), A.key).set_index("metric")
    assert table.loc["accuracy", "low"] == pytest.approx(statistics.wilson_interval(60, 60)[0])
    measured = table.drop("ece")
    assert measured["value"].tolist() == pytest.approx([1] * 4)
    assert measured["low"].between(0.7, 0.97).all()
    assert measured["high"].tolist() == pytest.approx([1] * 4)


def test_small_class_has_no_interval(tmp_path: Path) -> None:
    """With 9 images in each of 6 classes only the accuracy of all 54 has one."""
    results = recipes(tmp_path, {A: [0, 1, 2]}, 54)
    table = statistics.trial_metrics(results, A.key).set_index("metric")
    assert table["low"].notna().tolist() == [True, False, False, False, False]
    assert statistics.class_metrics(results, A.key)["recall_low"].isna().all()
    assert statistics.class_metrics(results, A.key)["specificity_low"].notna().all()


def test_calibration_error_of_confident_predictions(tmp_path: Path) -> None:
    """Of 600 predictions with confidence 90 %, 540 are right, or 300: an error of 40 points."""
    for wrong, error in ((60, 0.0), (300, 0.4)):
        results = two(tmp_path / str(wrong), list(range(wrong)), [])
        table = statistics.calibration_table(results, A.key)
        assert table["n"].sum() == 600
        assert table.attrs["ece"] == pytest.approx(error, abs=1e-6)


def test_class_metrics_match_counts_and_keep_nulls(tmp_path: Path) -> None:
    images = prediction_rows(A.key, wrong=[0, 6, 12], n=60, classes=6)
    results = result_store.read_results(
        write_results(
            tmp_path, [trial_row(A)], predictions=images, classes=[*"abcdef", "none of these"]
        )
    )
    table = statistics.class_metrics(results, A.key).set_index("class")
    assert table.loc["a", "recall"] == 0.7
    assert table.loc["b", "precision"] == pytest.approx(10 / 13)
    assert table.loc["none of these", "support"] == 0
    assert np.isnan(table.loc["none of these", "recall"])
    assert statistics.confusion_counts(results, A.key)[0].tolist() == [7, 3, 0, 0, 0, 0, 0]


def test_trial_without_predictions_has_no_metrics(tmp_path: Path) -> None:
    results = result_store.read_results(write_results(tmp_path, [trial_row(A)]))
    with pytest.raises(
        UserError, match=f"the trial `{A.key}` has no predictions for the test images"
    ):
        statistics.trial_metrics(results, A.key)


def test_curves_show_overfitting_and_instability(tmp_path: Path) -> None:
    rising = epoch_rows("a", [1.0, 0.4, 0.5, 0.6, 0.7, 0.8], [0.5, 0.9, 0.8, 0.9, 0.8, 0.9])
    calm = epoch_rows(
        "b", [1.0, 0.9, 0.8, 0.7, 0.6, 0.5], [0.5, 0.6, 0.7, 0.71, 0.72, 0.73], train=0.75
    )
    table = statistics.diagnose_curves(pd.DataFrame(rising + calm)).set_index("key")
    assert table.loc["a", ["last_fall", "epochs"]].tolist() == [2, 6]
    assert table.loc["a", "gap"] == pytest.approx(0.09)
    assert table.loc["a", "rise"] == pytest.approx(1.0)
    assert table.loc["a", "oscillation"] == pytest.approx(0.1)
    assert table.loc["a", "findings"] == ("overfitting", "unstable")
    assert table.loc["b", "findings"] == ("still_improving",)


def test_loss_that_falls_by_more_than_its_noise_is_still_improving() -> None:
    falling = list(np.linspace(1.0, 0.5, 20))
    # the lowest loss was chance; the rest falls steadily, or is only noise
    lucky = [*falling[:4], 0.4, *falling[5:]]
    noisy = [0.5, 0.4, *[0.45, 0.5] * 9]
    losses = {"falling": falling, "lucky": lucky, "noisy": noisy}
    rows = []
    for key, loss in losses.items():
        rows += epoch_rows(key, loss, [0.5] * 20)
    table = statistics.diagnose_curves(pd.DataFrame(rows)).set_index("key")
    is_improving = ["still_improving" in findings for findings in table["findings"]]
    assert is_improving == [True, True, False]


def test_curves_without_loss_have_no_fall() -> None:
    table = statistics.diagnose_curves(pd.DataFrame(epoch_rows("a", [np.nan] * 4, [0.5] * 4)))
    assert table["last_fall"].isna().all()
    assert statistics.diagnose_curves(
        pd.DataFrame(epoch_rows("a", [], []), columns=list(epoch_rows("a", [1], [1])[0]))
    ).empty


def test_single_test_group_is_not_compared(tmp_path: Path) -> None:
    results = two(tmp_path, wrong_a=list(range(60)), wrong_b=[], groups=["slide-1"] * 600)
    row = statistics.compare_pairs(results, B.key).iloc[0]
    assert row["reason"] == "one_group"
    assert row[["low", "high", "p", "p_holm", "holds"]].isna().all()
    scored = statistics.trial_metrics(results, A.key)
    assert scored["value"].notna().all()
    assert scored[["low", "high"]].isna().all(axis=None)
    effect = statistics.estimate_effects(results).iloc[0]
    assert effect["effect"] == pytest.approx(0.1)
    assert effect[["low", "high", "p"]].isna().all()


def test_each_pair_has_verdict_reason_and_scope(tmp_path: Path) -> None:
    better = statistics.compare_pairs(two(tmp_path / "a", [], list(range(60)))).iloc[0]
    assert better[["verdict", "reason", "scope"]].tolist() == ["better", "", "models"]
    tie = statistics.compare_pairs(two(tmp_path / "b", [0], [1])).iloc[0]
    assert tie["verdict"] == "tie"
    other = two(tmp_path / "c", [], [], split="grouped")
    assert statistics.compare_pairs(other).iloc[0][["verdict", "reason"]].tolist() == [
        "unknown",
        "split",
    ]


def test_one_run_against_several_is_not_compared(tmp_path: Path) -> None:
    wrong: dict[TrialConfig, list[int]] = {
        TrialConfig(weights=V1, seed=seed): [*range(20)] for seed in range(5)
    }
    wrong |= {TrialConfig(weights=V2): []}
    pair = statistics.compare_pairs(recipes(tmp_path, wrong, 100)).iloc[0]
    assert pair["reason"] == "one_run"
    assert pair["verdict"] == "unknown"


def test_sign_flip_test_matches_all_assignments_of_signs() -> None:
    terms = np.array([0.2, -0.1, 0.1, 0.3, 0.0, 0.1])
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(terms))).reshape(len(terms), -1)
    sums = np.abs(terms @ signs)
    assert sign_flip_test(terms) == pytest.approx(np.mean(sums >= abs(terms.sum()) - 1e-9))
    assert sign_flip_test(np.repeat([1, -1], [20, 6]) / 600) == pytest.approx(
        binomtest(20, 26).pvalue
    )
    assert sign_flip_test(np.zeros(3)) == 1


def imbalanced(
    path: Path, wrong: dict[TrialConfig, list[int]], rare: int, n: int = 600
) -> result_store.Results:
    """Trials of which the first `rare` of n images are of a class of their own."""
    rows, images = [], []
    for config, missed in wrong.items():
        accuracy = 1 - len(missed) / n
        rows.append(trial_row(config, test_accuracy=accuracy, test_images=n))
        for row in prediction_rows(config.key, [], n=n, classes=2):
            image = len(images) % n
            label = int(image < rare)
            prediction = 1 - label if image in missed else label
            images.append({**row, "image": f"{image}", "label": label, "prediction": prediction})
    results = result_store.read_results(write_results(path, rows, predictions=images))
    trials = results.trials.assign(score_used="balanced_accuracy")
    return dataclasses.replace(results, trials=trials)


def test_balanced_score_prefers_recipe_that_finds_rare_class(tmp_path: Path) -> None:
    """Always "benign" is right on 95 % of the images; its balanced accuracy is a half."""
    never_malignant, finds_most = [*range(30)], [*range(6), *range(30, 90)]
    results = imbalanced(tmp_path, {A: never_malignant, B: finds_most}, rare=30)
    pair = statistics.compare_pairs(results).iloc[0]
    assert pair["accuracy_a"] == pytest.approx(0.95)
    assert pair["score_a"] == pytest.approx(0.5)
    assert pair["score_b"] == pytest.approx((0.8 + 510 / 570) / 2)
    assert pair["verdict"] == "worse"
    assert pair["low"] < pair["difference"] < pair["high"] < 0


def test_score_of_rare_class_has_no_interval(tmp_path: Path) -> None:
    pair = statistics.compare_pairs(imbalanced(tmp_path, {A: [0], B: [9]}, rare=5)).iloc[0]
    assert pair["verdict"] == "tie"
    assert np.isnan(pair["low"])


def test_class_with_one_image_is_not_compared(tmp_path: Path) -> None:
    pair = statistics.compare_pairs(imbalanced(tmp_path, {A: [0], B: [9]}, rare=1)).iloc[0]
    assert pair["reason"] == "one_image"


def test_different_scores_are_not_compared(tmp_path: Path) -> None:
    results = two(tmp_path, [], [])
    scores = ["accuracy", "balanced_accuracy"]
    results = dataclasses.replace(results, trials=results.trials.assign(score_used=scores))
    assert statistics.compare_pairs(results)["reason"].tolist() == ["score"]


def test_more_comparisons_and_fewer_images_detect_only_larger_differences(tmp_path: Path) -> None:
    def detectable(n: int, count: int) -> float:
        sizes = {TrialConfig(batch_size=size): [size % 7] for size in range(1, count + 1)}
        pairs = statistics.compare_pairs(recipes(tmp_path / f"{n}-{count}", sizes, n))
        return pairs["detectable"].max()

    assert detectable(600, 2) < detectable(600, 6) < detectable(100, 6) < 1


def test_configuration_has_one_row_with_runs_in_its_interval(tmp_path: Path) -> None:
    """Five runs that differ by some points say less than one run on as many images."""
    wrong = {TrialConfig(weights=V1, seed=s): [*range(20 * s, 60 + 40 * s)] for s in range(5)}
    results = recipes(tmp_path, wrong, 600)
    row = statistics.configuration_scores(results).iloc[0]
    assert row[["runs", "images", "scope"]].tolist() == [5, 600, "recipes"]
    assert row["score"] == pytest.approx(1 - np.mean([60, 80, 100, 120, 140]) / 600)
    low, high = statistics.wilson_interval(500, 600)
    assert row["high"] - row["low"] > 1.5 * (high - low)
    assert pd.isna(row["groups"])


def test_interval_of_one_run_is_of_its_trained_model(tmp_path: Path) -> None:
    row = statistics.configuration_scores(two(tmp_path, [*range(28)], [])).iloc[0]
    assert row["scope"] == "models"
    assert (row["low"], row["high"]) == pytest.approx(statistics.wilson_interval(572, 600))


def test_one_slide_has_no_interval_and_one_effective_group(tmp_path: Path) -> None:
    results = two(tmp_path, [1], [2], groups=["slide-1"] * 600)
    row = statistics.configuration_scores(results).iloc[0]
    assert row[["groups", "effective_groups"]].tolist() == [1, 1]
    assert np.isnan([row["low"], row["high"], row["auroc_low"]]).all()


def test_uneven_folds_are_pooled_over_images(tmp_path: Path) -> None:
    rows, images = [], []
    for fold, (n, wrong) in enumerate([(20, 10), (90, 9), (60, 0)]):
        config = TrialConfig(weights=V1, folds=3, fold=fold)
        rows.append(trial_row(config, test_accuracy=1 - wrong / n, test_images=n, best_val_loss=1))
        for row in prediction_rows(config.key, [*range(wrong)], n=n):
            images.append({**row, "image": f"{fold}/{row['image']}"})
    results = result_store.read_results(write_results(tmp_path, rows, predictions=images))
    row = statistics.configuration_scores(results).iloc[0]
    assert row["score"] == pytest.approx(151 / 170)
    low, high = statistics.wilson_interval(151, 170)
    assert row["low"] < low
    assert row["high"] > high


def test_baseline_score_is_share_or_chance(tmp_path: Path) -> None:
    results = imbalanced(tmp_path, {A: []}, rare=30)
    assert statistics.baseline_score(results) == 0.5
    plain = dataclasses.replace(results, trials=results.trials.drop(columns="score_used"))
    assert statistics.baseline_score(plain) == pytest.approx(0.95)


def test_effect_over_stopped_trials_is_refused(tmp_path: Path) -> None:
    """V1 with 64 was stopped: of V1 only better trials are left. 128 against 32 lost none."""
    rows = []
    for weights, size in itertools.product((V1, V2), (32, 64, 128)):
        config = TrialConfig(weights=weights, batch_size=size)
        is_stopped = (weights, size) == (V1, 64)
        rows.append(trial_row(config, test_accuracy=None if is_stopped else 0.9, best_val_loss=0.1))
        rows[-1]["status"] = "stopped" if is_stopped else "completed"
    results = result_store.read_results(write_results(tmp_path, rows))
    effects = statistics.estimate_effects(results).set_index(["axis", "level"])
    stopped = (TrialConfig(weights=V1, batch_size=64).key,)
    for name in (("weights", V2), ("batch_size", "64")):
        assert effects.loc[name, "reason"] == "stopped"
        assert effects.loc[name, "missing"] == stopped
        assert np.isnan(effects.loc[name, "effect"])
    assert effects.loc[("batch_size", "128"), "effect"] == pytest.approx(0)


def test_effect_over_setting_that_failed_is_refused(tmp_path: Path) -> None:
    rows = [
        trial_row(TrialConfig(weights=w, seed=seed), test_accuracy=0.9, best_val_loss=0.1)
        for w, seed in itertools.product((V1, V2), (0, 1))
    ]
    rows[0] |= {"status": "failed", "test_accuracy": None}
    one_lost = result_store.read_results(write_results(tmp_path / "one", rows))
    assert statistics.estimate_effects(one_lost)["reason"].tolist() == [""]
    rows[1] |= {"status": "failed", "test_accuracy": None}
    all_lost = result_store.read_results(write_results(tmp_path / "all", rows))
    effect = statistics.estimate_effects(all_lost).iloc[0]
    assert effect["reason"] == "failed"
    assert effect["missing"] == (rows[0]["key"], rows[1]["key"])


def test_effects_are_of_the_score(tmp_path: Path) -> None:
    results = imbalanced(tmp_path, {A: [*range(30)], B: [*range(6), *range(30, 90)]}, rare=30)
    effect = statistics.estimate_effects(results).iloc[0]
    assert effect["effect"] == pytest.approx((0.8 + 510 / 570) / 2 - 0.5)


def test_margins_of_independent_sources_are_added_as_squares() -> None:
    images, runs = Variance(0.0004, 3.5), Variance(0.0009, 22)
    both = StandardError(images, runs)
    expected = np.hypot(t.isf(0.025, 3.5) * 0.02, t.isf(0.025, 22) * 0.03)
    assert both.margin() == pytest.approx(expected)
    assert both.p_value(expected) == pytest.approx(0.05)
    assert StandardError(images).p_value(0.05) == pytest.approx(2 * t.sf(2.5, 3.5))
    assert StandardError(images, Variance(0, 22)).p_value(0.05) == pytest.approx(2 * t.sf(2.5, 3.5))


def test_holm_correction_matches_statsmodels() -> None:
    p = pd.Series([0.04, 0.001, np.nan, 0.03, 0.9, 0.011])
    corrected = holm_correction(p)
    assert corrected.dropna().tolist() == pytest.approx(multipletests(p.dropna(), method="holm")[1])
    assert np.isnan(corrected[2])


def test_detectable_difference_matches_power_of_statsmodels() -> None:
    """A one-sample t-test of 20 units finds this difference at this level with 80 % power."""
    detectable = StandardError(Variance(0.02**2, 19)).detectable(0.05 / 11)
    power = TTestPower().power(detectable / (0.02 * np.sqrt(20)), nobs=20, alpha=0.05 / 11)
    assert power == pytest.approx(0.8, abs=1e-4)
