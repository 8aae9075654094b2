"""Find what makes numbers or their comparison unreliable, and what readers must know of them.

A `Check` is a code with values. Each output turns it into text.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from bioimg.config import MIN_TEST_GROUPS
from bioimg.experiment import EarlyStopping
from bioimg.report.class_images import SUBSETS, find_class_images
from bioimg.report.formatting import format_list, shorten_name
from bioimg.report.translation import column_header, translate
from bioimg.results import statistics
from bioimg.results.configurations import configuration_keys
from bioimg.results.result_store import Results

CONDITION_COLUMNS = {
    "device": ["model"],
    "precision_used": ["model", "precision"],
    "batch_norm": ["model", "freeze", "workers"],
}
"""How trials ran: columns that aren't settings, each with the settings that may change it."""
COMPARABILITY_COLUMNS = ("data_fingerprint", "split", "group_pattern", "test_images")
COUNT_BY_CHECK = {
    "copies": "duplicate_images_across_splits",
    "look_alikes": "look_alike_images_across_splits",
    "ignored": "ignored_files",
    "unreadable": "unreadable_skipped",
}
"""The column whose number, if it isn't zero, makes each of these warnings."""
MAX_COUNTED_CLASSES = 20
"""The most classes whose images a note counts; the methods section counts all."""


@dataclass(frozen=True)
class Check:
    """Something that readers must know about numbers."""

    code: str
    """With the level, the key of its text, such as `warning.leak` or `note.source`."""
    level: Literal["warning", "note"] = "note"
    """warning: numbers or their comparison are unreliable. note: what they mean."""
    values: dict[str, Any] = field(default_factory=dict)
    """What the text shows."""

    def text(self, lang: str) -> str:
        """Return the sentence for readers of a language."""
        texts = {}
        for name, value in self.values.items():
            if name == "columns":
                value = [column_header(column, lang) for column in value]
            elif name == "tests":
                value = [translate(f"test.{test}", lang) for test in value]
            texts[name] = format_list(value) if isinstance(value, list) else value
        return translate(f"{self.level}.{self.code}", lang, **texts)


def warning(code: str, /, **values: object) -> Check:
    """Return a check that says that numbers or their comparison are unreliable."""
    return Check(code, "warning", values)


def note(code: str, /, **values: object) -> Check:
    """Return a check that says what numbers mean."""
    return Check(code, "note", values)


def find_checks(results: Results, shown: pd.DataFrame) -> Iterator[Check]:
    """Yield what makes the numbers of these trials or their comparison unreliable, worst first."""
    manifest = results.manifest
    has_synthetic_trials = shown["synthetic"].eq(True).any()
    if manifest["data"].get("synthetic") or has_synthetic_trials:
        yield warning("synthetic")
    if not manifest.get("complete", True):
        yield warning("incomplete", ended=len(results.trials))
    mixed = incomparable_columns(shown)
    if mixed:
        yield warning("mixed", columns=mixed)
    lengths = sorted(shown["epochs"].unique())
    if len(lengths) > 1:
        yield warning("epochs_differ", epochs=lengths)
    uncontrolled = uncontrolled_columns(shown)
    if uncontrolled:
        yield warning("conditions", columns=uncontrolled)
    if shown["split_leaks_groups"].eq(True).any():
        yield warning("leak")
    groups = count_test_groups(results, shown)
    fewest = groups["effective"].min()
    if groups["groups"].min() == 1:
        yield warning("one_group")
    elif fewest < MIN_TEST_GROUPS:
        yield warning(
            "few_groups",
            groups=sorted(groups["groups"].unique()),
            effective=f"{fewest:.1f}",
            fewest=MIN_TEST_GROUPS,
        )
    yield from _data_checks(shown)


def _data_checks(shown: pd.DataFrame) -> Iterator[Check]:
    """Yield what was noticed about images and files of the data set."""
    patterns = shown["likely_group_pattern"].dropna().unique()
    if len(patterns):
        yield warning("likely_groups", pattern=patterns[0])
    for code, column in COUNT_BY_CHECK.items():
        count = shown[column].max()
        if count > 0:
            yield warning(code, n=int(count))


def incomparable_columns(trials: pd.DataFrame) -> list[str]:
    """Return the columns that must be equal in all completed trials, but aren't."""
    completed = trials[trials["status"].eq("completed")]
    required = list(COMPARABILITY_COLUMNS)
    has_folds = trials["fold"].nunique() > 1
    if has_folds:
        # folds need not be of one size
        required.remove("test_images")
    value_counts = completed[required].nunique(dropna=False)
    names = value_counts.index[value_counts > 1].tolist()
    if _has_ambiguous_weights(completed):
        names.append("weights_digest")
    return names


