"""Build the comparison table: one row per configuration, or per trial if none is repeated."""

from collections.abc import Iterable, Sequence

import pandas as pd

from bioimg.config import TRIAL_FIELDS
from bioimg.errors import unknown_value_error
from bioimg.report.analysis import MEASURES, Analysis
from bioimg.report.checks import Check, note, uncontrolled_columns
from bioimg.report.formatting import (
    column_decimals,
    format_number,
    format_p_value,
    format_percent,
    format_setting,
)
from bioimg.report.row_filter import format_condition, select_rows, sort_rows
from bioimg.report.sentences import describe_verdict
from bioimg.report.table_model import Column, ColumnKind, Table
from bioimg.report.translation import setting_label, translate
from bioimg.results.configurations import has_repeats

BASIC_SETTINGS = ("weights", "batch_size", "freeze", "epochs")
LOSS_DECIMALS = 4
SHARE_COLUMNS = (
    *MEASURES,
    "train_accuracy",
    "val_accuracy",
    "val_score",
    "test_score",
    "best_train_accuracy",
    "final_val_accuracy",
    "best_val_accuracy",
)
LOSS_COLUMNS = ("final_train_loss", "best_val_loss")
TIME_COLUMNS = ("recipe_seconds", "train_seconds", "features_seconds", "wait_seconds")
NUMBER_COLUMNS = ("learning_rate", "head_rate_factor", "layer_decay", "weight_decay")
COUNT_COLUMNS = (
    "best_val_loss_epoch",
    "epochs_run",
    "runs",
    "trained_parameters",
    "backbone_parameters",
    "batch_size",
    "epochs",
    "image_size",
    "seed",
    "fold",
    "workers",
    "train_images",
    "val_images",
    "test_images",
)
COLUMN_KINDS: dict[str, ColumnKind] = {
    **dict.fromkeys(SHARE_COLUMNS, "share"),
    **dict.fromkeys(LOSS_COLUMNS, "loss"),
    **dict.fromkeys(TIME_COLUMNS, "seconds"),
    **dict.fromkeys(NUMBER_COLUMNS, "number"),
    **dict.fromkeys(COUNT_COLUMNS, "count"),
}
AVERAGED_COLUMNS = (*SHARE_COLUMNS, *LOSS_COLUMNS, *TIME_COLUMNS)
"""Measures that are averaged over the runs of a row."""

BASELINE_STATE = "baseline"
"""The state of the row that shows what a recipe without any skill would score."""


def build_comparison(
    analysis: Analysis,
    *,
    rows: str | None = None,
    columns: Sequence[str] = (),
    sort: Sequence[str] = (),
    group_by: Sequence[str] = (),
    single: bool = False,
    lang: str = "en",
) -> Table:
    """Build the comparison table.

    Where weights and score are shown, the last row is a baseline: the score of always answering
    with the most frequent class.

    Args:
        analysis: the results to compare.
        rows: a condition on the columns of trials.parquet, such as `freeze == "none"`.
        columns: columns to show, in this order. By default: the settings that vary, the measures
            of the selected epoch, `status` and `verdict`.
        sort: columns, most important first. Completed rows always come first.
        group_by: settings. Trials with the same values become one row with the mean over the
            completed ones, their standard deviation and number. By default the repeats (seeds,
            folds) of a configuration are grouped like this.
        single: show every trial, even if configurations are repeated.
        lang: language of headers, caption and notes.

    Raises:
        UserError: the condition isn't valid, or there is no such column or language.
    """
    chosen = select_rows(analysis.trials, rows)
    keys = _require_known(group_by, TRIAL_FIELDS, "group_by") or _default_keys(analysis)
    is_averaged = bool(group_by) or (has_repeats(chosen, analysis.tuned_fields) and not single)
    if is_averaged:
        table = _average_runs(chosen, keys, lang)
    else:
        table = _with_status_text(chosen, lang)
        keys = list(dict.fromkeys([*keys, *analysis.repeat_fields]))
    if not group_by:
        table = _with_tuned_values(table, analysis, lang)
        table = _with_verdicts(_with_scores(table, analysis), analysis, lang)
    table = sort_rows(table, sort).reset_index(drop=True)

    tuned = ["tuned_values"] if "tuned_values" in table else []
    default_columns = [*keys, *tuned, *_default_measures(table, analysis)]
    shown = _require_known(columns or default_columns, table.columns, "columns")
    notes = _column_notes(analysis, chosen, shown, is_averaged)
    shown_columns = []
    for name in shown:
        shown_columns.append(trial_column(name, table, analysis, identity=name in keys))
    if {"weights", analysis.test_column} <= set(shown) and not group_by:
        table = _with_baseline(table, analysis, lang)
    return Table(
        name="comparison",
        values=table,
        columns=tuple(shown_columns),
        caption=translate(
            "caption.comparison",
            lang,
            trials=len(chosen),
            all=len(analysis.trials),
            grouping=_grouping_text(group_by, lang),
            selection=_selection_text(rows, lang),
            data=analysis.data_name,
        ),
        checks=analysis.table_checks(chosen, *notes),
        results_digest=analysis.digest,
        lang=lang,
    )


