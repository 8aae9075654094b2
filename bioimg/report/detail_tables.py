"""Build the tables beside the comparison: classes, scores, effects, differences, curves, cost."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from bioimg.errors import UserError
from bioimg.report.comparison_table import (
    SCORE_COLUMNS,
    bootstrapped_scores,
    tested_keys,
    trial_column,
)
from bioimg.report.formatting import column_decimals
from bioimg.report.labels import configuration_labels
from bioimg.report.notices import Notice, make_notice
from bioimg.report.outcome import compare_with_best
from bioimg.report.table_model import Column, Table
from bioimg.report.table_notes import compose_notes, format_list, results_digest
from bioimg.report.translation import translate
from bioimg.results import statistics
from bioimg.results.configurations import REPEAT_FIELDS, has_repeats, varying_fields
from bioimg.results.result_store import Results

DEFAULT_SETTINGS = ("weights", "batch_size", "freeze")
MAX_TRIALS_FOR_ALL_PAIRS = 60
"""With more completed trials, each configuration is compared only with the best one."""

INHERITED_COLUMNS = ("train_seconds", "device_seconds", "price", "epochs_run", "epochs_cached")
"""Columns in which a trial that continued from a shorter one includes the values of that one."""

TIME_COLUMNS = ("train_seconds", "wait_seconds", "features_seconds", "device_seconds")
CLASS_METRICS = ("recall", "precision", "f1", "support")
SECONDS_PER_HOUR = 3600


def varying_settings(results: Results) -> list[str]:
    """Return the fields in which this folder's trials differ; the usual ones for a single trial."""
    trials = results.trials
    settings = varying_fields(trials) or list(DEFAULT_SETTINGS)
    if not has_repeats(trials):
        return settings
    repeats = [name for name in REPEAT_FIELDS if trials[name].nunique() > 1]
    return [*settings, *repeats]


def per_class_table(results: Results, lang: str = "en") -> Table:
    """Build a table of recall, precision, F1 and images of each class, for each tested trial."""
    rows = [pd.DataFrame(columns=["key", "class", *CLASS_METRICS])]
    for key in tested_keys(results):
        metrics = statistics.class_metrics(results, key)
        rows.append(metrics.assign(key=key))
    values = _with_settings(results, _concatenate(rows))
    recall = values["recall"].astype(float)
    support = values["support"].astype(float)
    interval = statistics.wilson_columns(recall, support)
    values = values.assign(recall_low=interval["low"], recall_high=interval["high"])
    decimals = column_decimals(interval["low"], interval["high"])
    shown = [
        Column(name="class", identity=True),
        Column(name="recall", kind="share", decimals=decimals, interval=True),
        Column(name="precision_score", kind="share", decimals=decimals),
        Column(name="f1", kind="share", decimals=decimals),
        Column(name="support", kind="count"),
    ]
    note = make_notice("note.recall", lang)
    return _trial_table("per-class", results, values, shown, lang, note)


def confusion_table(results: Results, lang: str = "en") -> Table:
    """Build a table of test images by label (row) and prediction (column), per tested trial."""
    classes = results.manifest["data"]["classes"]
    names = [f"predicted_{position}" for position in range(len(classes))]
    rows = [pd.DataFrame(columns=["key", "label", *names])]
    for key in tested_keys(results):
        counts = pd.DataFrame(statistics.confusion_counts(results, key), columns=names)
        rows.append(counts.assign(label=classes, key=key))
    values = _with_settings(results, _concatenate(rows))
    shown = [Column(name="label", identity=True)]
    for name, title in zip(names, classes, strict=True):
        shown.append(Column(name=name, kind="count", title=title))
    return _trial_table("confusion", results, values, shown, lang)


def score_table(results: Results, lang: str = "en") -> Table:
    """Build a table of balanced accuracy, macro F1, AUROC and calibration error of trials."""
    values = _with_settings(results, bootstrapped_scores(results))
    shown = [trial_column(name, values) for name in SCORE_COLUMNS]
    has_groups = results.predictions["group"].notna().any()
    unit_key = "unit.groups" if has_groups else "unit.images"
    note = make_notice("note.scores", lang, units=translate(unit_key, lang))
    return _trial_table("scores", results, values, shown, lang, note)


