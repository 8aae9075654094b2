"""Build the comparison table: one row per configuration, or per trial if none is repeated."""

from collections.abc import Iterable, Sequence

import pandas as pd

from bioimg.config import TRIAL_FIELDS
from bioimg.errors import unknown_value_error
from bioimg.report.analysis import SCORE_COLUMNS, Analysis
from bioimg.report.checks import Check, note
from bioimg.report.formatting import column_decimals, format_p_value, format_percent
from bioimg.report.row_filter import format_condition, select_rows, sort_rows
from bioimg.report.table_model import Column, ColumnKind, Table
from bioimg.report.translation import translate
from bioimg.results import statistics
from bioimg.results.configurations import REPEAT_FIELDS, has_repeats, varying_fields

BASIC_SETTINGS = ("weights", "batch_size", "freeze", "epochs")
MEASURES = ("train_accuracy", "best_val_loss", "val_accuracy", "test_accuracy", "recipe_seconds")
"""The measures that are shown by default: of the selected epoch, and what the recipe costs."""

REPORT_2023_MEASURES = (
    "final_train_loss",
    "best_train_accuracy",
    "best_val_loss",
    "final_val_accuracy",
    "best_val_accuracy",
    "test_accuracy",
    "train_seconds",
)
REPORT_2023_COLUMNS = (*BASIC_SETTINGS, *REPORT_2023_MEASURES)
"""The columns of the tables in the report of 2023."""

BEST_ACCURACIES = {"best_train_accuracy", "best_val_accuracy"}
"""The columns with the highest accuracy of any epoch."""

INTERVAL_COLUMNS = ("test_accuracy", *SCORE_COLUMNS)
"""The columns that are shown with their interval."""

IMAGE_COUNT_COLUMNS = {
    "train_accuracy": "train_images",
    "val_accuracy": "val_images",
    "best_train_accuracy": "train_images",
    "final_val_accuracy": "val_images",
    "best_val_accuracy": "val_images",
    "test_accuracy": "test_images",
}
"""The accuracies, each with the column that counts its images."""

