"""Build the tables beside the comparison: classes, scores, effects, differences, curves, cost."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from bioimg.config import DatasetConfig
from bioimg.errors import UserError
from bioimg.report import sentences
from bioimg.report.analysis import MEASURES, Analysis
from bioimg.report.checks import Check, external_checks, note
from bioimg.report.comparison_table import LOSS_DECIMALS, trial_column
from bioimg.report.formatting import column_decimals
from bioimg.report.report_context import ReportContext
from bioimg.report.table_model import Column, Table
from bioimg.report.tested_set import SCORE_COLUMNS
from bioimg.report.translation import translate
from bioimg.results import statistics

DEFAULT_SETTINGS = ("weights", "batch_size", "freeze")
GROUP_MEASURES = ("accuracy", "balanced_accuracy", "auroc")
MAX_TRIALS_FOR_ALL_PAIRS = 60
"""With more completed trials, each configuration is compared only with the best one."""

INHERITED_COLUMNS = ("train_seconds", "epochs_run", "epochs_cached")
"""Columns in which a trial that continued from a shorter one includes the values of that one."""

TIME_COLUMNS = ("train_seconds", "wait_seconds", "features_seconds", "device_seconds")
SECONDS_PER_HOUR = 3600
FEATURE_FIELDS = (*DatasetConfig.__dataclass_fields__, "model", "weights")
"""Trials that agree in these share the features of a frozen backbone."""


def varying_settings(analysis: Analysis) -> list[str]:
    """Return the fields in which this folder's trials differ; the usual ones for a single trial."""
    settings = analysis.varying_fields or list(DEFAULT_SETTINGS)
    return [*settings, *analysis.repeat_fields]


def per_class_table(analysis: Analysis, lang: str = "en") -> Table:
    """Build a table of recall, specificity, precision, F1 and images of each class and trial."""
    values = _with_settings(analysis, analysis.class_metrics)
    shown = [Column(name="class", identity=True)]
    for name in ("recall", "specificity"):
        decimals = column_decimals(values, name)
        shown.append(Column(name=name, kind="share", decimals=decimals, interval=True))
    decimals = column_decimals(values, "recall")
    shown += [
        Column(name="precision_score", kind="share", decimals=decimals),
        Column(name="f1", kind="share", decimals=decimals),
        Column(name="support", kind="count"),
    ]
    return _trial_table("per-class", analysis, values, shown, lang, note("recall"))


def confusion_table(analysis: Analysis, lang: str = "en") -> Table:
    """Build a table of test images by label (row) and prediction (column), per tested trial."""
    classes = analysis.manifest["data"]["classes"]
    names = [f"predicted_{position}" for position in range(len(classes))]
    tables = [pd.DataFrame(columns=["key", "label", *names])]
    for key in analysis.tested_keys:
        counts = statistics.confusion_counts(analysis.results, key)
        counts = pd.DataFrame(counts, columns=names)
        tables.append(counts.assign(label=classes, key=key))
    values = _with_settings(analysis, pd.concat(tables))
    shown = [Column(name="label", identity=True)]
    for name, title in zip(names, classes, strict=True):
        shown.append(Column(name=name, kind="count", title=title))
    return _trial_table("confusion", analysis, values, shown, lang)


def score_table(analysis: Analysis, lang: str = "en") -> Table:
    """Build a table of balanced accuracy, macro F1, AUROC and calibration error of trials."""
    values = _with_settings(analysis, analysis.trial_scores.reset_index())
    shown = []
    for name in MEASURES:
        decimals = column_decimals(values, name)
        shown.append(Column(name=name, kind="share", decimals=decimals, interval=True))
    return _trial_table("scores", analysis, values, shown, lang, note("scores"))


def effects_table(analysis: Analysis, lang: str = "en") -> Table:
    """Build a table of the mean effect of each axis and of the two-way interactions."""
    report = ReportContext(analysis, lang)
    effects = analysis.effects
    refusals = [sentences.effect_refusal(report, effect) for effect in effects.to_dict("records")]
    values = effects.rename(columns={"low": "effect_low", "high": "effect_high"})
    values = values.assign(claim=refusals)
    decimals = column_decimals(values, "effect")
    shown = [
        Column(name="axis", identity=True),
        Column(name="level", identity=True),
        Column(name="reference", identity=True),
        Column(name="n", kind="count"),
        Column(name="effect", kind="points", decimals=decimals, interval=True),
        Column(name="p", kind="p"),
    ]
    if any(refusals):
        shown.append(Column(name="claim"))
    return _make_table("effects", analysis, values, shown, lang, note("effects"))