def effects_table(results: Results, lang: str = "en") -> Table:
    """Build a table of the mean effect of each axis and of the two-way interactions."""
    values = statistics.estimate_effects(results)
    values = values.rename(columns={"low": "effect_low", "high": "effect_high"})
    decimals = column_decimals(values["effect_low"], values["effect_high"])
    shown = [
        Column(name="axis", identity=True),
        Column(name="level", identity=True),
        Column(name="reference", identity=True),
        Column(name="n", kind="count"),
        Column(name="effect", kind="points", decimals=decimals, interval=True),
        Column(name="p", kind="p"),
    ]
    note = make_notice("note.effects", lang)
    return _make_table("effects", results, values, shown, lang, note)


def differences_table(results: Results, lang: str = "en") -> Table:
    """Build a table of what can be claimed about every pair of completed configurations."""
    pairs = statistics.compare_pairs(results)
    return _pairs_table("differences", results, pairs, lang)


def best_differences_table(results: Results, lang: str = "en") -> Table:
    """Build a table of what can be claimed about each configuration against the best one."""
    if statistics.best_configuration(results) is None:
        pairs = statistics.compare_pairs(results)
    else:
        pairs = compare_with_best(results)
    return _pairs_table("differences-best", results, pairs, lang)


def _pairs_table(name: str, results: Results, pairs: pd.DataFrame, lang: str) -> Table:
    labels = configuration_labels(results, lang)
    values = pairs.rename(columns={"low": "difference_low", "high": "difference_high"})
    values = values.assign(
        key_a=pairs["a"],
        key_b=pairs["b"],
        a=pairs["a"].map(labels),
        b=pairs["b"].map(labels),
    )
    decimals = column_decimals(pairs["low"], pairs["high"])
    shown = [
        Column(name="a", identity=True),
        Column(name="b", identity=True),
        Column(name="accuracy_a", kind="share", decimals=decimals),
        Column(name="accuracy_b", kind="share", decimals=decimals),
        Column(name="difference", kind="points", decimals=decimals, interval=True),
        Column(name="p", kind="p"),
        Column(name="p_holm", kind="p"),
        Column(name="claim"),
    ]
    image_counts = format_list(pairs["n"].dropna().unique())
    tests = format_list(pairs["test"].dropna().unique())
    note = make_notice(
        "note.differences",
        lang,
        n=image_counts or "0",
        tests=tests or "–",
        pairs=int(pairs["p"].notna().sum()),
    )
    return _make_table(name, results, values, shown, lang, note)


def curve_diagnosis_table(results: Results, lang: str = "en") -> Table:
    """Build a table of over-fitting and instability of each trial."""
    diagnoses = statistics.diagnose_curves(results.epochs).drop(columns="epochs")
    values = _with_settings(results, diagnoses)
    shown = [
        Column(name="last_fall", kind="epoch"),
        Column(name="gap", kind="points", decimals=1),
        Column(name="rise", kind="share"),
        Column(name="oscillation", kind="points", decimals=1),
        Column(name="reading"),
    ]
    note = make_notice("note.curves", lang)
    return _trial_table("curves", results, values, shown, lang, note)