def uncontrolled_columns(trials: pd.DataFrame) -> list[str]:
    """Return the conditions in which completed trials differ although no setting changes them."""
    completed = trials[trials["status"].eq("completed")]
    names = []
    for column, settings in CONDITION_COLUMNS.items():
        if completed.groupby(settings)[column].nunique().gt(1).any():
            names.append(column)
    return names


def count_test_groups(results: Results, trials: pd.DataFrame) -> pd.DataFrame:
    """Count the known groups among the test images of each configuration.

    Returns:
        The columns `groups` and `effective`, how many groups of equal size are worth as much. One
        row per configuration, none if no groups are known.
    """
    rows = results.predictions
    rows = rows[rows["key"].isin(trials["key"]) & rows["subset"].eq("test")]
    rows = rows[rows["group"].notna()]
    # the folds of a configuration add up, its seeds have the same images
    configuration_by_trial = dict(zip(trials["key"], configuration_keys(trials), strict=True))
    configurations = rows["key"].map(configuration_by_trial)
    images = rows.assign(configuration=configurations).drop_duplicates(["configuration", "image"])
    groups = images.groupby("configuration")["group"]
    effective = groups.agg(statistics.effective_group_count)
    return pd.DataFrame({"groups": groups.nunique(), "effective": effective.astype(float)})


def _has_ambiguous_weights(trials: pd.DataFrame) -> bool:
    """Return True if one name stands for several weights, as when machines have different files."""
    digests = trials.groupby(["model", "weights"])["weights_digest"].nunique()
    return bool(digests.gt(1).any())


def data_notes(results: Results, shown: pd.DataFrame) -> Iterator[Check]:
    """Yield which images these trials saw, and how they were divided."""
    data = results.manifest["data"]
    counts: dict[str, object] = {}
    for subset in SUBSETS:
        counts[subset] = list(shown[f"{subset}_images"].dropna().astype(int).unique())
    yield note("images", **counts, data=data["name"], fingerprint=data["fingerprint"])
    yield from _class_notes(results, shown)
    yield note("split", split=list(shown["split"].unique()))
    if data.get("groups") is None and len(shown) and shown["split_leaks_groups"].isna().all():
        yield note("unknown_groups")
    groups = count_test_groups(results, shown)["groups"]
    if len(groups):
        yield note("tested_groups", groups=sorted(groups.unique()))


def _class_notes(results: Results, shown: pd.DataFrame) -> Iterator[Check]:
    known = find_class_images(results, shown)
    if known.images.empty:
        return
    texts = []
    for name, counts in known.counts():
        texts.append(f"{shorten_name(name)} {'/'.join(map(str, counts))}")
    counts = format_list(texts, MAX_COUNTED_CLASSES)
    yield note("class_images" if known.subsets else "class_images_folds", counts=counts)


def stopping_notes(results: Results, shown: pd.DataFrame) -> Iterator[Check]:
    """Yield how early stopping and failures reduced these trials, and whether any is repeated."""
    stopped = int(shown["status"].eq("stopped").sum())
    failed = int(shown["status"].eq("failed").sum())
    rule = results.manifest.get("early_stopping")
    if rule:
        yield _early_stopping_note(rule, shown, stopped)
        # rules of earlier versions had no guard
        if stopped and "alpha" in rule:
            yield note("stopping_guard", alpha=rule["alpha"])
    elif stopped:
        yield note("stopped_before", stopped=stopped, trials=len(shown))
    else:
        yield note("no_stopping")
    if failed:
        yield note("failed", failed=failed, trials=len(shown))
    is_repeated = configuration_keys(shown).duplicated().any()
    has_completed = shown["status"].eq("completed").any()
    if has_completed and not is_repeated:
        yield note("one_run")


def _early_stopping_note(rule: dict, shown: pd.DataFrame, stopped: int) -> Check:
    early_stopping = EarlyStopping(grace_period=rule["grace_period"])
    grace_epochs = {early_stopping.grace_epochs(epochs) for epochs in shown["epochs"]}
    # an earlier command may have stopped trials by another metric
    metrics = list(shown["rung_metric"].dropna().unique())
    return note(
        "stopping" if stopped else "stopping_none",
        metric=metrics or rule["metric"],
        grace_period=sorted(grace_epochs),
        reduction_factor=rule["reduction_factor"],
        within=list(rule["compare_within"]),
        stopped=stopped,
        trials=len(shown),
    )
