"""The comparison table: one row per configuration, or per trial if none is repeated, as in a paper."""

import dataclasses
from collections.abc import Iterable, Sequence

import pandas as pd

from bioimg.config import FIELDS, unknown
from bioimg.report.captions import text
from bioimg.report.notes import fingerprint, listed, notes
from bioimg.report.rows import order, select
from bioimg.report.table import Column, Kind, Table, decimals
from bioimg.results import statistics
from bioimg.results.configurations import REPEATS, configurations, repeated, varied
from bioimg.results.store import Results

__all__ = ["COLUMNS", "Column", "Table", "column", "comparison"]

SETTINGS = ("weights", "batch_size", "freeze", "epochs")
MEASURES = (
    *("final_train_loss", "best_train_accuracy", "best_val_loss", "final_val_accuracy", "best_val_accuracy"),
    *("test_accuracy", "train_seconds"),
)
COLUMNS = (*SETTINGS, *MEASURES)
"""The columns of the tables in the report of 2023."""

SCORES = ("balanced_accuracy", "macro_f1", "auroc", "ece")
IMAGES = {
    "best_train_accuracy": "train_images",
    "final_val_accuracy": "val_images",
    "best_val_accuracy": "val_images",
    "test_accuracy": "test_images",
    "final_test_accuracy": "test_images",
}
KINDS: dict[str, Kind] = {
    **dict.fromkeys((*IMAGES, *SCORES), "share"),
    **dict.fromkeys(("final_train_loss", "best_val_loss"), "loss"),
    **dict.fromkeys(("train_seconds", "wait_seconds", "features_seconds"), "seconds"),
    **dict.fromkeys(("learning_rate", "weight_decay"), "number"),
    **dict.fromkeys(("best_val_loss_epoch", "epochs_run", "runs", "trained_parameters"), "count"),
    **dict.fromkeys(("batch_size", "epochs", "image_size", "seed", "fold", "workers", *set(IMAGES.values())), "count"),
}


def comparison(
    results: Results,
    *,
    rows: str | None = None,
    columns: Sequence[str] = (),
    sort: Sequence[str] = (),
    group_by: Sequence[str] = (),
    single: bool = False,
    lang: str = "en",
) -> Table:
    """The comparison table.

    rows:     a condition on the columns of trials.parquet, such as `freeze == "none"`.
    columns:  columns to show, in this order; by default the settings that vary, the report's measures, `status` and `standing`.
    sort:     columns, most important first; completed rows always come first.
    group_by: settings; trials with the same values become one row with the mean over completed ones, their standard
              deviation and number. By default the repeats (seeds, folds) of a configuration are grouped like this.
    single:   show every trial, even if configurations are repeated.

    Raises:
        UserError: the condition isn't valid, or there is no such column.
    """
    chosen = select(_legible(results.trials), rows)
    part = dataclasses.replace(results, trials=chosen)
    measured = _with_intervals(_with_scores(part, columns))
    keys = _known(group_by, FIELDS, "group_by") or [name for name in FIELDS if name in {*SETTINGS, *varied(results.trials)}]
    together = bool(group_by) or (repeated(chosen) and not single)
    table = _aggregated(measured, keys, lang) if together else _worded(measured, lang)
    pairs = pd.DataFrame()
    if not group_by and (not columns or "standing" in columns):
        pairs = _against_best(part)
        arms = table["key"].map(dict(zip(chosen["key"], configurations(chosen), strict=True)))
        words = arms.map(_standings(part, pairs)).where(table["state"].eq("completed"))
        table = table.assign(standing=words.map(lambda word: text(word, lang), na_action="ignore"))
    table = order(table, sort).reset_index(drop=True)
    repeats = [name for name in REPEATS if not together and repeated(chosen) and chosen[name].nunique() > 1]
    shown = _known(columns or [*keys, *repeats, *MEASURES, *_last(table, together)], table.columns, "columns")
    caption = text("comparison", lang, trials=len(chosen), all=len(results.trials), data=results.experiment["data"]["name"])
    empty = () if len(chosen) else (text("none", lang),)
    said = notes(results, chosen, lang, *empty, *_explained(chosen, pairs, shown, together, lang))
    shown_columns = tuple(column(name, table, name in keys + repeats) for name in shown)
    return Table(
        name="comparison",
        values=table,
        columns=shown_columns,
        caption=caption,
        notes=said,
        fingerprint=fingerprint(results),
        lang=lang,
    )


def _legible(trials: pd.DataFrame) -> pd.DataFrame:
    """Lists as text, so that they can be sorted and shown."""
    scores = trials["rung_scores"].map(lambda scores: ", ".join(f"{score:.4g}" for score in scores), na_action="ignore")
    return trials.assign(rung_scores=scores)


def column(name: str, values: pd.DataFrame, identity: bool = False) -> Column:
    """How a column of trials is shown; its decimals follow the median width of its intervals."""
    kind = KINDS.get(name, "number" if pd.api.types.is_float_dtype(values[name]) else "text")
    interval = f"{name}_low" in values and name in ("test_accuracy", *SCORES)
    return Column(name=name, kind=kind, identity=identity, digits=_digits(name, kind, values), interval=interval)


def _against_best(results: Results) -> pd.DataFrame:
    key = statistics.best(results)
    return statistics.paired(results, key) if key else pd.DataFrame()


def _standings(results: Results, pairs: pd.DataFrame) -> dict[str, str]:
    """For each completed configuration: best (by validation), or tie, better or worse than that one on the test images."""
    words = {True: "better", False: "worse"}
    judged = {
        row["a"]: words[row["difference"] > 0] if row["holds"] else "tie"
        for row in pairs.to_dict("records")
        if row["holds"] is not None
    }
    key = statistics.best(results)
    return {key: "best", **judged} if key else {}


