"""The other tables: results by class, scores, effects of the axes, which differences hold, curves, cost."""

import dataclasses
from collections.abc import Sequence

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
from bioimg.report.notices import Notice, make_notice
from bioimg.report.table_model import Column, Table
from bioimg.report.table_notes import compose_notes, format_list, results_digest
from bioimg.report.translation import setting_label, translate
from bioimg.results import statistics
from bioimg.results.configurations import REPEAT_FIELDS, has_repeats, varying_fields
from bioimg.results.result_store import Results

DEFAULT_SETTINGS = ("weights", "batch_size", "freeze")
MAX_TRIALS_FOR_ALL_PAIRS = 60
INHERITED_COLUMNS = ("train_seconds", "device_seconds", "price", "epochs_run", "epochs_cached")
"""Columns in which a trial that continued from a shorter one includes that one's values."""
TIME_COLUMNS = ("train_seconds", "wait_seconds", "features_seconds", "device_seconds")


def varying_settings(results: Results) -> list[str]:
    """The fields in which this folder's trials differ; the usual ones if there is only one trial."""
    trials = results.trials
    repeats = [name for name in REPEAT_FIELDS if trials[name].nunique() > 1 and has_repeats(trials)]
    return [*(varying_fields(trials) or DEFAULT_SETTINGS), *repeats]


def build_detail_tables(
    results: Results, lang: str = "en", price: float | None = None
) -> list[Table]:
    """All tables that aren't empty. With very many configurations, each is compared only with the best one."""
    every = [
        per_class_table(results, lang),
        confusion_table(results, lang),
        score_table(results, lang),
        effects_table(results, lang),
    ]
    every += [
        differences_table(results, lang, every=False),
        curve_diagnosis_table(results, lang),
        cost_table(results, lang, price),
    ]
    if results.trials["status"].eq("stopped").any():
        every.append(epoch_table(results, lang))
    if results.trials["status"].eq("completed").sum() <= MAX_TRIALS_FOR_ALL_PAIRS:
        every.append(differences_table(results, lang))
    return [table for table in every if len(table.values)]


def configuration_label(trial: pd.Series, fields: Sequence[str], lang: str = "en") -> str:
    """The settings that distinguish a configuration from the others, on one line."""
    return ", ".join(setting_label(name, trial[name], lang) for name in fields) or str(
        trial["weights"]
    )


def per_class_table(results: Results, lang: str = "en") -> Table:
    """Recall, precision, F1 and number of test images of each class, for each trial with predictions."""
    rows = [statistics.class_metrics(results, key).assign(key=key) for key in tested_keys(results)]
    values = _with_settings(
        results,
        pd.concat(rows)
        if rows
        else pd.DataFrame(columns=["key", "class", "recall", "precision", "f1", "support"]),
    )
    interval = statistics.wilson_columns(
        values["recall"].astype(float), values["support"].astype(float)
    )
    values = values.assign(recall_low=interval["low"], recall_high=interval["high"])
    places = column_decimals(interval["low"], interval["high"])
    shown = (
        Column(name="class", identity=True),
        Column(name="recall", kind="share", decimals=places, interval=True),
        Column(name="precision_score", kind="share", decimals=places),
        Column(name="f1", kind="share", decimals=places),
        Column(name="support", kind="count"),
    )
    return _detail_table(
        "per-class", results, values, shown, lang, make_notice("note.recall", lang)
    )


def confusion_table(results: Results, lang: str = "en") -> Table:
    """Test images by label (row) and prediction (column), for each trial with predictions."""
    classes = results.manifest["data"]["classes"]
    names = [f"predicted_{position}" for position in range(len(classes))]
    rows = [
        pd.DataFrame(statistics.confusion_counts(results, key), columns=names).assign(
            label=classes, key=key
        )
        for key in tested_keys(results)
    ]
    values = _with_settings(
        results, pd.concat(rows) if rows else pd.DataFrame(columns=["key", "label", *names])
    )
    shown = [
        Column(name=name, kind="count", title=title)
        for name, title in zip(names, classes, strict=True)
    ]
    return _detail_table(
        "confusion", results, values, (Column(name="label", identity=True), *shown), lang
    )


