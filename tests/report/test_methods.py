"""The methods section: each sentence only where it is true, and what checklists make of it."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docx
import pandas as pd
import pytest

from bioimg.config import TrialConfig
from bioimg.experiment import EarlyStopping
from bioimg.report import methods
from bioimg.report.analysis import Analysis
from bioimg.report.methods import checklists
from bioimg.report.methods.checklists import fill_checklists
from bioimg.report.methods.describe_methods import PARAGRAPHS, Methods, describe_methods
from bioimg.report.translation import LANGUAGES, read_catalogue, translate
from bioimg.report.write import ReportOptions, write_report
from bioimg.results.looks import Look, read_looks
from bioimg.training.optimisation import SGD_MOMENTUM
from support.example_results import (
    SIMULATED_AXES,
    prediction_rows,
    read_analysis,
    trial_row,
    write_results,
    write_simulated_results,
)

BASE: dict[str, Any] = {"data": "kather2016", "split": "stratified"}
MEASURED = {"test_accuracy": 0.9, "unreadable_skipped": 0, "duplicate_images_across_splits": 0}
GROUPS = [f"slide-{image % 20}" for image in range(600)]


def describe(folder: Path, looks: Sequence[Look] = (), lang: str = "en") -> Methods:
    return describe_methods(read_analysis(folder), looks, lang)


def sentence_texts(described: Methods) -> dict[str, str]:
    return {sentence.code: sentence.text for sentence in described.sentences()}


def write_two_recipes(
    folder: Path, *, groups: list[str] | None = None, repeats: Sequence[dict] = ({},), **manifest
) -> Path:
    """Write two recipes, the first of which validation prefers."""
    rows, predictions = [], []
    for weights, loss, wrong in (("IMAGENET1K_V2", 0.3, 30), ("none", 0.6, 120)):
        for repeat in repeats:
            config = TrialConfig(**BASE, weights=weights, **repeat)
            # another seed gets other images wrong
            shift = config.seed * 7
            mistakes = range(shift, wrong + shift)
            rows.append(trial_row(config, best_val_loss=loss, **MEASURED))
            images = prediction_rows(config.key, mistakes, groups=groups)
            # each image is tested in one fold
            predictions += images[config.fold :: max(config.folds, 1)]
    return write_results(folder, rows, predictions=predictions, **manifest)


def test_every_text_is_named_in_code():
    files = Path(methods.__file__).parent.glob("*.py")
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    beginnings = "title|resize|scaling|class_weights|optimizer|schedule|sampling|augmentation|field"
    beginnings += "|subset|split|freeze|metric|score|name|interval|test|means"
    beginnings += "|patience_metric"
    for key in read_catalogue("en"):
        section, _, code = key.partition(".")
        if section == "methods" and not re.match(rf"({beginnings})_", code):
            assert re.search(rf"[\".]{code}\"", source), key


def test_every_choice_of_a_described_setting_has_a_text():
    catalogue = read_catalogue("en")
    for field in dataclasses.fields(TrialConfig):
        choices = field.metadata["choices"]
        has_text = [f"methods.{field.name}_{choice}" in catalogue for choice in choices]
        # the score and the precision are described as they were resolved
        if field.name not in ("score", "precision"):
            assert all(has_text), field.name
    for metric in EarlyStopping.__dataclass_fields__["metric"].metadata["choices"]:
        assert f"methods.metric_{metric}" in catalogue


def test_momentum_in_the_text_is_the_one_that_is_used():
    assert str(SGD_MOMENTUM) in translate("methods.optimizer_sgd", "en")


# images and their division


def test_unknown_groups_are_said_to_be_unknown(tmp_path: Path):
    texts = sentence_texts(describe(write_two_recipes(tmp_path)))
    assert texts["groups_unknown"] == (
        "Which images came from the same slide or patient was not known."
    )
    assert not {"groups", "leak", "leak_none", "tested_groups"} & set(texts)


def test_known_groups_are_counted(tmp_path: Path):
    texts = sentence_texts(describe(write_simulated_results(tmp_path)))
    assert texts["groups"] == "The images came from 10 groups, such as slides or patients."
    assert texts["tested_groups"].endswith("of the chosen recipe was 10.")
    assert texts["leak"].startswith("Images of one group were in more than one subset")
    assert "groups_unknown" not in texts


def test_unreadable_images_and_copies_are_told_only_if_known(tmp_path: Path):
    found = {"unreadable_skipped": 2, "duplicate_images_across_splits": 3}
    row = trial_row(TrialConfig(**BASE), **found)
    known = sentence_texts(describe(write_results(tmp_path / "a", [row])))
    assert known["unreadable"] == "Images that could not be read were excluded (2)."
    assert "(3)" in known["copies"]
    row = trial_row(TrialConfig(**BASE))
    unknown = sentence_texts(describe(write_results(tmp_path / "b", [row])))
    for code in ("unreadable", "unreadable_none", "copies", "copies_none"):
        assert code not in unknown


def test_table_of_classes_counts_images_and_groups_by_subset(tmp_path: Path):
    folder = write_two_recipes(tmp_path)
    images = pd.DataFrame(
        [
            ("stratified", 0, 0, None, "a", "s1", 0, "train"),
            ("stratified", 0, 0, None, "b", "s1", 0, "train"),
            ("stratified", 0, 0, None, "c", "s2", 0, "test"),
            ("grouped", 0, 0, None, "c", "s2", 0, "val"),
        ],
        columns=["split", "folds", "fold", "group_pattern", "image", "group", "label", "subset"],
    )
    results = dataclasses.replace(read_analysis(folder).results, images=images)
    table = describe_methods(Analysis(results), []).class_table
    assert table is not None
    assert table.headers == ("class", "training", "validation", "test", "all")
    assert table.rows[0] == ("tumour", "2 (1)", "0 (0)", "1 (1)", "3 (2)")
    assert table.rows[-1] == ("all classes", "2 (1)", "0 (0)", "1 (1)", "3 (2)")


def test_varied_settings_are_all_named(tmp_path: Path):
    rows = []
    for size, resize in ((64, "crop"), (128, "pad")):
        rows.append(trial_row(TrialConfig(**BASE, image_size=size, resize=resize)))
    texts = sentence_texts(describe(write_results(tmp_path, rows)))
    assert texts["resizing"] == (
        "Images were cropped to their central square or padded with black to a square and resized "
        "to 64 × 64 or 128 × 128 pixels."
    )
    assert texts["recipes"].startswith("2 recipes were compared, which differed in image size")


# training


def test_early_stopping_is_described_by_its_rule(tmp_path: Path):
    texts = sentence_texts(describe(write_simulated_results(tmp_path)))
    assert "after epoch 2, 4 or 8, a training could be stopped" in texts["stopping"]
    assert texts["endings"] == (
        "Of all trainings (12), 9 were completed, 2 stopped early and 1 failed."
    )
    assert "no_stopping" not in texts


def test_guard_of_early_stopping_is_described_where_the_rule_has_one(tmp_path: Path):
    rule = {
        "metric": "val_loss",
        "grace_period": 3,
        "reduction_factor": 2,
        "compare_within": ["freeze"],
    }
    row = trial_row(TrialConfig(**BASE))
    plain = write_results(tmp_path / "a", [row], early_stopping=rule)
    assert "stopping_guard" not in sentence_texts(describe(plain))
    guarded = write_results(tmp_path / "b", [row], early_stopping={**rule, "alpha": 0.05})
    texts = sentence_texts(describe(guarded))
    assert "at a level of 0.05" in texts["stopping_guard"]
    assert "stopping_steps" not in texts


def test_unequal_classes_are_said_to_be_countered_only_if_they_were(tmp_path: Path):
    plain = sentence_texts(describe(write_two_recipes(tmp_path / "a")))
    assert "imbalance_none" in plain
    row = trial_row(TrialConfig(**BASE, class_weights="balanced"))
    weighted = sentence_texts(describe(write_results(tmp_path / "b", [row])))
    assert weighted["imbalance"] == "Unequal sizes of classes were countered by class weights."


# selection and statistics


def test_one_run_each_without_groups_is_tested_by_mcnemar(tmp_path: Path):
    texts = sentence_texts(describe(write_two_recipes(tmp_path)))
    assert texts["tests"].endswith("it came from McNemar's exact test.")
    assert "interval_images_accuracy" in texts
    assert "scope_models" in texts
    assert "holm_one" in texts
    assert "holm" not in texts


def test_groups_folds_and_seeds_change_tests_and_intervals(tmp_path: Path):
    repeats = [{"folds": 3, "fold": fold, "seed": seed} for fold in range(3) for seed in (0, 1)]
    folder = write_two_recipes(tmp_path, groups=GROUPS, repeats=repeats)
    texts = sentence_texts(describe(folder))
    assert texts["folds"].startswith("Cross-validation had 3 folds")
    assert texts["seeds"] == "Each recipe was trained with 2 seeds (0, 1)."
    assert "interval_groups_accuracy" in texts
    assert "interval_folds" in texts
    assert "test_unused_folds" in texts
    assert "test_unused" not in texts
    assert texts["result_runs"] == "This is the mean of 6 trainings."


def test_tests_that_are_named_are_those_of_the_comparison(tmp_path: Path):
    folder = write_two_recipes(tmp_path, repeats=[{"seed": seed} for seed in range(3)])
    codes = read_analysis(folder).best_pairs["test"].unique()
    names = [translate(f"methods.test_{code}", "en") for code in codes]
    texts = sentence_texts(describe(folder))
    assert texts["tests"].endswith(f"it came from {' or '.join(names)}.")
    assert "interval_runs" in texts
    assert "scope_recipes" in texts


def test_one_group_of_test_images_gives_no_interval_and_no_test(tmp_path: Path):
    folder = write_two_recipes(tmp_path, groups=["slide"] * 600)
    texts = sentence_texts(describe(folder))
    assert "interval_none" in texts
    assert "tests" not in texts
    assert "result_interval" not in texts
    assert texts["outcome_unknown"].endswith("1.")


def test_balanced_score_is_described(tmp_path: Path):
    row = trial_row(TrialConfig(**BASE), score_used="balanced_accuracy", best_val_loss=0.4)
    row |= MEASURED
    folder = write_results(
        tmp_path,
        [row],
        predictions=prediction_rows(row["key"], range(30)),
        score="balanced_accuracy",
    )
    texts = sentence_texts(describe(folder))
    assert "the mean over classes" in texts["score_balanced_accuracy"]
    assert texts["score_auto"].startswith("It was preferred to accuracy")
    assert "balanced_loss" in texts
    assert "score_accuracy" not in texts


def test_result_is_that_of_the_analysis(tmp_path: Path):
    texts = sentence_texts(describe(write_two_recipes(tmp_path)))
    assert texts["result"] == "Its accuracy on 600 test images was 95.0 %."
    # Wilson's interval of 570 in 600
    assert texts["result_interval"] == "The 95 % confidence interval was 93.0 % to 96.5 %."
    assert "0 were significantly better, 1 significantly worse" in texts["outcome"]


def test_trainings_after_a_look_at_the_test_results_are_told(tmp_path: Path):
    looks = [Look(time="2026-03-01T10:00:00+00:00", completed=1)]
    looks.append(Look(time="2026-03-02T10:00:00+00:00", completed=2))
    folder = write_two_recipes(tmp_path)
    texts = sentence_texts(describe(folder, looks))
    assert texts["looks"] == (
        "Tables or reports with test results were made 2 times, first on 2026-03-01 with 1 "
        "completed trainings."
    )
    assert texts["looks_later"] == "Of 2 completed trainings, 1 were completed after that."
    assert "looks_later" not in sentence_texts(describe(folder, looks[1:]))
    assert "looks_unknown" in sentence_texts(describe(folder))


def test_results_without_a_completed_trial_have_no_statistics(tmp_path: Path):
    row = trial_row(TrialConfig(**BASE), status="failed", error="boom")
    described = describe(write_results(tmp_path, [row]))
    assert "result_none" in sentence_texts(described)
    assert "Statistics" not in [section.title for section in described.sections]


# checklists


def checklist_items(name: str) -> list[str]:
    prefix = f"{name}.item_"
    return [key.removeprefix(prefix) for key in read_catalogue("en") if key.startswith(prefix)]


def test_checklists_have_all_items_of_the_guidelines():
    assert len(checklist_items("tripod")) == 52
    assert len({item.rstrip("abcdefg") for item in checklist_items("tripod")}) == 27
    assert checklist_items("claim") == [str(item) for item in range(1, 45)]


@pytest.mark.parametrize("name", ["tripod", "claim"])
def test_answers_name_items_and_sentences_that_exist(name: str):
    answers = getattr(checklists, name.upper())
    complete = getattr(checklists, f"{name.upper()}_COMPLETE")
    assert set(complete) <= set(answers) <= set(checklist_items(name))
    codes = {code for item in answers.values() for code in item} - {"table"}
    assert {f"methods.{code}" for code in codes} <= set(read_catalogue("en"))


def test_items_that_results_cannot_answer_are_for_the_author(tmp_path: Path):
    tripod, claim = fill_checklists(describe(write_simulated_results(tmp_path)))
    answers = {row[0]: row[2] for row in tripod.rows}
    assert answers["17"] == "For the author."
    assert answers["12a"].startswith("Images were divided")
    assert "author" not in answers["12a"]
    assert answers["5a"].endswith("The rest is for the author.")
    assert {row[0]: row[2] for row in claim.rows}["44"] == "For the author."


def test_items_that_were_not_recorded_are_for_the_author(tmp_path: Path):
    row = trial_row(TrialConfig(**BASE))
    _, claim = fill_checklists(describe(write_results(tmp_path, [row])))
    assert {row[0]: row[2] for row in claim.rows}["12"] == "For the author."


# files


@pytest.mark.parametrize("lang", LANGUAGES)
def test_report_writes_methods_as_markdown_and_word(tmp_path: Path, lang: str):
    folder = write_simulated_results(
        tmp_path / "results", axes={**SIMULATED_AXES, "batch_size": (32,)}
    )
    options = ReportOptions(methods=True, format=("docx",), lang=lang, out=tmp_path / "report")
    write_report(str(folder), options)
    text = (tmp_path / "report" / "methods.md").read_text(encoding="utf-8")
    page = docx.Document(str(tmp_path / "report" / "methods.docx"))
    titles = [paragraph.text for paragraph in page.paragraphs if "Heading" in paragraph.style.name]
    # the results have neither an external set nor groups of one class each
    for name in PARAGRAPHS.keys() - {"external", "groups"}:
        title = translate(f"methods.title_{name}", lang)
        assert f"\n## {title}\n" in text
        assert title in titles
    assert text.count("\n| ") == sum(len(table.rows) for table in page.tables) + len(page.tables)
    looks = read_looks(folder)
    assert len(looks) == 1
    sentences = describe(folder, looks, lang).sentences()
    assert next(item.text for item in sentences if item.code == "looks_once") in text


def test_methods_are_written_only_if_asked_and_word_only_if_chosen(tmp_path: Path):
    folder = str(write_two_recipes(tmp_path / "results"))
    write_report(folder, ReportOptions(format=("docx",), out=tmp_path / "plain"))
    write_report(folder, ReportOptions(methods=True, format=("md",), out=tmp_path / "methods"))
    assert not (tmp_path / "plain" / "methods.md").exists()
    assert (tmp_path / "methods" / "methods.md").exists()
    assert not (tmp_path / "methods" / "methods.docx").exists()


def test_names_from_the_data_stay_text_in_markdown(tmp_path: Path):
    folder = write_simulated_results(tmp_path / "results", classes=("a|b", "<b>", "*c*"))
    options = ReportOptions(methods=True, format=("md",), out=tmp_path / "report")
    write_report(str(folder), options)
    text = (tmp_path / "report" / "methods.md").read_text(encoding="utf-8")
    assert r"a\|b, &lt;b&gt; and \*c\*" in text
