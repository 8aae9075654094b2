import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from bioimg.config import TrialConfig
from bioimg.results.result_store import read_results
from bioimg.results.score import (
    image_weights,
    measure_macro_f1,
    measure_score,
    resolve_score,
)
from bioimg.results.table_store import EARLIER_COLUMNS
from bioimg.storage.checked_parquet import encode_table
from support.example_results import epoch_rows, trial_row, write_results


@pytest.mark.parametrize(
    ("class_counts", "score"),
    [
        ((625,) * 6, "accuracy"),
        ((200, 100), "accuracy"),
        ((201, 100), "balanced_accuracy"),
        ((570, 30), "balanced_accuracy"),
        ((6705, 1113, 1099, 514, 327, 142, 115), "balanced_accuracy"),
        ((5, 0), "balanced_accuracy"),
    ],
)
def test_auto_is_balanced_if_largest_class_has_more_than_twice_the_images(class_counts, score):
    assert resolve_score("auto", class_counts) == score


@pytest.mark.parametrize("score", ["accuracy", "balanced_accuracy"])
@pytest.mark.parametrize("class_counts", [(10, 10), (570, 30)])
def test_score_that_is_given_is_used_whatever_the_classes_are(score, class_counts):
    assert resolve_score(score, class_counts) == score


@pytest.mark.parametrize("classes", [[0, 1, 2], [0, 4]])
def test_scores_are_those_of_scikit_learn(classes):
    generator = np.random.default_rng(0)
    labels = generator.choice(
        classes, 400, p=[0.9, *[0.1 / (len(classes) - 1)] * (len(classes) - 1)]
    )
    predictions = np.where(generator.random(400) < 0.7, labels, generator.choice(classes, 400))
    assert measure_score(labels, predictions, "accuracy") == accuracy_score(labels, predictions)
    balanced = measure_score(labels, predictions, "balanced_accuracy")
    assert balanced == balanced_accuracy_score(labels, predictions)
    reference = f1_score(labels, predictions, average="macro", labels=np.unique(labels))
    assert measure_macro_f1(labels, predictions) == pytest.approx(reference, rel=1e-15)


def test_macro_f1_counts_predictions_of_a_class_without_images_as_wrong():
    labels, predictions = np.array([0, 0, 1, 1]), np.array([0, 3, 1, 1])
    assert measure_macro_f1(labels, predictions) == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize("score_used", ["accuracy", "balanced_accuracy"])
def test_image_weights_of_correct_images_add_up_to_the_score(score_used):
    labels = np.array([0, 0, 0, 0, 0, 2, 2, 3])
    predictions = np.array([0, 0, 0, 2, 2, 2, 0, 3])
    weights = image_weights(labels, score_used)
    assert weights.sum() == pytest.approx(1)
    added = weights[labels == predictions].sum()
    assert added == pytest.approx(measure_score(labels, predictions, score_used))


def test_predictions_of_a_class_without_images_are_wrong_and_nothing_else():
    labels = np.array([0, 0, 1, 1])
    predictions = np.array([0, 7, 1, 1])
    assert measure_score(labels, predictions, "balanced_accuracy") == 0.75


def test_results_of_earlier_versions_are_read_as_scored_by_accuracy(tmp_path):
    trial = TrialConfig(seed=1)
    folder = write_results(
        tmp_path,
        [trial_row(trial, test_accuracy=0.75), trial_row(TrialConfig(), status="failed")],
        epoch_rows(trial.key, val_loss=[0.5], val_accuracy=[0.625]),
    )
    for name in ("trials", "epochs"):
        path = folder / f"{name}.parquet"
        rows = pq.read_table(path)
        new_columns = [name for name in EARLIER_COLUMNS if name in rows.column_names]
        path.write_bytes(encode_table(rows.drop_columns([*new_columns])))
    results = read_results(folder)
    assert results.trials["score_used"].tolist() == ["accuracy", "accuracy"]
    assert results.trials["test_score"].tolist()[0] == 0.75
    assert np.isnan(results.trials["test_score"].tolist()[1])
    assert results.epochs["val_score"].tolist() == [0.625]
    assert results.trials["head_rate_factor"].tolist() == [1.0, 1.0]
