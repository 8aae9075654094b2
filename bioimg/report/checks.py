"""Find what makes numbers or their comparison unreliable, and what readers must know of them.

A `Check` is a code with values. Each output turns it into text.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from bioimg.config import MIN_TEST_GROUPS
from bioimg.data.image_groups import count_effective_groups
from bioimg.data.intensity_scaling import MAX_CLIPPED_SHARE
from bioimg.experiment import TUNED_STEP, EarlyStopping
from bioimg.models.licences import forbids_commerce, forbids_sharing
from bioimg.report.class_images import SUBSETS, find_class_images
from bioimg.report.formatting import format_list, shorten_name
from bioimg.report.translation import column_header, translate
from bioimg.results.configurations import configuration_keys
from bioimg.results.external_sets import ExternalSet
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
USED_INTERPOLATION = "bilinear"
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

    @property
    def is_warning(self) -> bool:
        """Whether it says that numbers are unreliable."""
        return self.level == "warning"

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


def tuning_warnings(tried: pd.DataFrame, tuned: Sequence[str]) -> Iterator[Check]:
    """Yield what makes choices of tuned values doubtful, and how to mend it.

    tried: as from `chosen_values.tried_values`.
    """
    counts = tried.groupby(["key", "fold"]).size()
    if counts.nunique() > 1:
        yield warning("tried_unevenly", fewest=int(counts.min()), most=int(counts.max()))
    for name in tuned:
        yield from _range_warnings(tried, name)


def _range_warnings(tried: pd.DataFrame, field: str) -> Iterator[Check]:
    """Yield whether recipes have the lowest or highest number that they were tried with."""
    numbers = pd.api.types.is_numeric_dtype(tried[field]) and tried[field].dtype != bool
    if not numbers or tried[field].nunique() < 2:
        return
    cells = tried.groupby(["key", "fold"])[field]
    lowest, highest = cells.transform("min"), cells.transform("max")
    chosen = tried["chosen"] & tried["completed"].gt(0) & lowest.ne(highest)
    # no rate is lower than 0
    at_lowest = tried[chosen & tried[field].eq(lowest) & tried[field].gt(0)]
    at_highest = tried[chosen & tried[field].eq(highest)]
    at_end = pd.concat([at_lowest, at_highest])["key"].nunique()
    if not at_end:
        return
    values = sorted(tried[field].unique().tolist())
    extended = list(values)
    if len(at_lowest) and at_lowest[field].min() == values[0]:
        extended.insert(0, _next_value(values[1], values[0]))
    if len(at_highest) and at_highest[field].max() == values[-1]:
        extended.append(_next_value(values[-2], values[-1]))
    yield warning(
        "end_of_range",
        columns=[field],
        recipes=at_end,
        all=tried["key"].nunique(),
        command=format_flag(field, extended),
    )


def _next_value(before: float, last: float) -> float:
    """Return the value that continues two by their ratio."""
    ratio = last / before if before else TUNED_STEP
    return type(last)(float(f"{last * ratio:.2g}"))


def format_flag(field: str, values: Iterable[float]) -> str:
    """Return the flag that gives a field these values."""
    texts = [f"{value:g}" for value in values]
    return f"--{field.replace('_', '-')} {' '.join(texts)}"


def tuning_note(results: Results, tried: pd.DataFrame) -> Check:
    """Return which fields were tuned, with which values, and how many trials that took.

    results: those of all values.
    tried: as from `chosen_values.tried_values`.
    """
    tuned = results.tuned_fields
    combinations = tried.drop_duplicates(list(tuned))
    statuses = results.trials["status"]
    return note(
        "tuned_folds" if tried["fold"].nunique() > 1 else "tuned",
        columns=list(tuned),
        n=len(combinations),
        seeds=results.manifest["tune_seeds"],
        trials=len(results.trials),
        stopped=int(statuses.eq("stopped").sum()),
    )


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
    keys = configuration_keys(trials, results.tuned_fields)
    configuration_by_trial = dict(zip(trials["key"], keys, strict=True))
    configurations = rows["key"].map(configuration_by_trial)
    images = rows.assign(configuration=configurations).drop_duplicates(["configuration", "image"])
    groups = images.groupby("configuration")["group"]
    effective = groups.agg(count_effective_groups)
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


def external_checks(name: str, record: ExternalSet, *, has_folds: bool) -> Iterator[Check]:
    """Yield what readers must know about an external set: doubts first, then its images.

    has_folds: whether models of several folds were tested on it.
    """
    if record.synthetic:
        yield warning("external_synthetic", set=name)
    if record.look_alikes:
        yield warning("external_look_alikes", set=name, n=record.look_alikes)
    if record.known_groups:
        yield warning("external_known_groups", set=name, n=record.known_groups)
    if has_folds:
        yield warning("external_folds", set=name)
    share = record.clipped_share
    if share is not None and share > MAX_CLIPPED_SHARE:
        yield warning("external_clipped", set=name, percent=f"{100 * share:.0f}")
    counts = [f"{shorten_name(label)} {count}" for label, count in record.classes.items()]
    yield note(
        "external_images",
        set=name,
        images=record.images,
        fingerprint=record.fingerprint,
        counts=format_list(counts, MAX_COUNTED_CLASSES),
    )
    if record.copies_left_out:
        yield note("external_copies", set=name, n=record.copies_left_out)
    looks = record.looks
    date = looks[0].time[:10]
    if len(looks) == 1:
        yield note("external_looks_once", set=name, date=date)
    else:
        later = looks[-1].completed - looks[0].completed
        yield note("external_looks", set=name, n=len(looks), date=date, later=later)


def weights_notes(shown: pd.DataFrame) -> Iterator[Check]:
    """Yield how weights are used otherwise than their publishers did, or may not be used."""
    for interpolation, models in _models_by_value(shown, "weights_interpolation"):
        if interpolation != USED_INTERPOLATION:
            yield note("interpolation", models=models, interpolation=interpolation)
    for licence, models in _models_by_value(shown, "weights_licence"):
        if forbids_commerce(licence):
            yield note("non_commercial", models=models, licence=licence)
        if forbids_sharing(licence):
            yield note("no_derivatives", models=models, licence=licence)


def _models_by_value(shown: pd.DataFrame, column: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each value of a column, in order, with the models that have it."""
    for value, rows in shown.groupby(column):
        yield str(value), list(rows["model"].unique())


def stopping_notes(results: Results, shown: pd.DataFrame) -> Iterator[Check]:
    """Yield how early stopping and failures reduced these trials, and whether any is repeated."""
    stopped = int(shown["status"].eq("stopped").sum())
    failed = int(shown["status"].eq("failed").sum())
    rule = results.manifest.get("early_stopping")
    if rule and results.tuned_fields:
        yield note("stopping_tuned", columns=list(results.tuned_fields))
    elif rule:
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
    is_repeated = configuration_keys(shown, results.tuned_fields).duplicated().any()
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
