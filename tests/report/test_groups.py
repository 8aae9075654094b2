"""Numbers of groups, such as patients, beside those of images."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score, roc_auc_score

from bioimg.config import TrialConfig
from bioimg.report import detail_tables, sentences
from bioimg.report.analysis import Analysis
from bioimg.report.html_page import render_page
from bioimg.report.methods.describe_methods import describe_methods
from bioimg.report.report_context import ReportContext
from bioimg.report.write import ReportOptions, write_report
from bioimg.results.group_predictions import aggregate_images
from bioimg.results.statistics import wilson_interval
from bioimg.verify.verify import verify_file
from support.example_results import read_analysis, trial_row, write_results

PATIENTS = 60
IMAGES = 5
EXTERNAL = {
    "data": "clinic-b",
    "fingerprint": "0123456789abcdef",
    "images": PATIENTS * IMAGES,
    "groups": PATIENTS,
    "classes": {"benign": 150, "malignant": 150},
    "class_map": {},
    "copies_left_out": 0,
    "look_alikes": 0,
    "known_groups": 0,
    "synthetic": False,
    "evaluations": [{"time": "2026-03-02T09:14:07+00:00", "completed": 2}],
}


def patient_rows(key: str, seed: int, subset: str, patients: range) -> list[dict[str, Any]]:
    """Return uncertain predictions of five images of each patient; every other is malignant."""
    noise = np.random.default_rng(seed)
    rows = []
    for patient in patients:
        label = patient % 2
        for image in range(IMAGES):
            malignant = 1 / (1 + np.exp(-noise.normal(1.2 * label - 0.6, 1)))
            row = {
                "key": key,
                "subset": subset,
                "image": f"{patient}/{image}.png",
                "group": f"patient {patient}",
                "label": label,
                "prediction": int(malignant > 0.5),
                "probabilities": [1 - malignant, malignant],
            }
            rows.append(row)
    return rows


def write_patients(folder: Path, folds: int = 0, aggregate: str = "mean", **changed: Any) -> Path:
    """Write two recipes that test sixty patients, in one test set or in folds, and on a set `b`.

    changed: other values of all predictions.
    """
    trials, predictions = [], []
    for position, freeze in enumerate(("none", "features")):
        for fold in range(max(folds, 1)):
            config = TrialConfig(data="clinic-a", freeze=freeze, fold=fold, folds=folds)
            patients = range(fold, PATIENTS, max(folds, 1))
            seed = 10 * position + fold
            rows = patient_rows(config.key, seed, "test", patients)
            rows += patient_rows(config.key, seed + 5, "external:b", range(PATIENTS))
            predictions += [row | changed for row in rows]
            labels = [row["label"] == row["prediction"] for row in rows if row["subset"] == "test"]
            accuracy = float(np.mean(labels))
            measured = {"test_accuracy": accuracy, "test_score": accuracy, "val_score": 0.9}
            trials.append(
                trial_row(
                    config,
                    best_val_loss=0.1 * (1 + position),
                    test_images=len(labels),
                    recipe_seconds=10.0,
                    split_leaks_groups=False,
                    **measured,
                )
            )
    return write_results(
        folder,
        trials,
        predictions=predictions,
        classes=("benign", "malignant"),
        external={"b": EXTERNAL},
        aggregate=aggregate,
    )


def mean_probabilities(analysis: Analysis, subset: str) -> pd.DataFrame:
    """Return label and mean probability of each patient, of the first recipe."""
    rows = analysis.results.predictions
    first = analysis.trials["freeze"].eq("none")
    rows = rows[rows["subset"].eq(subset) & rows["key"].isin(analysis.trials["key"][first])]
    malignant = [float(row[1]) for row in rows["probabilities"]]
    groups = rows.assign(malignant=malignant).groupby("group")
    return groups.agg(label=("label", "first"), malignant=("malignant", "mean"))


@pytest.mark.parametrize(("position", "subset"), [(0, "test"), (1, "external:b")])
def test_numbers_of_patients_are_those_of_scikit_learn(tmp_path: Path, position: int, subset: str):
    analysis = read_analysis(write_patients(tmp_path))
    grouped = analysis.grouped_sets[position]
    best = grouped.scores.loc[grouped.best_key]
    expected = mean_probabilities(analysis, subset)
    predicted = expected["malignant"] > 0.5
    assert best["images"] == PATIENTS
    accuracy = accuracy_score(expected["label"], predicted)
    assert best["accuracy"] == pytest.approx(accuracy)
    limits = wilson_interval(accuracy * PATIENTS, PATIENTS)
    assert (best["accuracy_low"], best["accuracy_high"]) == pytest.approx(limits)
    balanced = balanced_accuracy_score(expected["label"], predicted)
    assert best["balanced_accuracy"] == pytest.approx(balanced)
    auroc = roc_auc_score(expected["label"], expected["malignant"])
    assert best["auroc"] == pytest.approx(auroc, abs=1e-6)
    metrics = grouped.class_metrics
    malignant = metrics[metrics["key"].eq(grouped.best_key)].iloc[1]
    assert malignant["support"] == PATIENTS // 2
    assert malignant["recall"] == pytest.approx(recall_score(expected["label"], predicted))
    specificity = recall_score(expected["label"], predicted, pos_label=0)
    assert malignant["specificity"] == pytest.approx(specificity)


@pytest.mark.parametrize("aggregate", ["vote", "max"])
def test_patients_by_vote_or_highest_probability_are_those_of_scikit_learn(tmp_path, aggregate):
    analysis = read_analysis(write_patients(tmp_path, aggregate=aggregate))
    rows = analysis.results.predictions
    rows = rows[rows["subset"].eq("test") & rows["key"].eq(analysis.grouped_sets[0].best_key)]
    malignant = rows["probabilities"].str[1].astype(float)
    by_patient = rows.assign(malignant=malignant).groupby("group")
    labels = by_patient["label"].first()
    if aggregate == "vote":
        scores = by_patient["prediction"].mean()
    else:
        highest = by_patient["malignant"].max()
        scores = highest / (highest + 1 - by_patient["malignant"].min())
    best = analysis.grouped_sets[0].scores.loc[analysis.grouped_sets[0].best_key]
    assert best["accuracy"] == pytest.approx(accuracy_score(labels, scores > 0.5))
    assert best["auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)


def test_equal_votes_are_decided_by_the_mean_probability():
    probabilities = np.array([[0.6, 0.4, 0], [0.1, 0.9, 0], [0, 0.45, 0.55], [0, 0.1, 0.9]])
    shares, predictions = aggregate_images(
        probabilities, np.array([0, 0, 1, 1]), probabilities.argmax(1), "vote"
    )
    assert shares.tolist() == [[0.5, 0.5, 0], [0, 0, 1]]
    assert predictions.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("aggregate", "text"), [("mean", "are the means of"), ("vote", "share"), ("max", "highest")]
)
def test_table_page_and_methods_say_how_images_of_a_patient_count(tmp_path, aggregate, text):
    analysis = read_analysis(write_patients(tmp_path, aggregate=aggregate))
    tables = (detail_tables.groups_table(analysis), detail_tables.group_classes_table(analysis))
    for table in tables:
        assert text in " ".join(table.notes)
    assert text in render_page(ReportContext(analysis))
    codes = [sentence.code for sentence in describe_methods(analysis, []).sentences()]
    assert f"group_{aggregate}" in codes


def test_patients_of_all_folds_count_once(tmp_path: Path):
    analysis = read_analysis(write_patients(tmp_path, folds=3))
    grouped = analysis.grouped_sets[0]
    expected = mean_probabilities(analysis, "test")
    accuracy = accuracy_score(expected["label"], expected["malignant"] > 0.5)
    best = grouped.scores.loc[grouped.best_key]
    assert best["images"] == PATIENTS
    assert best["accuracy"] == pytest.approx(accuracy)


def test_size_of_folds_is_compared_with_training_images(tmp_path: Path):
    analysis = read_analysis(write_patients(tmp_path, folds=3))
    by_group = analysis.grouped_sets[0].results.trials
    assert by_group["test_images"].tolist() == [PATIENTS // 3 * IMAGES] * 6


def test_pairs_are_tested_over_patients(tmp_path: Path):
    analysis = read_analysis(write_patients(tmp_path))
    (pair,) = analysis.grouped_sets[0].best_pairs.to_dict("records")
    assert (pair["n"], pair["test"]) == (PATIENTS, "mcnemar")
    said = sentences.claim(analysis, pair, "en", units="groups")
    assert f"of {PATIENTS} groups correct" in said


@pytest.mark.parametrize(
    ("changed", "problem"),
    [({"group": None}, "unknown"), ({"group": "all"}, "labels")],
)
def test_groups_that_are_no_units_have_a_reason(tmp_path: Path, changed: dict, problem: str):
    analysis = read_analysis(write_patients(tmp_path, **changed))
    assert [grouped.problem for grouped in analysis.group_sets] == [problem, problem]
    report = ReportContext(analysis)
    said = sentences.describe_groups(report, analysis.group_sets[0])
    assert said.startswith("test images: there are no numbers of groups, since")
    assert ("no numbers of groups" in render_page(report)) == (problem == "labels")


def test_groups_in_several_subsets_have_a_reason_at_home_but_not_elsewhere(tmp_path: Path):
    analysis = read_analysis(write_patients(tmp_path))
    analysis.results.trials["split_leaks_groups"] = True
    assert [grouped.problem for grouped in analysis.group_sets] == ["leak", ""]


def test_page_methods_and_tables_show_patients_and_verify_knows_them(tmp_path: Path):
    folder = write_patients(tmp_path)
    analysis = read_analysis(folder)
    page = render_page(ReportContext(analysis))
    assert "By group (test images: 60 groups), the recipe that validation chose has" in page
    assert "By group (b: 60 groups), the recipe that validation chose has" in page
    codes = [sentence.code for sentence in describe_methods(analysis, []).sentences()]
    assert codes.count("group_result") == 2
    names = ("groups", "groups-per-class")
    write_report(str(folder), ReportOptions(tables=names, format=("csv", "md")))
    for name in names:
        verification = verify_file(folder / "report" / f"{name}.md", analysis)
        assert not verification.errors
        assert verification.compared_cells
    file = folder / "report" / "groups.md"
    accuracy = 100 * analysis.grouped_sets[0].scores["accuracy"].iloc[0]
    text = file.read_text()
    assert f" {accuracy:.0f}" in text
    file.write_text(text.replace(f" {accuracy:.0f}", " 11", 1))
    assert verify_file(file, analysis).errors