def differences_table(analysis: Analysis, lang: str = "en") -> Table:
    """Build a table of what can be claimed about every pair of completed configurations."""
    return _pairs_table("differences", analysis, analysis.all_pairs, lang)


def best_differences_table(analysis: Analysis, lang: str = "en") -> Table:
    """Build a table of what can be claimed about each configuration against the best one."""
    return _pairs_table("differences-best", analysis, analysis.best_pairs, lang)


def _pairs_table(name: str, analysis: Analysis, pairs: pd.DataFrame, lang: str) -> Table:
    report = ReportContext(analysis, lang)
    claims = [sentences.claim(analysis, pair, lang) for pair in pairs.to_dict("records")]
    values = pairs.rename(columns={"low": "difference_low", "high": "difference_high"})
    values = values.assign(
        key_a=pairs["a"],
        key_b=pairs["b"],
        a=pairs["a"].map(report.recipe),
        b=pairs["b"].map(report.recipe),
        claim=claims,
    )
    decimals = column_decimals(values, "difference")
    shown = [
        Column(name="a", identity=True),
        Column(name="b", identity=True),
        Column(name="score_a", kind="share", decimals=decimals),
        Column(name="score_b", kind="share", decimals=decimals),
        Column(name="difference", kind="points", decimals=decimals, interval=True),
        Column(name="p", kind="p"),
        Column(name="p_holm", kind="p"),
        Column(name="claim"),
    ]
    comparisons = note(
        "differences",
        n=list(pairs["n"].dropna().unique()),
        tests=list(pairs["test"].dropna().unique()),
        pairs=int(pairs["p"].notna().sum()),
    )
    return _make_table(name, analysis, values, shown, lang, comparisons)


def external_table(analysis: Analysis, lang: str = "en", only: str | None = None) -> Table:
    """Build a table of recipes on external sets: score there, change, and what can be claimed.

    Args:
        analysis: the results to show.
        lang: language of headers, caption and notes.
        only: the name of a set; by default all of them.
    """
    columns = ["external_set", "key", *SCORE_COLUMNS]
    tables = [pd.DataFrame(columns=columns)]
    checks: list[Check] = []
    for tested in analysis.external_sets:
        if only not in (None, tested.name):
            continue
        claims = {}
        for pair in tested.best_pairs.to_dict("records"):
            claims[pair["a"]] = sentences.claim(analysis, pair, lang)
        if tested.has_best:
            claims[tested.best_key] = translate("verdict.best", lang)
        rows = tested.scores.reset_index()
        rows = rows.assign(external_set=tested.name, claim=rows["key"].map(claims))
        pairs = tested.best_pairs.set_index("a")["p_holm"]
        rows = rows.assign(p_holm=rows["key"].map(pairs))
        tables.append(rows.sort_values("score_away", ascending=False, kind="stable"))
        checks += external_checks(tested.name, tested.record, has_folds=tested.has_folds)
    values = _with_settings(analysis, pd.concat(tables, ignore_index=True))
    settings = [Column(name="external_set", identity=True)]
    for field in analysis.varying_fields or DEFAULT_SETTINGS:
        settings.append(trial_column(field, analysis.trials, analysis, identity=True))
    shown = []
    for name, kind in zip(SCORE_COLUMNS, ("share", "share", "points"), strict=True):
        decimals = column_decimals(values, name)
        shown.append(Column(name=name, kind=kind, decimals=decimals, interval=True))
    shown += [Column(name="p_holm", kind="p"), Column(name="claim")]
    notes = [*checks, note("external")]
    return _make_table("external", analysis, values, [*settings, *shown], lang, *notes)