def epoch_table(results: Results, lang: str = "en", epoch: int | None = None) -> Table:
    """Build a table of validation results of all trials after the same epoch.

    Args:
        results: the results to show.
        lang: language of headers, caption and notes.
        epoch: by default the last epoch that all trials reached.

    Raises:
        UserError: no trial reached that epoch.
    """
    trials = results.trials[results.trials["status"].ne("failed")]
    epochs = results.epochs[results.epochs["key"].isin(trials["key"])]
    if epoch is None:
        epoch = _last_common_epoch(epochs)
    else:
        _check_reached(epoch, epochs)
    rows = epochs.loc[epochs["epoch"].eq(epoch), ["key", "val_accuracy", "val_loss"]]
    values = _with_settings(results, rows)
    accuracy = values["val_accuracy"].astype(float)
    images = values["val_images"].astype(float)
    interval = statistics.wilson_columns(accuracy, images)
    values = values.assign(val_accuracy_low=interval["low"], val_accuracy_high=interval["high"])
    values = values.sort_values("val_accuracy", ascending=False, kind="stable", ignore_index=True)
    decimals = column_decimals(interval["low"], interval["high"])
    shown = [
        Column(name="val_accuracy", kind="share", decimals=decimals, interval=True),
        Column(name="val_loss", kind="loss", decimals=4),
        Column(name="epochs_run", kind="count"),
        Column(name="status"),
    ]
    counts = {"came": len(values), "all": len(results.trials)}
    note = make_notice("note.at_epoch", lang, epoch=epoch, **counts)
    return _trial_table("at-epoch", results, values, shown, lang, note)


def _last_common_epoch(epochs: pd.DataFrame) -> int:
    reached = epochs.groupby("key")["epoch"].max()
    return int(reached.min()) if len(reached) else 0


def _check_reached(epoch: int, epochs: pd.DataFrame) -> None:
    if epochs.empty:
        return
    last = epochs["epoch"].max()
    if not 1 <= epoch <= last:
        raise UserError(
            f"the value of `at_epoch` is {epoch}, but must be an epoch that some trial reached: "
            f"1 to {last}. Leave it out to use the last one that all trials reached."
        )


def cost_table(results: Results, lang: str = "en", price: float | None = None) -> Table:
    """Build a table of seconds, device-seconds, epochs and price of each trial.

    It also shows what early stopping and cached features saved, and ends with a total.

    Args:
        results: the results to show.
        lang: language of headers, caption and notes.
        price: price of one device-hour; without it there is no such column.
    """
    values = _trial_costs(results.trials, price)
    total = _total_costs(values)
    total = total.assign(status=translate("status.total", lang))
    values = pd.concat([values, total], ignore_index=True)
    times = [Column(name=name, kind="seconds") for name in TIME_COLUMNS]
    shown = [
        *times,
        Column(name="epochs_run", kind="count"),
        Column(name="epochs_stopped", kind="count"),
        Column(name="seconds_stopped", kind="seconds"),
        Column(name="epochs_cached", kind="count"),
    ]
    notes = [make_notice("note.cost", lang)]
    if price is not None:
        shown.append(Column(name="price", kind="money", decimals=2))
        notes.append(make_notice("note.price", lang, price=price))
    shown.append(Column(name="status", identity=True))
    return _trial_table("cost", results, values, shown, lang, *notes)


def _trial_costs(trials: pd.DataFrame, price: float | None) -> pd.DataFrame:
    """Add each trial's device time, its price, and the epochs that it was spared."""
    device_seconds = trials["train_seconds"] * trials["workers"]
    is_stopped = trials["status"].eq("stopped")
    epochs_run = trials["epochs_run"]
    epochs_stopped = (trials["epochs"] - epochs_run).where(is_stopped, 0)
    # null instead of infinite for a trial that ran no epoch
    seconds_per_epoch = trials["train_seconds"] / epochs_run.where(epochs_run.gt(0))
    seconds_stopped = epochs_stopped * seconds_per_epoch
    has_cached_features = trials["features"].eq("cached")
    return trials.assign(
        device_seconds=device_seconds,
        epochs_stopped=epochs_stopped,
        seconds_stopped=seconds_stopped.where(epochs_stopped.gt(0)),
        epochs_cached=epochs_run.where(has_cached_features, 0),
        price=None if price is None else device_seconds / SECONDS_PER_HOUR * price,
    )


def _total_costs(costs: pd.DataFrame) -> pd.DataFrame:
    """Return one row with the sums of all columns of costs."""
    summed = [
        *TIME_COLUMNS,
        "seconds_stopped",
        "price",
        "epochs_run",
        "epochs_stopped",
        "epochs_cached",
    ]
    total = costs[summed].astype(float).sum(min_count=1)
    total[list(INHERITED_COLUMNS)] = sum_without_shared_epochs(costs, INHERITED_COLUMNS)
    return total.to_frame().T


