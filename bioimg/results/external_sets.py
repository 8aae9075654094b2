"""External sets: labelled images from elsewhere, on which recipes are evaluated but not selected.

Their predictions are rows of predictions.parquet, with the subset `external:NAME`. What is known of
each set is in experiment.json, under `external`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bioimg.results.looks import Look
from bioimg.results.result_store import Results
from bioimg.results.score import Score, measure_score

SUBSET_PREFIX = "external:"


@dataclass(frozen=True, kw_only=True)
class ExternalSet:
    """What experiment.json records of an external set."""

    data: str
    """The name of its folder or file."""
    fingerprint: str
    """A hash of names, pixels, labels and groups."""
    images: int
    """How many of its images were evaluated."""
    groups: int | None
    """How many groups these are of; null if they aren't known."""
    classes: dict[str, int]
    """The number of images of each class of the experiment."""
    class_map: dict[str, str]
    """The class of the experiment that another name was taken for."""
    copies_left_out: int
    """Images that also are training or validation images, and weren't evaluated."""
    look_alikes: int | None
    """Images that look like one of those; null if it couldn't be found out."""
    known_groups: int
    """Groups with the name of a group of training or validation images."""
    clipped_share: float | None = None
    """The share of values beyond what training images span; null if they aren't scaled."""
    synthetic: bool
    """Whether a program drew the images."""
    evaluations: list[dict[str, Any]]
    """When trials were evaluated on it, and how many: fields of `Look`, the first one first."""

    @property
    def looks(self) -> list[Look]:
        """When it was evaluated, the first time first, and how many trials had results by then."""
        return [Look(**record) for record in self.evaluations]

    @property
    def missing_classes(self) -> list[str]:
        """The classes of the experiment of which it has no image."""
        return [name for name, count in self.classes.items() if not count]


def external_subset(name: str) -> str:
    """Return the subset of the predictions for an external set."""
    return f"{SUBSET_PREFIX}{name}"


def read_external_sets(manifest: Mapping[str, Any]) -> dict[str, ExternalSet]:
    """Return the external sets in experiment.json by name; earlier versions have none."""
    return {name: ExternalSet(**record) for name, record in manifest.get("external", {}).items()}


def external_results(results: Results, name: str) -> Results:
    """Return results in which the images of an external set stand in place of the test images.

    Only trials that were evaluated on it have predictions and measures. The models of all folds
    were tested on the same images, so they count as runs of one fold.
    """
    rows = results.predictions[results.predictions["subset"].eq(external_subset(name))]
    # what the split at home did to groups doesn't matter here
    return replace_test_rows(results, rows, fold=0, split_leaks_groups=None)


def replace_test_rows(results: Results, rows: pd.DataFrame, **columns: Any) -> Results:
    """Return results with other rows as test predictions, and what they change in trials.

    rows: predictions of some trials, of any subset.
    columns: further columns of trials to replace.
    """
    measured = {str(key): _measure(part) for key, part in rows.groupby("key", sort=False)}
    names = ("test_accuracy", "balanced_accuracy", "test_images")
    measures = pd.DataFrame.from_dict(measured, orient="index", columns=list(names))
    trials = results.trials.assign(**columns)
    for name in names:
        trials[name] = trials["key"].map(measures[name])
    is_balanced = trials["score_used"].eq("balanced_accuracy")
    score = trials["balanced_accuracy"].where(is_balanced, trials["test_accuracy"])
    trials = trials.assign(test_score=score, macro_f1=float("nan"))
    return dataclasses.replace(results, trials=trials, predictions=rows.assign(subset="test"))


def _measure(rows: pd.DataFrame) -> tuple[float, float, int]:
    """Return the accuracy, the balanced accuracy and the number of images of one trial."""
    labels, predictions = rows["label"].to_numpy(), rows["prediction"].to_numpy()
    scores: list[Score] = ["accuracy", "balanced_accuracy"]
    accuracy, balanced = (measure_score(labels, predictions, score) for score in scores)
    return accuracy, balanced, len(rows)