def groups_table(analysis: Analysis, lang: str = "en") -> Table:
    """Build a table of recipes on groups of images, such as patients."""
    names = [f"group_{name}" for name in GROUP_MEASURES]
    tables = [pd.DataFrame(columns=["tested_on", "key", "groups", *names, "p_holm", "claim"])]
    for grouped in analysis.grouped_sets:
        claims = {}
        for pair in grouped.best_pairs.to_dict("records"):
            claims[pair["a"]] = sentences.claim(analysis, pair, lang, units="groups")
        if grouped.has_best:
            claims[grouped.best_key] = translate("verdict.best", lang)
        rows = grouped.scores.drop(columns="groups").reset_index()
        for name in GROUP_MEASURES:
            for part in ("", "_low", "_high"):
                if f"{name}{part}" in rows:
                    rows = rows.rename(columns={f"{name}{part}": f"group_{name}{part}"})
        p_holm = grouped.best_pairs.set_index("a")["p_holm"]
        tables.append(
            rows.assign(
                tested_on=sentences.tested_on(grouped, lang),
                groups=rows["images"],
                p_holm=rows["key"].map(p_holm),
                claim=rows["key"].map(claims),
            )
        )
    values = _with_settings(analysis, pd.concat(tables, ignore_index=True))
    settings = [Column(name="tested_on", identity=True)]
    for field in analysis.varying_fields or DEFAULT_SETTINGS:
        settings.append(trial_column(field, analysis.trials, analysis, identity=True))
    shown = [Column(name="groups", kind="count")]
    for name in names:
        decimals = column_decimals(values, name)
        shown.append(Column(name=name, kind="share", decimals=decimals, interval=True))
    shown += [Column(name="p_holm", kind="p"), Column(name="claim")]
    columns = [*settings, *shown]
    return _make_table("groups", analysis, values, columns, lang, *_group_notes(analysis))


def group_classes_table(analysis: Analysis, lang: str = "en") -> Table:
    """Build a table of sensitivity, specificity and number of groups of each class and trial."""
    tables = [pd.DataFrame(columns=["tested_on", "key", "class", "recall", "specificity"])]
    for grouped in analysis.grouped_sets:
        metrics = grouped.class_metrics.rename(columns={"support": "groups"})
        tables.append(metrics.assign(tested_on=sentences.tested_on(grouped, lang)))
    values = _with_settings(analysis, pd.concat(tables, ignore_index=True))
    shown = [Column(name="tested_on", identity=True), Column(name="class", identity=True)]
    for name in ("recall", "specificity"):
        decimals = column_decimals(values, name)
        shown.append(Column(name=name, kind="share", decimals=decimals, interval=True))
    shown.append(Column(name="groups", kind="count"))
    notes = _group_notes(analysis)
    return _trial_table("groups-per-class", analysis, values, shown, lang, *notes)


def _group_notes(analysis: Analysis) -> list[Check]:
    return [note(f"group_{analysis.results.aggregate}"), note("groups")]


def curve_diagnosis_table(analysis: Analysis, lang: str = "en") -> Table:
    """Build a table of over-fitting and instability of each trial."""
    curves = analysis.curves
    readings = [sentences.curve_reading(curve, lang) for curve in curves.to_dict("records")]
    curves = curves.assign(reading=readings).drop(columns="epochs")
    values = _with_settings(analysis, curves)
    shown = [
        Column(name="last_fall", kind="epoch"),
        Column(name="gap", kind="points", decimals=1),
        Column(name="rise", kind="share"),
        Column(name="oscillation", kind="points", decimals=1),
        Column(name="reading"),
    ]
    return _trial_table("curves", analysis, values, shown, lang, note("curves"))


def epoch_table(analysis: Analysis, lang: str = "en", epoch: int | None = None) -> Table:
    """Build a table of validation results of all trials after the same epoch.

    Args:
        analysis: the results to show.
        lang: language of headers, caption and notes.
        epoch: by default the last epoch that all trials reached.

    Raises:
        UserError: no trial reached that epoch.
    """
    trials = analysis.trials[analysis.trials["status"].ne("failed")]
    epochs = analysis.results.epochs
    epochs = epochs[epochs["key"].isin(trials["key"])]
    if epoch is None:
        epoch = _last_common_epoch(epochs)
    else:
        _check_reached(epoch, epochs)
    rows = epochs.loc[epochs["epoch"].eq(epoch), ["key", "val_score", "val_accuracy", "val_loss"]]
    values = _with_settings(analysis, rows)
    values = values.sort_values("val_score", ascending=False, kind="stable", ignore_index=True)
    shown = [
        Column(name="val_accuracy", kind="share", decimals=1),
        Column(name="val_loss", kind="loss", decimals=4),
        Column(name="epochs_run", kind="count"),
        Column(name="status"),
    ]
    came = note("at_epoch", epoch=epoch, came=len(values), all=len(analysis.trials))
    return _trial_table("at-epoch", analysis, values, shown, lang, came)


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


