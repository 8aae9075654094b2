"""What readers must know about a table's numbers: the images, the rule, the split, and what makes a comparison unfair."""

import hashlib
from collections.abc import Iterable, Iterator

import pandas as pd

from bioimg.config import MIN_TEST_GROUPS
from bioimg.experiment import EarlyStopping
from bioimg.report.notices import Notice, make_notice
from bioimg.results.configurations import configuration_keys
from bioimg.results.result_store import Results

COMPARABILITY_COLUMNS = ("data_fingerprint", "split", "group_pattern", "test_images")


def results_digest(results: Results) -> str:
    """Ten hex digits that stand for all rows of the table of trials, in any order: changing one number changes them."""
    rows = sorted(
        results.trials.to_csv(index=False, header=False, lineterminator="\x00").split("\x00")
    )
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:10]


def compose_notes(
    results: Results, shown: pd.DataFrame, lang: str, *extra: Notice
) -> tuple[Notice, ...]:
    """The sentences below a table of these trials; warnings first."""
    said = [
        *comparison_warnings(results, shown, lang),
        *_data_notes(results, shown, lang),
        *extra,
        *_stopping_notes(results, shown, lang),
    ]
    return (*said, make_notice("note.source", lang, fingerprint=results_digest(results)))


def comparison_warnings(results: Results, shown: pd.DataFrame, lang: str) -> Iterator[Notice]:
    """What makes these numbers or their comparison unreliable, the worst first."""
    if results.manifest["data"].get("synthetic") or shown["synthetic"].eq(True).any():
        yield make_notice("warning.synthetic", lang)
    if not results.manifest.get("complete", True):
        yield make_notice("warning.incomplete", lang, ended=len(results.trials))
    if mixed := incomparable_columns(shown):
        yield make_notice("warning.mixed", lang, what=", ".join(mixed))
    if shown["epochs"].nunique() > 1:
        yield make_notice(
            "warning.epochs_differ", lang, epochs=format_list(sorted(shown["epochs"].unique()))
        )
    if shown["split_leaks_groups"].eq(True).any():
        yield make_notice("warning.leak", lang)
    if few := [count for count in test_group_counts(results, shown) if count < MIN_TEST_GROUPS]:
        yield make_notice(
            "warning.few_groups", lang, groups=format_list(few), fewest=MIN_TEST_GROUPS
        )
    for name in ("duplicate_images_across_splits", "unreadable_skipped"):
        if name in shown and shown[name].max() > 0:
            yield make_notice(f"warning.{name}", lang, n=int(shown[name].max()))


def incomparable_columns(trials: pd.DataFrame) -> list[str]:
    """The columns that must be the same in all completed trials for a comparison, but aren't."""
    compared, folds = trials[trials["status"].eq("completed")], trials["fold"].nunique() > 1
    names = [
        name for name in COMPARABILITY_COLUMNS if not (folds and name == "test_images")
    ]  # folds need not be of one size
    return [
        *(name for name in names if compared[name].nunique(dropna=False) > 1),
        *_ambiguous_weights(compared),
    ]


def test_group_counts(results: Results, trials: pd.DataFrame) -> list[int]:
    """The number of known groups among the test images of these trials; several numbers if folds differ."""
    rows = results.predictions
    rows = rows[rows["subset"].eq("test") & rows["key"].isin(trials["key"]) & rows["group"].notna()]
    recipes = rows["key"].map(
        dict(zip(trials["key"], configuration_keys(trials), strict=True))
    )  # a recipe's folds add up
    return sorted(rows.groupby(recipes)["group"].nunique().unique().tolist())


def _ambiguous_weights(trials: pd.DataFrame) -> list[str]:
    """The column of digests if one name of weights stands for several, as when machines have different files."""
    digests = trials.groupby(["model", "weights"])["weights_digest"].nunique()
    return ["weights_digest"] if digests.gt(1).any() else []


def _data_notes(results: Results, shown: pd.DataFrame, lang: str) -> Iterator[Notice]:
    data = results.manifest["data"]
    counts = {
        part: format_list(shown[f"{part}_images"].dropna().astype(int).unique())
        for part in ("train", "val", "test")
    }
    yield make_notice(
        "note.images", lang, **counts, data=data["name"], fingerprint=data["fingerprint"]
    )
    yield make_notice("note.split", lang, split=format_list(shown["split"].unique()))
    if len(shown) and not shown["split_leaks_groups"].notna().any() and data.get("groups") is None:
        yield make_notice("note.unknown_groups", lang)
    if data.get("groups") is not None:
        yield make_notice("note.independent", lang)
    if groups := test_group_counts(results, shown):
        yield make_notice("note.tested_groups", lang, groups=format_list(groups))


def _stopping_notes(results: Results, shown: pd.DataFrame, lang: str) -> Iterator[Notice]:
    rule, counts = results.manifest.get("early_stopping"), shown["status"].value_counts()
    stopped, failed = int(counts.get("stopped", 0)), int(counts.get("failed", 0))
    if rule:
        within = format_list(rule["compare_within"]) or "–"
        given = EarlyStopping(grace_period=rule["grace_period"])
        grace = format_list(sorted({given.grace_epochs(epochs) for epochs in shown["epochs"]}))
        metric = format_list(shown["rung_metric"].dropna().unique()) or rule["metric"]
        counted = {
            "metric": metric,
            "grace_period": grace,
            "within": within,
            "stopped": stopped,
            "trials": len(shown),
        }
        yield make_notice("note.stopping", lang, **{**rule, **counted})
    elif stopped:
        yield make_notice("note.stopped_before", lang, stopped=stopped, trials=len(shown))
    else:
        yield make_notice("note.no_stopping", lang)
    if failed:
        yield make_notice("note.failed", lang, failed=failed, trials=len(shown))
    if shown["status"].eq("completed").any() and not configuration_keys(shown).duplicated().any():
        yield make_notice("note.one_run", lang)


def format_list(values: Iterable[object], most: int = 8) -> str:
    """A few values on one line; of many, only the first ones."""
    names = [str(value) for value in values]
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