def _grouping_text(group_by: Sequence[str], lang: str) -> str:
    """Return what the caption says of `group_by`. `bioimg verify` reads it from there."""
    if not group_by:
        return ""
    return translate("caption.grouping", lang, fields=", ".join(group_by))


def _selection_text(rows: str | None, lang: str) -> str:
    """Return what the caption says of `rows`. `bioimg verify` reads it from there."""
    if not rows:
        return ""
    return translate("caption.selection", lang, rows=format_condition(rows))


def trial_column(
    name: str, values: pd.DataFrame, analysis: Analysis, *, identity: bool = False
) -> Column:
    """Return how a column of trials is shown.

    Shares have the decimals that the intervals of the score allow.
    """
    is_float = pd.api.types.is_float_dtype(values[name])
    kind = COLUMN_KINDS.get(name, "number" if is_float else "text")
    has_interval = f"{name}_low" in values
    decimals = 0
    if kind == "loss":
        decimals = LOSS_DECIMALS
    elif kind == "share":
        with_interval = name if has_interval else analysis.test_column
        decimals = column_decimals(values, with_interval)
    return Column(name=name, kind=kind, identity=identity, decimals=decimals, interval=has_interval)


def _default_keys(analysis: Analysis) -> list[str]:
    """Return the settings that tell rows apart, in the order of the configuration."""
    names = {*BASIC_SETTINGS, *analysis.varying_fields}
    return [name for name in TRIAL_FIELDS if name in names]


def _default_measures(table: pd.DataFrame, analysis: Analysis) -> list[str]:
    """Return the measures that are shown by default. One that no row has is left out."""
    measures = ["best_val_loss", "train_accuracy", "val_accuracy"]
    if analysis.score != "accuracy":
        measures += ["val_score", analysis.test_column]
    measures += ["test_accuracy", "recipe_seconds", *uncontrolled_columns(analysis.trials)]
    is_known = table.reindex(columns=measures).notna().any()
    names = [name for name in measures if name == "test_accuracy" or is_known[name]]
    names += ["runs"] if analysis.has_repeats else []
    names.append("status")
    names += ["verdict"] if "verdict" in table else []
    return names


def _require_known(names: Sequence[str], known: Iterable[str], field: str) -> list[str]:
    for name in names:
        if name not in known:
            raise unknown_value_error(field, name, known)
    return list(names)


def _with_status_text(trials: pd.DataFrame, lang: str) -> pd.DataFrame:
    """Put `status` into words; `state` keeps the original."""
    rows = trials.to_dict("records")
    texts = [_status_text(row, lang) for row in rows]
    return trials.assign(state=trials["status"], status=texts, runs=1)


def _status_text(row: dict, lang: str) -> str:
    if row["status"] == "stopped":
        return _stopped_text(row, lang)
    if row["status"] == "failed":
        return translate("status.failed", lang, error=row["error"])
    return translate("status.completed", lang)


def _stopped_text(row: dict, lang: str) -> str:
    """Say after how many epochs a trial was stopped, how good it was, and by what it lost."""
    run = "?" if pd.isna(row["epochs_run"]) else int(row["epochs_run"])
    text = translate("status.stopped", lang, run=run, epochs=row["epochs"])
    if pd.notna(row["val_score"]):
        text += translate("status.stopped_score", lang, score=format_percent(row["val_score"]))
    # rows of earlier versions lack it
    if pd.notna(row["lost_p"]):
        lost, won = int(row["lost_images"]), int(row["won_images"])
        p = format_p_value(row["lost_p"])
        text += translate("status.lost", lang, lost=lost, won=won, p=p)
    return text


def _average_runs(trials: pd.DataFrame, keys: list[str], lang: str) -> pd.DataFrame:
    """Make one row per combination of the keys' values: means, `_sd` columns and `runs`."""
    measures = [name for name in AVERAGED_COLUMNS if name in trials]
    groups = trials.groupby(keys, sort=False, dropna=False)
    completed = trials[trials["status"].eq("completed")].astype(dict.fromkeys(measures, float))
    completed_groups = completed.groupby(keys, sort=False, dropna=False)
    status = groups["status"].agg(lambda states: _status_counts_text(states, lang))
    table = pd.concat(
        [
            groups["key"].first(),
            completed_groups.size().rename("runs"),
            completed_groups[measures].mean(),
            completed_groups[measures].std().add_suffix("_sd"),
            status,
        ],
        axis=1,
    )
    # groups without a completed trial have no run, and concat has put them last
    table = table.reindex(status.index).reset_index()
    table = table.assign(runs=table["runs"].fillna(0).astype(int))
    state = table["runs"].gt(0).map({True: "completed", False: "failed"})
    return table.assign(state=state)


def _status_counts_text(states: pd.Series, lang: str) -> str:
    counts = states.value_counts()
    texts = []
    for state in ("completed", "stopped", "failed"):
        if state in counts:
            texts.append(translate(f"status.count_{state}", lang, n=counts[state]))
    return ", ".join(texts)


