"""Compose the notes below a table: images, split, and what makes a comparison unfair."""

import functools
import hashlib
from collections.abc import Iterable, Iterator

import pandas as pd

from bioimg.config import MIN_TEST_GROUPS
from bioimg.experiment import EarlyStopping
from bioimg.report.notices import Notice, make_notice
from bioimg.results.configurations import configuration_keys
from bioimg.results.result_store import Results

COMPARABILITY_COLUMNS = ("data_fingerprint", "split", "group_pattern", "test_images")
SUBSETS = ("train", "val", "test")
DIGEST_LENGTH = 10


@functools.lru_cache(maxsize=2)
def results_digest(results: Results) -> str:
    """Return ten hex digits that change with any number of the table of trials.

    The order of the rows doesn't matter.
    """
    # a NUL ends each row, since a text may contain line breaks
    table = results.trials.to_csv(index=False, header=False, lineterminator="\x00")
    rows = sorted(table.split("\x00"))
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:DIGEST_LENGTH]


def compose_notes(
    results: Results, shown: pd.DataFrame, lang: str, *extra: Notice
) -> tuple[Notice, ...]:
    """Compose the notes below a table of these trials: warnings, data, extra notes, stopping."""
    return (
        *comparison_warnings(results, shown, lang),
        *_data_notes(results, shown, lang),
        *extra,
        *_stopping_notes(results, shown, lang),
        make_notice("note.source", lang, fingerprint=results_digest(results)),
    )


def comparison_warnings(results: Results, shown: pd.DataFrame, lang: str) -> Iterator[Notice]:
    """Yield what makes these numbers or their comparison unreliable, the worst first."""
    manifest = results.manifest
    has_synthetic_trials = shown["synthetic"].eq(True).any()
    if manifest["data"].get("synthetic") or has_synthetic_trials:
        yield make_notice("warning.synthetic", lang)
    if not manifest.get("complete", True):
        yield make_notice("warning.incomplete", lang, ended=len(results.trials))
    mixed = incomparable_columns(shown)
    if mixed:
        yield make_notice("warning.mixed", lang, what=", ".join(mixed))
    lengths = sorted(shown["epochs"].unique())
    if len(lengths) > 1:
        yield make_notice("warning.epochs_differ", lang, epochs=format_list(lengths))
    if shown["split_leaks_groups"].eq(True).any():
        yield make_notice("warning.leak", lang)
    few = [count for count in test_group_counts(results, shown) if count < MIN_TEST_GROUPS]
    if few:
        groups = format_list(few)
        yield make_notice("warning.few_groups", lang, groups=groups, fewest=MIN_TEST_GROUPS)
    for name in ("duplicate_images_across_splits", "unreadable_skipped"):
        count = shown[name].max() if name in shown else 0
        if count > 0:
            yield make_notice(f"warning.{name}", lang, n=int(count))


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


def test_group_counts(results: Results, trials: pd.DataFrame) -> list[int]:
    """Return the number of known groups among the test images of these trials.

    There are several numbers if configurations were tested on different images.
    """
    rows = results.predictions
    of_trials = rows["key"].isin(trials["key"])
    is_test = rows["subset"].eq("test")
    has_group = rows["group"].notna()
    rows = rows[of_trials & is_test & has_group]
    # the folds of a configuration add up
    configuration_by_trial = dict(zip(trials["key"], configuration_keys(trials), strict=True))
    configurations = rows["key"].map(configuration_by_trial)
    counts = rows.groupby(configurations)["group"].nunique()
    return sorted(counts.unique().tolist())


def _has_ambiguous_weights(trials: pd.DataFrame) -> bool:
    """Return True if one name stands for several weights, as when machines have different files."""
    digests = trials.groupby(["model", "weights"])["weights_digest"].nunique()
    return bool(digests.gt(1).any())


def _data_notes(results: Results, shown: pd.DataFrame, lang: str) -> Iterator[Notice]:
    data = results.manifest["data"]
    counts = {}
    for subset in SUBSETS:
        images = shown[f"{subset}_images"].dropna().astype(int)
        counts[subset] = format_list(images.unique())
    yield make_notice(
        "note.images", lang, **counts, data=data["name"], fingerprint=data["fingerprint"]
    )
    splits = format_list(shown["split"].unique())
    yield make_notice("note.split", lang, split=splits)
    has_groups = data.get("groups") is not None
    if has_groups:
        yield make_notice("note.independent", lang)
    elif len(shown) and shown["split_leaks_groups"].isna().all():
        yield make_notice("note.unknown_groups", lang)
    group_counts = test_group_counts(results, shown)
    if group_counts:
        yield make_notice("note.tested_groups", lang, groups=format_list(group_counts))


def _stopping_notes(results: Results, shown: pd.DataFrame, lang: str) -> Iterator[Notice]:
    stopped = int(shown["status"].eq("stopped").sum())
    failed = int(shown["status"].eq("failed").sum())
    rule = results.manifest.get("early_stopping")
    if rule:
        yield _early_stopping_note(rule, shown, stopped, lang)
    elif stopped:
        yield make_notice("note.stopped_before", lang, stopped=stopped, trials=len(shown))
    else:
        yield make_notice("note.no_stopping", lang)
    if failed:
        yield make_notice("note.failed", lang, failed=failed, trials=len(shown))
    is_repeated = configuration_keys(shown).duplicated().any()
    has_completed = shown["status"].eq("completed").any()
    if has_completed and not is_repeated:
        yield make_notice("note.one_run", lang)


def _early_stopping_note(rule: dict, shown: pd.DataFrame, stopped: int, lang: str) -> Notice:
    early_stopping = EarlyStopping(grace_period=rule["grace_period"])
    grace_epochs = {early_stopping.grace_epochs(epochs) for epochs in shown["epochs"]}
    # an earlier command may have stopped trials by another metric
    metrics = format_list(shown["rung_metric"].dropna().unique())
    return make_notice(
        "note.stopping",
        lang,
        metric=metrics or rule["metric"],
        grace_period=format_list(sorted(grace_epochs)),
        reduction_factor=rule["reduction_factor"],
        within=format_list(rule["compare_within"]) or "–",
        stopped=stopped,
        trials=len(shown),
    )


def format_list(values: Iterable[object], limit: int = 8) -> str:
    """Join a few values with commas; of many, show only the first ones."""
    texts = list(map(str, values))
    text = ", ".join(texts[:limit])
    if len(texts) > limit:
        text += ", …"
    return text
