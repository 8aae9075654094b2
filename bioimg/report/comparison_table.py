"""The comparison table: one row per configuration, or per trial if none is repeated, as in a paper."""

import dataclasses
from collections.abc import Iterable, Sequence

import pandas as pd

from bioimg.config import TRIAL_FIELDS
from bioimg.errors import unknown_value_error
from bioimg.report.formatting import column_decimals
from bioimg.report.notices import Notice, make_notice
from bioimg.report.row_filter import select_rows, sort_rows
from bioimg.report.table_model import Column, ColumnKind, Table
from bioimg.report.table_notes import compose_notes, format_list, results_digest
from bioimg.report.translation import translate
from bioimg.results import statistics
from bioimg.results.configurations import (
    REPEAT_FIELDS,
    configuration_keys,
    has_repeats,
    varying_fields,
)
from bioimg.results.result_store import Results

__all__ = ["REPORT_2023_COLUMNS", "Column", "Table", "build_comparison", "trial_column"]

BASIC_SETTINGS = ("weights", "batch_size", "freeze", "epochs")
MEASURES = (
    *(
        "final_train_loss",
        "best_train_accuracy",
        "best_val_loss",
        "final_val_accuracy",
        "best_val_accuracy",
    ),
    *("test_accuracy", "train_seconds"),
)
REPORT_2023_COLUMNS = (*BASIC_SETTINGS, *MEASURES)
"""The columns of the tables in the report of 2023."""

SCORE_COLUMNS = ("balanced_accuracy", "macro_f1", "auroc", "ece")
IMAGE_COUNT_COLUMNS = {
    "best_train_accuracy": "train_images",
    "final_val_accuracy": "val_images",
    "best_val_accuracy": "val_images",
    "test_accuracy": "test_images",
    "final_test_accuracy": "test_images",
}
COLUMN_KINDS: dict[str, ColumnKind] = {
    **dict.fromkeys((*IMAGE_COUNT_COLUMNS, *SCORE_COLUMNS), "share"),
    **dict.fromkeys(("final_train_loss", "best_val_loss"), "loss"),
    **dict.fromkeys(("train_seconds", "wait_seconds", "features_seconds"), "seconds"),
    **dict.fromkeys(("learning_rate", "weight_decay"), "number"),
    **dict.fromkeys(("best_val_loss_epoch", "epochs_run", "runs", "trained_parameters"), "count"),
    **dict.fromkeys(
        (
            "batch_size",
            "epochs",
            "image_size",
            "seed",
            "fold",
            "workers",
            *set(IMAGE_COUNT_COLUMNS.values()),
        ),
        "count",
    ),
}