def _with_scores(table: pd.DataFrame, analysis: Analysis) -> pd.DataFrame:
    """Add the measures of test images with their intervals.

    A row of all runs of a configuration has those of the configuration, and one of a single run
    those of the trial. For other rows no interval is known.
    """
    configurations = table["key"].map(analysis.configuration_by_trial)
    scores = analysis.configuration_scores.reindex(configurations).set_index(table.index)
    has_all_runs = scores["runs"].eq(table["runs"])
    if not has_all_runs.all():
        trial_scores = analysis.trial_scores.reindex(table["key"]).set_index(table.index)
        has_one_run = table["runs"].eq(1) & table["state"].eq("completed")
        scores = scores.where(has_all_runs, trial_scores.where(has_one_run))
    added = {}
    for name in MEASURES:
        values = scores[name].astype(float)
        added[name] = values.fillna(table[name].astype(float)) if name in table else values
        for end in (f"{name}_low", f"{name}_high"):
            if end in scores:
                added[end] = scores[end].astype(float)
    return table.assign(**added)


def _with_tuned_values(table: pd.DataFrame, analysis: Analysis, lang: str) -> pd.DataFrame:
    """Add `tuned_values`: the chosen values of each row's recipe, and how many it was tried with.

    It is missing where no trial was completed. Without tuned fields there is no such column.
    """
    if not analysis.tuned_fields:
        return table
    texts = {}
    for key in analysis.first_trials["key"]:
        texts[key] = tuned_values_text(analysis, key, lang)
    values = table["key"].map(analysis.configuration_by_trial).map(texts)
    return table.assign(tuned_values=values)


def tuned_values_text(analysis: Analysis, key: str, lang: str) -> str | None:
    """Return the chosen values of a configuration, such as `learning rate 0.0003 of 3`."""
    tried = analysis.tried_values
    tried = tried[tried["key"].eq(key)]
    chosen = tried[tried["chosen"] & tried["completed"].gt(0)]
    if chosen.empty:
        return None
    counts = chosen.groupby(list(analysis.tuned_fields), sort=True).size()
    texts = []
    for values, folds in counts.items():
        fields = zip(analysis.tuned_fields, _as_tuple(values), strict=True)
        text = ", ".join(setting_label(name, format_setting(value), lang) for name, value in fields)
        if len(counts) > 1:
            share = {"folds": folds, "all": counts.sum()}
            text = translate("tuned.in_folds", lang, values=text, **share)
        texts.append(text)
    tried_count = tried.groupby("fold").size().max()
    code = "tuned.value" if len(counts) == 1 else "tuned.values_of_folds"
    return translate(code, lang, values=", ".join(texts), n=tried_count)


def _as_tuple(values: object) -> tuple[object, ...]:
    return values if isinstance(values, tuple) else (values,)


def _with_verdicts(table: pd.DataFrame, analysis: Analysis, lang: str) -> pd.DataFrame:
    """Add `verdict`: the verdict on each completed row, compared with the best configuration.

    It is that of the comparison of all configurations, whichever of them are shown.
    """
    texts = {}
    for key in analysis.verdicts:
        texts[key] = describe_verdict(analysis, key, lang)
    verdicts = table["key"].map(analysis.configuration_by_trial).map(texts)
    return table.assign(verdict=verdicts.where(table["state"].eq("completed")))


def _with_baseline(table: pd.DataFrame, analysis: Analysis, lang: str) -> pd.DataFrame:
    """Add the row of the baseline, which always answers with the most frequent class.

    Its name takes the place of the weights.
    """
    score = analysis.baseline_score
    if score is None:
        return table
    row = {
        "weights": translate("baseline.name", lang),
        analysis.test_column: score,
        "state": BASELINE_STATE,
        "status": translate("baseline.status", lang),
    }
    # whole numbers stay whole beside the missing ones of the baseline
    whole_numbers = table.select_dtypes("int64").columns
    table = table.astype(dict.fromkeys(whole_numbers, "Int64"))
    return pd.concat([table, pd.DataFrame([row])], ignore_index=True)


def _column_notes(
    analysis: Analysis, chosen: pd.DataFrame, shown: Sequence[str], is_averaged: bool
) -> list[Check]:
    """Return notes on what the columns mean."""
    notes = [note("no_match")] if chosen.empty else []
    notes.append(note("definitions"))
    if analysis.score == "balanced_accuracy":
        notes.append(note("balanced_accuracy"))
    if chosen["class_weights"].ne("none").any():
        notes.append(note("weighted_loss"))
    is_head_alone = chosen["freeze"].isin(["features", "head-first"]) & chosen[
        "head_rate_factor"
    ].ne(1)
    if is_head_alone.any():
        factors = chosen.loc[is_head_alone, "head_rate_factor"].unique()
        notes.append(note("head_rate", factors=[format_number(factor) for factor in factors]))
    has_folds = chosen["fold"].nunique() > 1
    notes.append(note("selection_folds") if has_folds else note("selection"))
    if is_averaged:
        notes.append(note("repeats"))
    tests = list(analysis.best_pairs["test"].dropna().unique())
    if "verdict" in shown and tests:
        notes.append(note("verdict", tests=tests))
    return notes