def tuning_table(analysis: Analysis, lang: str = "en") -> Table:
    """Build a table of the values of tuned fields that each recipe was tried with.

    Without tuned fields it has no rows.
    """
    tried = analysis.tried_values if analysis.tuned_fields else pd.DataFrame(columns=["key"])
    fields = [*analysis.varying_fields, *analysis.tuned_fields]
    if len(tried) and tried["fold"].nunique() > 1:
        fields.insert(len(analysis.varying_fields), "fold")
    # the losses are means, so they have no epoch
    values = _with_settings(analysis, tried).drop(columns="best_val_loss_epoch")
    if len(values):
        texts = values["completed"].astype(str) + "/" + values["runs"].astype(str)
        marks = values["chosen"].map({True: translate("tuned.chosen", lang), False: None})
        values = values.assign(tried_runs=texts, chosen=marks)
        order = {key: position for position, key in enumerate(analysis.first_trials["key"])}
        position = values["key"].map(order)
        by_recipe = ["_recipe", "fold", *analysis.tuned_fields]
        values = values.assign(_recipe=position).sort_values(by_recipe, ignore_index=True)
        values = values.drop(columns="_recipe")
    settings = []
    for field in fields:
        settings.append(trial_column(field, analysis.all_results.trials, analysis, identity=True))
    shown = [
        *settings,
        Column(name="best_val_loss", kind="loss", decimals=LOSS_DECIMALS),
        Column(name="val_score", kind="share", decimals=1),
        Column(name="tried_runs"),
        Column(name="chosen"),
    ]
    return _make_table("tuning", analysis, values, shown, lang, note("tuning"))


def cost_table(analysis: Analysis, lang: str = "en", price: float | None = None) -> Table:
    """Build a table of seconds, device-seconds, epochs and price of each trial.

    It also shows what early stopping and cached features saved, and ends with a total. Trials of
    tuned values that weren't chosen are among them.

    Args:
        analysis: the results to show.
        lang: language of headers, caption and notes.
        price: price of one device-hour; without it there is no such column.
    """
    values = _trial_costs(analysis.all_results.trials, price)
    total = _total_costs(values, price)
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
    notes = [note("cost")]
    if price is not None:
        shown.append(Column(name="price", kind="money", decimals=2))
        notes.append(note("price", price=price))
    shown.append(Column(name="status", identity=True))
    shown = [*_tuned_columns(analysis), *shown]
    return _trial_table("cost", analysis, values, shown, lang, *notes)


def _tuned_columns(analysis: Analysis) -> list[Column]:
    columns = []
    for field in analysis.tuned_fields:
        columns.append(trial_column(field, analysis.all_results.trials, analysis, identity=True))
    return columns


def _trial_costs(trials: pd.DataFrame, price: float | None) -> pd.DataFrame:
    """Add each trial's device time, its price, and the epochs that it was spared."""
    seconds = trials["train_seconds"] + trials["features_seconds"].fillna(0)
    device_seconds = seconds * trials["workers"]
    is_stopped = trials["status"].eq("stopped")
    epochs_run = trials["epochs_run"]
    epochs_stopped = (trials["epochs"] - epochs_run).where(is_stopped, 0)
    # null instead of infinite for a trial that ran no epoch
    seconds_per_epoch = trials["train_seconds"] / epochs_run.where(epochs_run.gt(0))
    seconds_stopped = epochs_stopped * seconds_per_epoch
    # rows of earlier versions, in which such a trial trained nothing else, lack the number
    all_cached = epochs_run.where(trials["features"].eq("cached"), 0)
    epochs_cached = trials["head_epochs"].fillna(all_cached)
    return trials.assign(
        device_seconds=device_seconds,
        epochs_stopped=epochs_stopped,
        seconds_stopped=seconds_stopped.where(epochs_stopped.gt(0)),
        epochs_cached=epochs_cached,
        price=None if price is None else device_seconds / SECONDS_PER_HOUR * price,
    )


def _total_costs(costs: pd.DataFrame, price: float | None) -> pd.DataFrame:
    """Return one row with the sums of columns. What trials share counts once."""
    own_columns = ["wait_seconds", "seconds_stopped", "epochs_stopped"]
    sums = (
        costs[own_columns].astype(float).sum(min_count=1),
        sum_without_shared_epochs(costs, INHERITED_COLUMNS),
    )
    device_seconds = sum_seconds(costs, devices=costs["workers"])
    total = pd.concat(sums).to_frame().T
    return total.assign(
        features_seconds=sum_shared_features(costs["features_seconds"], costs),
        device_seconds=device_seconds,
        price=None if price is None else device_seconds / SECONDS_PER_HOUR * price,
    )