def sum_without_shared_epochs(trials: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """Sum columns over trials. Epochs that one trial continued from another count once."""
    amounts = trials[list(columns)].astype(float).set_axis(trials["key"])
    continued = trials.dropna(subset=["continued_from"])
    longer = amounts.loc[continued["key"]]
    # under the keys of the longer trials, so that the two tables have the same rows
    shorter = amounts.reindex(continued["continued_from"]).set_axis(continued["key"])
    # a longer trial that was stopped may have less than the shorter one it continued from
    shared = np.minimum(longer, shorter)
    return amounts.sum(min_count=1) - shared.sum()


def _concatenate(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the frames after the first, or return it, an empty one with all columns."""
    first, *others = frames
    return pd.concat(others) if others else first


def _with_settings(results: Results, rows: pd.DataFrame) -> pd.DataFrame:
    """Add the trial's settings to rows that have its key.

    Precision as a score is renamed, since `precision` is also a setting.
    """
    rows = rows.rename(columns={"precision": "precision_score"})
    own_columns = rows.columns.drop("key")
    settings = results.trials.drop(columns=own_columns, errors="ignore")
    return rows.merge(settings, on="key", how="left").reset_index(drop=True)


def _trial_table(
    name: str,
    results: Results,
    values: pd.DataFrame,
    columns: Sequence[Column],
    lang: str,
    *notes: Notice,
) -> Table:
    """Make a table about trials, whose first columns are the settings that vary."""
    settings = []
    for field in varying_settings(results):
        column = trial_column(field, results.trials)
        settings.append(dataclasses.replace(column, identity=True))
    return _make_table(name, results, values, [*settings, *columns], lang, *notes)


def _make_table(
    name: str,
    results: Results,
    values: pd.DataFrame,
    columns: Sequence[Column],
    lang: str,
    *notes: Notice,
) -> Table:
    """Make a table with the caption and the notes of its name. An empty one says so instead."""
    if values.empty:
        notes = (make_notice("note.empty", lang),)
    return Table(
        name=name,
        values=values,
        columns=tuple(columns),
        caption=translate(f"caption.{name}", lang, data=results.manifest["data"]["name"]),
        notices=compose_notes(results, results.trials, lang, *notes),
        results_digest=results_digest(results),
        lang=lang,
    )


TABLE_BUILDERS: dict[str, Callable[[Results, str], Table]] = {
    "per-class": per_class_table,
    "confusion": confusion_table,
    "scores": score_table,
    "effects": effects_table,
    "differences-best": best_differences_table,
    "curves": curve_diagnosis_table,
    "cost": cost_table,
    "at-epoch": epoch_table,
    "differences": differences_table,
}


def build_detail_table(
    name: str, results: Results, lang: str = "en", price: float | None = None
) -> Table:
    """Build the table of this name, one of `TABLE_BUILDERS`.

    Args:
        name: the name of the table.
        results: the results to show.
        lang: language of headers, caption and notes.
        price: price of one device-hour, for the cost table.
    """
    if name == "cost":
        return cost_table(results, lang, price)
    return TABLE_BUILDERS[name](results, lang)


def build_detail_tables(
    results: Results, lang: str = "en", price: float | None = None
) -> list[Table]:
    """Build all detail tables that aren't empty.

    Args:
        results: the results to show.
        lang: language of headers, captions and notes.
        price: price of one device-hour, for the cost table.
    """
    status = results.trials["status"]
    names = list(TABLE_BUILDERS)
    if not status.eq("stopped").any():
        names.remove("at-epoch")
    if status.eq("completed").sum() > MAX_TRIALS_FOR_ALL_PAIRS:
        names.remove("differences")
    tables = []
    for name in names:
        table = build_detail_table(name, results, lang, price)
        if len(table.values):
            tables.append(table)
    return tables