def score_table(results: Results, lang: str = "en") -> Table:
    """Balanced accuracy, macro F1, AUROC and calibration error of each trial with predictions."""
    values = _with_settings(results, bootstrapped_scores(results))
    known = results.predictions["group"].notna().any()
    said = make_notice(
        "note.scores",
        lang,
        units=translate("unit.groups" if known else "unit.images", lang),
    )
    return _detail_table(
        "scores",
        results,
        values,
        [trial_column(name, values) for name in SCORE_COLUMNS],
        lang,
        said,
    )


def effects_table(results: Results, lang: str = "en") -> Table:
    """The mean effect of each axis and the two-way interactions."""
    values = statistics.estimate_effects(results).rename(
        columns={"low": "effect_low", "high": "effect_high"}
    )
    places = column_decimals(values["effect_low"], values["effect_high"])
    shown = (
        *(Column(name=name, identity=True) for name in ("axis", "level", "reference")),
        Column(name="n", kind="count"),
        Column(name="effect", kind="points", decimals=places, interval=True),
        Column(name="p", kind="p"),
    )
    return _detail_table(
        "effects", results, values, shown, lang, make_notice("note.effects", lang), beside=False
    )


def differences_table(results: Results, lang: str = "en", every: bool = True) -> Table:
    """Every pair of completed configurations, or each one against the best, with what can be claimed."""
    best = statistics.best_configuration(results)
    pairs = (
        statistics.compare_pairs(results, None if every else best)
        if best
        else statistics.compare_pairs(results)
    )
    fields, trials = varying_fields(results.trials), results.trials.set_index("key")
    names = {
        key: configuration_label(trials.loc[key], fields, lang)
        for key in {*pairs["a"], *pairs["b"]}
    }
    places = column_decimals(pairs["low"], pairs["high"])
    values = pairs.assign(
        key_a=pairs["a"], key_b=pairs["b"], a=pairs["a"].map(names), b=pairs["b"].map(names)
    )
    values = values.rename(columns={"low": "difference_low", "high": "difference_high"})
    shown = (
        *(Column(name=name, identity=True) for name in ("a", "b")),
        *(
            Column(name=name, kind="share", decimals=places)
            for name in ("accuracy_a", "accuracy_b")
        ),
        Column(name="difference", kind="points", decimals=places, interval=True),
        *(Column(name=name, kind="p") for name in ("p", "p_holm")),
        Column(name="claim"),
    )
    tests, n = (
        format_list(pairs["test"].dropna().unique()) or "–",
        format_list(pairs["n"].dropna().unique()) or "0",
    )
    said = make_notice(
        "note.differences", lang, n=n, tests=tests, pairs=int(pairs["p"].notna().sum())
    )
    name = "differences" if every else "differences-best"
    return _detail_table(name, results, values, shown, lang, said, beside=False)


def curve_diagnosis_table(results: Results, lang: str = "en") -> Table:
    """Over-fitting and instability of each trial."""
    found = statistics.diagnose_curves(results.epochs)
    values = _with_settings(results, found.drop(columns="epochs"))
    shown = (
        Column(name="last_fall", kind="epoch"),
        Column(name="gap", kind="points", decimals=1),
        Column(name="rise", kind="share"),
        Column(name="oscillation", kind="points", decimals=1),
        Column(name="reading"),
    )
    return _detail_table("curves", results, values, shown, lang, make_notice("note.curves", lang))


def epoch_table(results: Results, lang: str = "en", epoch: int | None = None) -> Table:
    """Validation results of all trials after the same epoch; by default the last one that all of them reached.

    Raises:
        UserError: no trial reached that epoch.
    """
    trials = results.trials[results.trials["status"].ne("failed")]
    epochs = results.epochs[results.epochs["key"].isin(trials["key"])]
    reached = epochs.groupby("key")["epoch"].max()
    epoch = epoch if epoch is not None else int(reached.min()) if len(reached) else 0
    if len(reached) and not 1 <= epoch <= reached.max():
        raise UserError(
            f"the value of `at_epoch` is {epoch}, but must be an epoch that some trial reached: 1 to {reached.max()}. "
            "Leave it out to use the last one that all trials reached."
        )
    values = _with_settings(
        results, epochs.loc[epochs["epoch"].eq(epoch), ["key", "val_accuracy", "val_loss"]]
    )
    interval = statistics.wilson_columns(
        values["val_accuracy"].astype(float), values["val_images"].astype(float)
    )
    values = values.assign(val_accuracy_low=interval["low"], val_accuracy_high=interval["high"])
    values = values.sort_values("val_accuracy", ascending=False, kind="stable", ignore_index=True)
    places = column_decimals(interval["low"], interval["high"])
    shown = (
        Column(name="val_accuracy", kind="share", decimals=places, interval=True),
        Column(name="val_loss", kind="loss", decimals=4),
        Column(name="epochs_run", kind="count"),
        Column(name="status"),
    )
    said = make_notice(
        "note.at_epoch", lang, epoch=epoch, came=len(values), all=len(results.trials)
    )
    return _detail_table("at-epoch", results, values, shown, lang, said)


