"""What readers must know about a table's numbers: the images, the rule, the split, and what makes a comparison unfair."""

import hashlib
from collections.abc import Iterable, Iterator

import pandas as pd

from bioimg.config import FEWEST_GROUPS
from bioimg.experiment import EarlyStopping
from bioimg.report.captions import text
from bioimg.results.configurations import configurations
from bioimg.results.store import Results

MIXED = ("data_fingerprint", "split", "group_pattern", "test_images")


def fingerprint(results: Results) -> str:
    """Ten hex digits that stand for all rows of the table of trials, in any order: changing one number changes them."""
    rows = sorted(results.trials.to_csv(index=False, header=False, lineterminator="\x00").split("\x00"))
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:10]


def notes(results: Results, shown: pd.DataFrame, lang: str, *extra: str) -> tuple[str, ...]:
    """The sentences below a table of these trials; warnings first."""
    said = [*warnings(results, shown, lang), *_data(results, shown, lang), *extra, *_stopping(results, shown, lang)]
    return (*said, text("source", lang, fingerprint=fingerprint(results)))


def warnings(results: Results, shown: pd.DataFrame, lang: str) -> Iterator[str]:
    """What makes these numbers or their comparison unreliable, the worst first."""
    if results.experiment["data"].get("synthetic") or shown["synthetic"].eq(True).any():
        yield text("synthetic", lang)
    if not results.experiment.get("complete", True):
        yield text("incomplete", lang, ended=len(results.trials))
    if mixed := differing(shown):
        yield text("mixed", lang, what=", ".join(mixed))
    if shown["epochs"].nunique() > 1:
        yield text("epochs_differ", lang, epochs=listed(sorted(shown["epochs"].unique())))
    if shown["split_leaks_groups"].eq(True).any():
        yield text("leak", lang)
    if few := [count for count in tested_groups(results, shown) if count < FEWEST_GROUPS]:
        yield text("few_groups", lang, groups=listed(few), fewest=FEWEST_GROUPS)
    for name in ("duplicate_images_across_splits", "unreadable_skipped"):
        if name in shown and shown[name].max() > 0:
            yield text(name, lang, n=int(shown[name].max()))


def differing(trials: pd.DataFrame) -> list[str]:
    """The columns that must be the same in all completed trials for a comparison, but aren't."""
    compared, folds = trials[trials["status"].eq("completed")], trials["fold"].nunique() > 1
    names = [name for name in MIXED if not (folds and name == "test_images")]  # folds need not be of one size
    return [*(name for name in names if compared[name].nunique(dropna=False) > 1), *_changed_weights(compared)]


def tested_groups(results: Results, trials: pd.DataFrame) -> list[int]:
    """The number of known groups among the test images of these trials; several numbers if folds differ."""
    rows = results.predictions
    rows = rows[rows["split"].eq("test") & rows["key"].isin(trials["key"]) & rows["group"].notna()]
    recipes = rows["key"].map(dict(zip(trials["key"], configurations(trials), strict=True)))  # a recipe's folds add up
    return sorted(rows.groupby(recipes)["group"].nunique().unique().tolist())


def _changed_weights(trials: pd.DataFrame) -> list[str]:
    """The column of digests if one name of weights stands for several, as when machines have different files."""
    digests = trials.groupby(["model", "weights"])["weights_digest"].nunique()
    return ["weights_digest"] if digests.gt(1).any() else []


def _data(results: Results, shown: pd.DataFrame, lang: str) -> Iterator[str]:
    data = results.experiment["data"]
    counts = {part: listed(shown[f"{part}_images"].dropna().astype(int).unique()) for part in ("train", "val", "test")}
    yield text("images", lang, **counts, data=data["name"], fingerprint=data["fingerprint"])
    yield text("split", lang, split=listed(shown["split"].unique()))
    if len(shown) and not shown["split_leaks_groups"].notna().any() and data.get("groups") is None:
        yield text("unknown_groups", lang)
    if data.get("groups") is not None:
        yield text("independent", lang)
    if groups := tested_groups(results, shown):
        yield text("tested_groups", lang, groups=listed(groups))


def _stopping(results: Results, shown: pd.DataFrame, lang: str) -> Iterator[str]:
    rule, counts = results.experiment.get("early_stopping"), shown["status"].value_counts()
    stopped, failed = int(counts.get("stopped", 0)), int(counts.get("failed", 0))
    if rule:
        within = listed(rule["compare_within"]) or "–"
        given = EarlyStopping(grace_period=rule["grace_period"])
        grace = listed(sorted({given.grace(epochs) for epochs in shown["epochs"]}))
        metric = listed(shown["rung_metric"].dropna().unique()) or rule["metric"]
        counted = {"metric": metric, "grace_period": grace, "within": within, "stopped": stopped, "trials": len(shown)}
        yield text("stopping", lang, **{**rule, **counted})
    elif stopped:
        yield text("stopped_before", lang, stopped=stopped, trials=len(shown))
    else:
        yield text("no_stopping", lang)
    if failed:
        yield text("failed", lang, failed=failed, trials=len(shown))
    if shown["status"].eq("completed").any() and not configurations(shown).duplicated().any():
        yield text("one_run", lang)


def listed(values: Iterable[object], most: int = 8) -> str:
    """A few values on one line; of many, only the first ones."""
    names = [str(value) for value in values]
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