LOSS_DECIMALS = 4
LOSS_COLUMNS = ("final_train_loss", "best_val_loss")
TIME_COLUMNS = ("recipe_seconds", "train_seconds", "wait_seconds", "features_seconds")
NUMBER_COLUMNS = ("learning_rate", "weight_decay")
COUNT_COLUMNS = (
    "best_val_loss_epoch",
    "epochs_run",
    "runs",
    "trained_parameters",
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
    **dict.fromkeys((*IMAGE_COUNT_COLUMNS, "val_score", "test_score", *SCORE_COLUMNS), "share"),
    **dict.fromkeys(LOSS_COLUMNS, "loss"),
    **dict.fromkeys(TIME_COLUMNS, "seconds"),
    **dict.fromkeys(NUMBER_COLUMNS, "number"),
    **dict.fromkeys(COUNT_COLUMNS, "count"),
}


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

    Args:
        analysis: the results to compare.
        rows: a condition on the columns of trials.parquet, such as `freeze == "none"`.
        columns: columns to show, in this order. By default: the settings that vary, the measures
            of the report, `status` and `standing`.
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
    keys = _require_known(group_by, TRIAL_FIELDS, "group_by") or _default_keys(analysis.trials)
    averaged = bool(group_by) or (has_repeats(chosen) and not single)
    repeats = [] if averaged else _repeat_fields(chosen)

    table = _with_intervals(_with_scores(chosen, analysis, columns))
    table = _average_runs(table, keys, lang) if averaged else _with_status_text(table, lang)
    if not group_by and (not columns or "standing" in columns):
        table = _with_standing(table, analysis, lang)
    table = sort_rows(table, sort).reset_index(drop=True)

    default_columns = [*keys, *repeats, *MEASURES, *_trailing_columns(table, averaged)]
    shown = _require_known(columns or default_columns, table.columns, "columns")
    notes = _column_notes(analysis, chosen, shown, averaged)
    if chosen.empty:
        notes.insert(0, note("no_match"))
    identities = {*keys, *repeats}
    return Table(
        name="comparison",
        values=table,
        columns=tuple(trial_column(name, table, name in identities) for name in shown),
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


def trial_column(name: str, values: pd.DataFrame, identity: bool = False) -> Column:
    """Return how a column of trials is shown; decimals follow the median width of its intervals."""
    is_float = pd.api.types.is_float_dtype(values[name])
    kind = COLUMN_KINDS.get(name, "number" if is_float else "text")
    has_interval = f"{name}_low" in values
    decimals = 0
    if kind == "loss":
        decimals = LOSS_DECIMALS
    elif kind == "share" and has_interval:
        decimals = column_decimals(values[f"{name}_low"], values[f"{name}_high"])
    return Column(
        name=name,
        kind=kind,
        identity=identity,
        decimals=decimals,
        interval=has_interval and name in INTERVAL_COLUMNS,
    )


def _default_keys(trials: pd.DataFrame) -> list[str]:
    """Return the settings that tell rows apart, in the order of the configuration."""
    names = {*BASIC_SETTINGS, *varying_fields(trials)}
    return [name for name in TRIAL_FIELDS if name in names]


def _repeat_fields(trials: pd.DataFrame) -> list[str]:
    """Return the fields in which repeats of a configuration differ; none if nothing is repeated."""
    if not has_repeats(trials):
        return []
    return [name for name in REPEAT_FIELDS if trials[name].nunique() > 1]


def _require_known(names: Sequence[str], known: Iterable[str], field: str) -> list[str]:
    for name in names:
        if name not in known:
            raise unknown_value_error(field, name, known)
    return list(names)


def _with_scores(trials: pd.DataFrame, analysis: Analysis, columns: Sequence[str]) -> pd.DataFrame:
    """Add scores if any is asked for. They need the predictions, and time."""
    if set(columns) & set(SCORE_COLUMNS):
        without_scores = trials.drop(columns=list(SCORE_COLUMNS), errors="ignore")
        return without_scores.merge(analysis.trial_scores, on="key", how="left")
    missing = [name for name in SCORE_COLUMNS if name not in trials]
    return trials.assign(**dict.fromkeys(missing))


def _with_intervals(trials: pd.DataFrame) -> pd.DataFrame:
    """Add the Wilson intervals of accuracies in columns `_low` and `_high`."""
    added = {}
    for name, count_column in IMAGE_COUNT_COLUMNS.items():
        shares = trials[name].astype(float)
        interval = statistics.wilson_columns(shares, trials[count_column].astype(float))
        added[f"{name}_low"] = interval["low"]
        added[f"{name}_high"] = interval["high"]
    return trials.assign(**added)


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
    """Make one row per combination of the keys' values, with `_sd` columns and `runs`.

    Accuracies are over the images of all completed trials, other measures are means over trials.
    """
    other_names = ("val_score", "test_score", "wait_seconds")
    names = dict.fromkeys((*MEASURES, *REPORT_2023_MEASURES, *SCORE_COLUMNS, *other_names))
    measures = [name for name in names if name in trials]
    averaged = [name for name in measures if name not in IMAGE_COUNT_COLUMNS]
    groups = trials.groupby(keys, sort=False, dropna=False)
    completed = trials[trials["status"].eq("completed")].astype(dict.fromkeys(measures, float))
    completed_groups = completed.groupby(keys, sort=False, dropna=False)
    status = groups["status"].agg(lambda states: _status_counts_text(states, lang))
    table = pd.concat(
        [
            groups["key"].first(),
            completed_groups.size().rename("runs"),
            completed_groups[averaged].mean(),
            _pooled_accuracies(completed, keys),
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


def _pooled_accuracies(completed: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return accuracies over all images of a row's runs, with their Wilson intervals."""
    pooled = {}
    for name, count_column in IMAGE_COUNT_COLUMNS.items():
        images = completed[count_column].where(completed[name].notna()).astype(float)
        # An interval counts each image once. Seeds share their images. Folds have validation and
        # test images of their own, but train on nearly the same ones.
        distinct = keys if count_column == "train_images" else list(dict.fromkeys([*keys, "fold"]))
        first_runs = ~completed.duplicated(distinct)
        counts = pd.DataFrame(
            {
                "correct": completed[name] * images,
                "all": images,
                "different": images.where(first_runs),
            }
        )
        group_columns = [completed[key] for key in keys]
        sums = counts.groupby(group_columns, sort=False, dropna=False).sum()
        accuracy = sums["correct"] / sums["all"]
        interval = statistics.wilson_columns(accuracy, sums["different"])
        pooled[name] = accuracy
        pooled[f"{name}_low"] = interval["low"]
        pooled[f"{name}_high"] = interval["high"]
    return pd.DataFrame(pooled)


def _status_counts_text(states: pd.Series, lang: str) -> str:
    counts = states.value_counts()
    texts = []
    for state in ("completed", "stopped", "failed"):
        if state in counts:
            texts.append(translate(f"status.count_{state}", lang, n=counts[state]))
    return ", ".join(texts)


def _with_standing(table: pd.DataFrame, analysis: Analysis, lang: str) -> pd.DataFrame:
    """Add `standing`: the verdict on each completed row, compared with the best configuration."""
    comparable = {
        key: verdict for key, verdict in analysis.verdicts.items() if verdict != "unknown"
    }
    verdicts = table["key"].map(analysis.configuration_by_trial).map(comparable)
    verdicts = verdicts.where(table["state"].eq("completed"))
    texts = verdicts.map(lambda verdict: translate(f"standing.{verdict}", lang), na_action="ignore")
    return table.assign(standing=texts)


def _trailing_columns(table: pd.DataFrame, averaged: bool) -> list[str]:
    names = ["runs"] if averaged else []
    names.append("status")
    if "standing" in table:
        names.append("standing")
    return names


def _column_notes(
    analysis: Analysis, chosen: pd.DataFrame, shown: Sequence[str], averaged: bool
) -> list[Check]:
    """Return notes on what the columns mean."""
    notes = [note("definitions", interval="Wilson")]
    if chosen["score_used"].eq("balanced_accuracy").any():
        notes.append(note("balanced_score"))
    if chosen["class_weights"].ne("none").any():
        notes.append(note("weighted_loss"))
    has_folds = chosen["fold"].nunique() > 1
    notes.append(note("selection_folds") if has_folds else note("selection"))
    if BEST_ACCURACIES & set(shown):
        notes.append(note("best_accuracies"))
    if averaged:
        notes.append(note("repeats"))
    if "standing" in shown:
        tests = list(analysis.best_pairs["test"].dropna().unique())
        if tests:
            notes.append(note("standing", tests=tests))
    return notes