def build_comparison(
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
    chosen = select_rows(_lists_as_text(results.trials), rows)
    part = dataclasses.replace(results, trials=chosen)
    measured = _with_intervals(_with_scores(part, columns))
    keys = _require_known(group_by, TRIAL_FIELDS, "group_by") or [
        name for name in TRIAL_FIELDS if name in {*BASIC_SETTINGS, *varying_fields(results.trials)}
    ]
    together = bool(group_by) or (has_repeats(chosen) and not single)
    table = _aggregate_runs(measured, keys, lang) if together else _with_status_text(measured, lang)
    pairs = pd.DataFrame()
    if not group_by and (not columns or "standing" in columns):
        pairs = _compare_with_best(part)
        arms = table["key"].map(dict(zip(chosen["key"], configuration_keys(chosen), strict=True)))
        words = arms.map(_verdict_names(part, pairs)).where(table["state"].eq("completed"))
        table = table.assign(
            standing=words.map(lambda word: translate(f"standing.{word}", lang), na_action="ignore")
        )
    table = sort_rows(table, sort).reset_index(drop=True)
    repeats = [
        name
        for name in REPEAT_FIELDS
        if not together and has_repeats(chosen) and chosen[name].nunique() > 1
    ]
    shown = _require_known(
        columns or [*keys, *repeats, *MEASURES, *_trailing_columns(table, together)],
        table.columns,
        "columns",
    )
    caption = translate(
        "caption.comparison",
        lang,
        trials=len(chosen),
        all=len(results.trials),
        data=results.manifest["data"]["name"],
    )
    empty = () if len(chosen) else (make_notice("note.no_match", lang),)
    said = compose_notes(
        results, chosen, lang, *empty, *_column_notes(chosen, pairs, shown, together, lang)
    )
    shown_columns = tuple(trial_column(name, table, name in keys + repeats) for name in shown)
    return Table(
        name="comparison",
        values=table,
        columns=shown_columns,
        caption=caption,
        notices=said,
        results_digest=results_digest(results),
        lang=lang,
    )


def _lists_as_text(trials: pd.DataFrame) -> pd.DataFrame:
    """Lists as text, so that they can be sorted and shown."""
    scores = trials["rung_scores"].map(
        lambda scores: ", ".join(f"{score:.4g}" for score in scores), na_action="ignore"
    )
    return trials.assign(rung_scores=scores)


def trial_column(name: str, values: pd.DataFrame, identity: bool = False) -> Column:
    """How a column of trials is shown; its decimals follow the median width of its intervals."""
    kind = COLUMN_KINDS.get(name, "number" if pd.api.types.is_float_dtype(values[name]) else "text")
    interval = f"{name}_low" in values and name in ("test_accuracy", *SCORE_COLUMNS)
    return Column(
        name=name,
        kind=kind,
        identity=identity,
        decimals=_column_digits(name, kind, values),
        interval=interval,
    )


def _compare_with_best(results: Results) -> pd.DataFrame:
    key = statistics.best_configuration(results)
    return statistics.compare_pairs(results, key) if key else pd.DataFrame()


def _verdict_names(results: Results, pairs: pd.DataFrame) -> dict[str, str]:
    """For each completed configuration: best (by validation), or tie, better or worse than that one on the test images."""
    words = {True: "better", False: "worse"}
    judged = {
        row["a"]: words[row["difference"] > 0] if row["holds"] else "tie"
        for row in pairs.to_dict("records")
        if row["holds"] is not None
    }
    key = statistics.best_configuration(results)
    return {key: "best", **judged} if key else {}


def _column_digits(name: str, kind: ColumnKind, values: pd.DataFrame) -> int:
    if kind == "loss":
        return 4
    if kind != "share" or f"{name}_low" not in values:
        return 0
    return column_decimals(values[f"{name}_low"], values[f"{name}_high"])


def _require_known(names: Sequence[str], known: Iterable[str], field: str) -> list[str]:
    for name in names:
        if name not in known:
            raise unknown_value_error(field, name, known)
    return list(names)


def _trailing_columns(table: pd.DataFrame, together: bool) -> list[str]:
    return [
        *(["runs"] if together else []),
        "status",
        *(["standing"] if "standing" in table else []),
    ]


def _with_intervals(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials with the Wilson intervals of their accuracies in columns `_low` and `_high`."""
    added = {}
    for name, images in IMAGE_COUNT_COLUMNS.items():
        interval = statistics.wilson_columns(
            trials[name].astype(float), trials[images].astype(float)
        )
        added |= {f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
    return trials.assign(**added)


def _with_scores(results: Results, columns: Sequence[str]) -> pd.DataFrame:
    """Trials with scores, if any is asked for: they need the predictions, and time."""
    trials = results.trials
    if not set(columns) & set(SCORE_COLUMNS):
        return trials.assign(
            **dict.fromkeys([name for name in SCORE_COLUMNS if name not in trials])
        )
    return trials.drop(columns=list(SCORE_COLUMNS), errors="ignore").merge(
        bootstrapped_scores(results), on="key", how="left"
    )


def tested_keys(results: Results) -> list[str]:
    """Keys of the trials with test predictions, in the order of the table."""
    keys = set(results.predictions.loc[results.predictions["subset"].eq("test"), "key"])
    return [key for key in results.trials["key"] if key in keys]


def bootstrapped_scores(results: Results) -> pd.DataFrame:
    """`key` and the bootstrapped scores, with `_low` and `_high`, of each trial with test predictions."""
    rows = []
    for key in tested_keys(results):
        table = statistics.bootstrap_metrics(results, key).set_index("metric")
        row = {
            name if part == "value" else f"{name}_{part}": table.at[name, part]
            for name in SCORE_COLUMNS
            for part in table
        }
        rows.append({"key": key, **row})
    return pd.DataFrame(
        rows,
        columns=[
            "key",
            *(f"{name}{part}" for name in SCORE_COLUMNS for part in ("", "_low", "_high")),
        ],
    )


def _with_status_text(trials: pd.DataFrame, lang: str) -> pd.DataFrame:
    """Trials with `status` in words; `state` keeps the original."""
    words = [
        _status_text(row, lang)
        for row in trials[["status", "epochs", "epochs_run", "error"]].to_dict("records")
    ]
    return trials.assign(state=trials["status"], status=words, runs=1)


def _status_text(row: dict, lang: str) -> str:
    if row["status"] == "stopped":
        run = "?" if pd.isna(row["epochs_run"]) else int(row["epochs_run"])
        return translate("status.stopped", lang, run=run, epochs=row["epochs"])
    return (
        translate("status.failed", lang, error=row["error"])
        if row["status"] == "failed"
        else translate("status.completed", lang)
    )


def _aggregate_runs(trials: pd.DataFrame, keys: list[str], lang: str) -> pd.DataFrame:
    """One row per combination of the keys' values: means over completed trials (or their images), `_sd` columns, and `runs`."""
    measures = [
        name
        for name in (*MEASURES, *SCORE_COLUMNS, "final_test_accuracy", "wait_seconds")
        if name in trials
    ]
    groups = trials.groupby(keys, sort=False, dropna=False)
    done = trials[trials["status"].eq("completed")].astype(dict.fromkeys(measures, float))
    completed = done.groupby(keys, sort=False, dropna=False)
    mean = completed[[name for name in measures if name not in IMAGE_COUNT_COLUMNS]].mean()
    sd, accuracies = completed[measures].std().add_suffix("_sd"), _pooled_accuracies(done, keys)
    state = groups["status"].agg(lambda states: _status_counts_text(states, lang))
    table = pd.concat(
        [groups["key"].first(), completed.size().rename("runs"), mean, accuracies, sd, state],
        axis=1,
    )
    table = (
        table.reindex(state.index)
        .assign(runs=lambda t: t["runs"].fillna(0).astype(int))
        .reset_index()
    )
    return table.assign(state=table["runs"].gt(0).map({True: "completed", False: "failed"}))


def _pooled_accuracies(done: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Accuracies over all images of a row's runs. Wilson intervals count different ones only: seeds share them, folds don't."""
    added = {}
    for name, images in IMAGE_COUNT_COLUMNS.items():
        apart = (
            keys if images == "train_images" else list(dict.fromkeys([*keys, "fold"]))
        )  # folds train on nearly the same
        others, n = ~done.duplicated(apart), done[images].where(done[name].notna()).astype(float)
        counts = pd.DataFrame({"right": done[name] * n, "all": n, "different": n.where(others)})
        sums = counts.groupby([done[key] for key in keys], sort=False, dropna=False).sum()
        interval = statistics.wilson_columns(
            share := sums["right"] / sums["all"], sums["different"]
        )
        added |= {name: share, f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
    return pd.DataFrame(added)


def _status_counts_text(states: pd.Series, lang: str) -> str:
    counts = states.value_counts()
    return ", ".join(
        translate(f"status.count_{s}", lang, n=counts[s])
        for s in ("completed", "stopped", "failed")
        if s in counts
    )


def _column_notes(
    trials: pd.DataFrame, pairs: pd.DataFrame, shown: Sequence[str], together: bool, lang: str
) -> list[Notice]:
    """Notes on what the columns mean."""
    said = [make_notice("note.definitions", lang, interval="Wilson")]
    if trials["class_weights"].ne("none").any():
        said.append(make_notice("note.weighted_loss", lang))
    said.append(
        make_notice(
            "note.selection_folds" if trials["fold"].nunique() > 1 else "note.selection", lang
        )
    )
    if together:
        said.append(make_notice("note.repeats", lang))
    if (
        "standing" in shown
        and len(pairs)
        and (tests := format_list(pairs["test"].dropna().unique()))
    ):
        said.append(make_notice("note.standing", lang, tests=tests))
    return said