def _digits(name: str, kind: Kind, values: pd.DataFrame) -> int:
    if kind == "loss":
        return 4
    if kind != "share" or f"{name}_low" not in values:
        return 0
    return decimals(values[f"{name}_low"], values[f"{name}_high"])


def _known(names: Sequence[str], known: Iterable[str], field: str) -> list[str]:
    for name in names:
        if name not in known:
            raise unknown(field, name, known)
    return list(names)


def _last(table: pd.DataFrame, together: bool) -> list[str]:
    return [*(["runs"] if together else []), "status", *(["standing"] if "standing" in table else [])]


def _with_intervals(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials with the Wilson intervals of their accuracies in columns `_low` and `_high`."""
    added = {}
    for name, images in IMAGES.items():
        interval = statistics.wilson_columns(trials[name].astype(float), trials[images].astype(float))
        added |= {f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
    return trials.assign(**added)


def _with_scores(results: Results, columns: Sequence[str]) -> pd.DataFrame:
    """Trials with scores, if any is asked for: they need the predictions, and time."""
    trials = results.trials
    if not set(columns) & set(SCORES):
        return trials.assign(**dict.fromkeys([name for name in SCORES if name not in trials]))
    return trials.drop(columns=list(SCORES), errors="ignore").merge(scores(results), on="key", how="left")


def tested(results: Results) -> list[str]:
    """Keys of the trials with test predictions, in the order of the table."""
    keys = set(results.predictions.loc[results.predictions["split"].eq("test"), "key"])
    return [key for key in results.trials["key"] if key in keys]


def scores(results: Results) -> pd.DataFrame:
    """`key` and the bootstrapped scores, with `_low` and `_high`, of each trial with test predictions."""
    rows = []
    for key in tested(results):
        table = statistics.bootstrap(results, key).set_index("metric")
        row = {name if part == "value" else f"{name}_{part}": table.at[name, part] for name in SCORES for part in table}
        rows.append({"key": key, **row})
    return pd.DataFrame(rows, columns=["key", *(f"{name}{part}" for name in SCORES for part in ("", "_low", "_high"))])


def _worded(trials: pd.DataFrame, lang: str) -> pd.DataFrame:
    """Trials with `status` in words; `state` keeps the original."""
    words = [_status(row, lang) for row in trials[["status", "epochs", "epochs_run", "error"]].to_dict("records")]
    return trials.assign(state=trials["status"], status=words, runs=1)


def _status(row: dict, lang: str) -> str:
    if row["status"] == "stopped":
        run = "?" if pd.isna(row["epochs_run"]) else int(row["epochs_run"])
        return text("stopped", lang, run=run, epochs=row["epochs"])
    return text("failed_row", lang, error=row["error"]) if row["status"] == "failed" else text("completed", lang)


def _aggregated(trials: pd.DataFrame, keys: list[str], lang: str) -> pd.DataFrame:
    """One row per combination of the keys' values: means over completed trials (or their images), `_sd` columns, and `runs`."""
    measures = [name for name in (*MEASURES, *SCORES, "final_test_accuracy", "wait_seconds") if name in trials]
    groups = trials.groupby(keys, sort=False, dropna=False)
    done = trials[trials["status"].eq("completed")].astype(dict.fromkeys(measures, float))
    completed = done.groupby(keys, sort=False, dropna=False)
    mean = completed[[name for name in measures if name not in IMAGES]].mean()
    sd, accuracies = completed[measures].std().add_suffix("_sd"), _pooled(done, keys)
    state = groups["status"].agg(lambda states: _counted(states, lang))
    table = pd.concat([groups["key"].first(), completed.size().rename("runs"), mean, accuracies, sd, state], axis=1)
    table = table.reindex(state.index).assign(runs=lambda t: t["runs"].fillna(0).astype(int)).reset_index()
    return table.assign(state=table["runs"].gt(0).map({True: "completed", False: "failed"}))


def _pooled(done: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Accuracies over all images of a row's runs. Wilson intervals count different ones only: seeds share them, folds don't."""
    added = {}
    for name, images in IMAGES.items():
        apart = keys if images == "train_images" else list(dict.fromkeys([*keys, "fold"]))  # folds train on nearly the same
        others, n = ~done.duplicated(apart), done[images].where(done[name].notna()).astype(float)
        counts = pd.DataFrame({"right": done[name] * n, "all": n, "different": n.where(others)})
        sums = counts.groupby([done[key] for key in keys], sort=False, dropna=False).sum()
        interval = statistics.wilson_columns(share := sums["right"] / sums["all"], sums["different"])
        added |= {name: share, f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
    return pd.DataFrame(added)


def _counted(states: pd.Series, lang: str) -> str:
    counts = states.value_counts()
    return ", ".join(text(f"count_{s}", lang, n=counts[s]) for s in ("completed", "stopped", "failed") if s in counts)


def _explained(trials: pd.DataFrame, pairs: pd.DataFrame, shown: Sequence[str], together: bool, lang: str) -> list[str]:
    """Notes on what the columns mean."""
    said = [text("definitions", lang, interval="Wilson")]
    if trials["class_weights"].ne("none").any():
        said.append(text("weighted_loss", lang))
    said.append(text("selection_folds" if trials["fold"].nunique() > 1 else "selection", lang))
    if together:
        said.append(text("repeats", lang))
    if "standing" in shown and len(pairs) and (tests := listed(pairs["test"].dropna().unique())):
        said.append(text("standing", lang, tests=tests))
    return said