def cost_table(results: Results, lang: str = "en", price: float | None = None) -> Table:
    """Seconds, device-seconds, epochs and price of each trial, and what stopping and cached features saved.

    price: of one device-hour; without it there is no such column.
    """
    trials = results.trials
    left = (trials["epochs"] - trials["epochs_run"]).where(trials["status"].eq("stopped"), 0)
    per_epoch = trials["train_seconds"] / trials["epochs_run"].where(trials["epochs_run"].gt(0))
    values = trials.assign(
        device_seconds=trials["train_seconds"] * trials["workers"],
        epochs_stopped=left,
        seconds_stopped=(left * per_epoch).where(left.gt(0)),
        epochs_cached=trials["epochs_run"].where(trials["features"].eq("cached"), 0),
    )
    values = values.assign(
        price=values["device_seconds"] / 3600 * price if price is not None else None
    )
    measured = [*TIME_COLUMNS, "seconds_stopped", "price"]
    total = (
        values[[*measured, "epochs_run", "epochs_stopped", "epochs_cached"]]
        .astype(float)
        .sum(min_count=1)
    )
    total[[*INHERITED_COLUMNS]] = sum_without_shared_epochs(values, INHERITED_COLUMNS)
    values = pd.concat(
        [values, total.to_frame().T.assign(status=translate("status.total", lang))],
        ignore_index=True,
    )
    shown = [
        *(Column(name=name, kind="seconds") for name in TIME_COLUMNS),
        *(Column(name=name, kind="count") for name in ("epochs_run", "epochs_stopped")),
        Column(name="seconds_stopped", kind="seconds"),
        Column(name="epochs_cached", kind="count"),
        *([Column(name="price", kind="money", decimals=2)] if price is not None else []),
        Column(name="status", identity=True),
    ]
    return _detail_table("cost", results, values, shown, lang, make_notice("note.cost", lang))


def sum_without_shared_epochs(trials: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """Sums over trials, in which epochs that one continued from another count once."""
    amounts = trials[[*columns]].astype(float).set_axis(trials["key"])
    continued = trials.dropna(subset=["continued_from"])
    shorter = amounts.reindex(continued["continued_from"]).set_axis(continued["key"])
    return amounts.sum(min_count=1) - np.minimum(amounts.loc[continued["key"]], shorter).sum()


def _with_settings(results: Results, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by key with the trial's settings added; precision as a score is renamed, since `precision` is also a setting."""
    rows = rows.rename(columns={"precision": "precision_score"})
    trials = results.trials.drop(columns=rows.columns.drop("key"), errors="ignore")
    return rows.merge(trials, on="key", how="left").reset_index(drop=True)


def _detail_table(
    name: str,
    results: Results,
    values: pd.DataFrame,
    shown: Sequence[Column],
    lang: str,
    *said: Notice,
    beside: bool = True,
) -> Table:
    tells = (
        [
            dataclasses.replace(trial_column(field, results.trials), identity=True)
            for field in varying_settings(results)
        ]
        if beside
        else []
    )
    data = results.manifest["data"]["name"]
    return Table(
        name=name,
        values=values,
        columns=(*tells, *shown),
        caption=translate(f"caption.{name}", lang, data=data),
        notices=compose_notes(
            results,
            results.trials,
            lang,
            *(said if len(values) else [make_notice("note.empty", lang)]),
        ),
        results_digest=results_digest(results),
        lang=lang,
    )