def sum_seconds(trials: pd.DataFrame, devices: pd.Series | int = 1) -> float:
    """Return the seconds of training and of computing features. What trials share counts once.

    devices: [trials], by which the seconds of each are multiplied.
    """
    seconds = trials.assign(
        train_seconds=trials["train_seconds"] * devices,
        features_seconds=trials["features_seconds"] * devices,
    )
    training = sum_without_shared_epochs(seconds, ["train_seconds"])["train_seconds"]
    features = sum_shared_features(seconds["features_seconds"], trials)
    return float(np.nansum([training, features]))


def sum_shared_features(seconds: pd.Series, trials: pd.DataFrame) -> float:
    """Sum what computing features took; null without any. Those that trials share count once."""
    settings = [trials[name] for name in FEATURE_FIELDS]
    once = seconds.astype(float).groupby(settings, dropna=False).max()
    return float(once.sum(min_count=1))


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


def _with_settings(analysis: Analysis, rows: pd.DataFrame) -> pd.DataFrame:
    """Add the trial's settings to rows that have its key.

    Precision as a score is renamed, since `precision` is also a setting.
    """
    rows = rows.rename(columns={"precision": "precision_score"})
    own_columns = rows.columns.drop("key")
    settings = analysis.trials.drop(columns=own_columns, errors="ignore")
    return rows.merge(settings, on="key", how="left").reset_index(drop=True)


def _trial_table(
    name: str,
    analysis: Analysis,
    values: pd.DataFrame,
    columns: Sequence[Column],
    lang: str,
    *notes: Check,
) -> Table:
    """Make a table about trials, whose first columns are the settings that vary."""
    settings = []
    for field in varying_settings(analysis):
        settings.append(trial_column(field, analysis.trials, analysis, identity=True))
    return _make_table(name, analysis, values, [*settings, *columns], lang, *notes)


def _make_table(
    name: str,
    analysis: Analysis,
    values: pd.DataFrame,
    columns: Sequence[Column],
    lang: str,
    *notes: Check,
) -> Table:
    """Make a table with the caption and the notes of its name. An empty one says so instead."""
    if values.empty:
        notes = (note("empty"),)
    return Table(
        name=name,
        values=values,
        columns=tuple(columns),
        caption=translate(
            f"caption.{name}",
            lang,
            data=analysis.data_name,
            score=ReportContext(analysis, lang).score_name,
        ),
        checks=analysis.table_checks(analysis.trials, *notes),
        results_digest=analysis.digest,
        lang=lang,
    )


TABLE_BUILDERS: dict[str, Callable[[Analysis, str], Table]] = {
    "per-class": per_class_table,
    "confusion": confusion_table,
    "scores": score_table,
    "effects": effects_table,
    "differences-best": best_differences_table,
    "external": external_table,
    "groups": groups_table,
    "groups-per-class": group_classes_table,
    "curves": curve_diagnosis_table,
    "tuning": tuning_table,
    "cost": cost_table,
    "at-epoch": epoch_table,
    "differences": differences_table,
}


def build_detail_table(
    name: str, analysis: Analysis, lang: str = "en", price: float | None = None
) -> Table:
    """Build the table of this name, one of `TABLE_BUILDERS`.

    Args:
        name: the name of the table.
        analysis: the results to show.
        lang: language of headers, caption and notes.
        price: price of one device-hour, for the cost table.
    """
    if name == "cost":
        return cost_table(analysis, lang, price)
    return TABLE_BUILDERS[name](analysis, lang)


def build_detail_tables(
    analysis: Analysis, lang: str = "en", price: float | None = None
) -> list[Table]:
    """Build all detail tables that aren't empty.

    Args:
        analysis: the results to show.
        lang: language of headers, captions and notes.
        price: price of one device-hour, for the cost table.
    """
    status = analysis.trials["status"]
    names = list(TABLE_BUILDERS)
    if not status.eq("stopped").any():
        names.remove("at-epoch")
    if status.eq("completed").sum() > MAX_TRIALS_FOR_ALL_PAIRS:
        names.remove("differences")
    tables = []
    for name in names:
        table = build_detail_table(name, analysis, lang, price)
        if len(table.values):
            tables.append(table)
    return tables
