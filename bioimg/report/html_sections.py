"""The sections of the page, as plain values for the template."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from bioimg.report import svg_charts
from bioimg.report.analysis import SCORE_COLUMNS
from bioimg.report.comparison_table import build_comparison
from bioimg.report.formatting import format_p_value, format_percent
from bioimg.report.report_context import ReportContext, shorten_name
from bioimg.report.table_model import Column
from bioimg.report.translation import column_header, setting_name, setting_value
from bioimg.report.visual_encoding import MAX_LINES, MAX_MISTAKES
from bioimg.results import statistics

RowMapping = Mapping[Any, Any]
MAX_ROWS = 500
MAX_FILTER_CHOICES = 12
MAX_BADGE_CHARACTERS = 60
SHADES = 10
"""Steps of the shading of a confusion matrix; classes h0 to h10 of the style sheet."""
THUMBNAIL_PX = 192
"""Longest side of an image on the page, in pixels."""


def comparison_section(report: ReportContext) -> dict[str, Any]:
    """Return the comparison table: cells with sort keys, and the test accuracy also as a mark."""
    table = build_comparison(report.analysis, lang=report.lang, sort=("best_val_loss",))
    values = table.values.head(MAX_ROWS)
    positions = column_order(table.columns, values)
    columns = [
        {
            "name": table.columns[position].name,
            "header": table.headers[position],
            "identity": table.columns[position].identity,
        }
        for position in positions
    ]
    marks = svg_charts.interval_marks(
        values, "test_accuracy", "test_accuracy_low", "test_accuracy_high", zero=False
    )
    rows = []
    for record, texts, mark in zip(values.to_dict("records"), table.cells(), marks, strict=False):
        sort_keys = [sort_key(record[column["name"]]) for column in columns]
        shown_texts = [texts[position] for position in positions]
        row = {
            "key": record["key"],
            "state": record["state"],
            "standing": badge_class(report, record),
            "badge": shorten_name(badge_text(report, record), MAX_BADGE_CHARACTERS),
            "cells": list(zip(shown_texts, sort_keys, strict=True)),
            "mark": mark,
        }
        rows.append(row)
    return {
        "caption": table.caption,
        "notes": table.notes,
        "columns": columns,
        "rows": rows,
        "filters": column_filters(columns, rows),
        "total_rows": len(table.values),
    }


def column_order(columns: Sequence[Column], values: pd.DataFrame) -> list[int]:
    """Return the positions of the columns to show.

    Settings that vary come first, then the test accuracy, then the rest. Status and standing aren't
    among them, since a badge shows both.
    """
    shown = [
        position
        for position, column in enumerate(columns)
        if column.name not in ("status", "standing") and not _is_constant_setting(column, values)
    ]

    def rank(position: int) -> tuple[bool, bool]:
        column = columns[position]
        return not column.identity, column.name != "test_accuracy"

    return sorted(shown, key=rank)


def _is_constant_setting(column: Column, values: pd.DataFrame) -> bool:
    if not column.identity or len(values) < 2:
        return False
    return values[column.name].nunique(dropna=False) == 1


def badge_text(report: ReportContext, record: RowMapping) -> str:
    """Return the text of a row's badge."""
    if record["state"] != "completed":
        return record["status"]
    if pd.isna(record.get("standing")):
        return report.text("verdict.unknown")
    return record["standing"]


def badge_class(report: ReportContext, record: RowMapping) -> str:
    """Return the look of a row's badge: best, tie, other, or why the row isn't ranked."""
    if record["state"] != "completed":
        return record["state"]
    configuration = report.analysis.configuration_by_trial[record["key"]]
    verdict = report.analysis.verdicts.get(configuration)
    return verdict if verdict in ("best", "tie") else "other"


def sort_key(value: Any) -> str:
    """Return the text that the script sorts a cell by; a missing value is empty."""
    return "" if pd.isna(value) else str(value)


def column_filters(
    columns: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return, for each setting with a few values, the values to choose among."""
    filters = []
    for position, column in enumerate(columns):
        texts = list(dict.fromkeys(row["cells"][position][0] for row in rows))
        if column["identity"] and 1 < len(texts) <= MAX_FILTER_CHOICES:
            filters.append({"position": position, "header": column["header"], "choices": texts})
    return filters


def difference_rows(report: ReportContext) -> list[dict[str, Any]]:
    """Return each recipe against the best one, the nearest first."""
    analysis = report.analysis
    pairs = analysis.best_pairs.sort_values(
        "difference", ascending=False, kind="stable", na_position="last"
    )
    pairs = pairs.head(MAX_ROWS)
    marks = svg_charts.interval_marks(pairs, "difference")
    rows = []
    for pair, mark in zip(pairs.to_dict("records"), marks, strict=True):
        verdict = analysis.verdicts[pair["a"]]
        row = {
            **pair,
            "label": report.configuration_label(analysis.first_trials.loc[pair["a"]]),
            "verdict": verdict,
            "badge": report.text(f"verdict.{verdict}"),
            "claim": claim_text(report, pair),
            "mark": mark,
        }
        rows.append(row)
    return rows


def claim_text(report: ReportContext, pair: RowMapping) -> str:
    """Return the claim of `statistics.compare_pairs`, which is in English, or its translation."""
    if report.lang == "en":
        return pair["claim"]
    return report.text(
        "page.claim_text",
        a=format_percent(pair["accuracy_a"]),
        b=format_percent(pair["accuracy_b"]),
        n=pair["n"],
        p=format_p_value(pair["p_holm"]),
        verdict=report.text(f"verdict.{report.analysis.verdicts[pair['a']]}"),
    )


def effect_rows(report: ReportContext) -> list[dict[str, Any]]:
    """Return the effect of each level of an axis, then each interaction."""
    effects = report.analysis.effects
    effects = effects[effects["effect"].notna()].head(MAX_ROWS)
    marks = svg_charts.interval_marks(effects, "effect")
    return [
        {
            "effect": row["effect"],
            "low": row["low"],
            "high": row["high"],
            "label": report.effect_label(row),
            "mark": mark,
            "interaction": ":" in row["axis"],
        }
        for (_, row), mark in zip(effects.iterrows(), marks, strict=True)
    ]


def legend_section(report: ReportContext) -> dict[str, Any]:
    """Return the legend, which shows and hides curves by values of axes and trial by trial."""
    encoding = report.encoding
    fields = (encoding.colour_field, encoding.line_field, *encoding.panel_fields)
    drawn = report.analysis.ranked_trials.head(MAX_LINES)
    return {
        "axes": [legend_axis(report, field) for field in fields if field],
        "trials": [legend_trial(report, trial) for _, trial in drawn.iterrows()],
        "left_out": len(report.analysis.ranked_trials) - len(drawn),
    }


def legend_axis(report: ReportContext, field: str) -> dict[str, Any]:
    """Return an axis of the legend: the values of a field, each with its look."""
    choices = [
        {
            "value": value,
            "text": setting_value(field, value, report.lang),
            "css_classes": legend_css_classes(report, field, index),
        }
        for index, value in enumerate(report.encoding.values_by_field[field])
    ]
    return {"name": setting_name(field, report.lang), "field": field, "choices": choices}


def legend_css_classes(report: ReportContext, field: str, index: int) -> str:
    """Return the classes of a value's swatch; empty if panels show the field."""
    if field == report.encoding.colour_field:
        return svg_charts.colour_css_class(index)
    if field == report.encoding.line_field:
        return f"plain {svg_charts.line_style_css_class(index)}"
    return ""


def legend_trial(report: ReportContext, trial: pd.Series) -> dict[str, Any]:
    """Return a trial of the legend."""
    return {
        "key": trial["key"],
        "label": report.trial_label(trial),
        "css_classes": svg_charts.line_css_classes(report.encoding, trial),
        "values": {field: str(trial[field]) for field in report.analysis.varying_fields},
    }


def script_data(
    panels: Sequence[Mapping[str, Any]], trials: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what the script needs to show the values of the curves.

    panels: from `svg_charts.curve_panels`.
    trials: those of the legend.
    """
    return {
        "panels": [
            [{"key": line["key"], "points": line["points"]} for line in panel["lines"]]
            for panel in panels
        ],
        "trials": {
            trial["key"]: {"label": trial["label"], "values": trial["values"]} for trial in trials
        },
    }


def score_rows(report: ReportContext) -> list[dict[str, Any]]:
    """Return the other scores of the best recipe.

    Those of its only run have intervals that resample groups. Those of several runs are means, for
    which no interval is known.
    """
    analysis = report.analysis
    if analysis.best is None:
        return []
    scores = analysis.trial_scores
    runs = scores[scores["key"].isin(analysis.best.runs["key"])]
    if runs.empty:
        return []
    rows = []
    for name in SCORE_COLUMNS:
        ends = [float("nan"), float("nan")]
        if len(runs) == 1:
            ends = [runs[f"{name}_low"].iloc[0], runs[f"{name}_high"].iloc[0]]
        row = {"name": column_header(name, report.lang), "value": runs[name].mean()}
        rows.append({**row, "low": ends[0], "high": ends[1]})
    return rows


def confusion_section(report: ReportContext, trial: pd.Series) -> dict[str, Any]:
    """Return a confusion matrix with the recall and precision of each class.

    A cell is a count and its shade from 0 to `SHADES`, which is its share of the label's images.
    """
    counts = statistics.confusion_counts(report.analysis.results, trial["key"])
    label_counts = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shades = np.ceil(SHADES * (counts / label_counts)).astype(int)
    metrics = report.analysis.class_metrics
    metrics = metrics[metrics["key"].eq(trial["key"])]
    rows = [
        {
            "name": name,
            "cells": list(zip(counts[label].tolist(), shades[label].tolist(), strict=True)),
            "recall": metrics["recall"].iloc[label],
            "precision": metrics["precision"].iloc[label],
        }
        for label, name in enumerate(report.classes)
    ]
    return {
        "key": trial["key"],
        "label": report.trial_label(trial),
        "accuracy": trial["test_accuracy"],
        "rows": rows,
    }


def mistake_items(report: ReportContext) -> Iterator[dict[str, Any]]:
    """Yield the most confident mistakes of the trial with the lowest validation loss."""
    if report.analysis.tested_trials.empty:
        return
    mistakes = report.analysis.wrong_predictions(report.analysis.tested_trials["key"].iloc[0])
    for _, mistake in mistakes.head(MAX_MISTAKES).iterrows():
        pixels = (report.images or {}).get(mistake["image"])
        yield {
            "image": mistake["image"],
            "label": report.classes[mistake["label"]],
            "prediction": report.classes[mistake["prediction"]],
            "probability": mistake["probability"],
            "others": mistake["others"],
            "trials": mistake["trials"],
            "url": None if pixels is None else to_data_url(pixels),
        }


def to_data_url(pixels: np.ndarray) -> str:
    """Return an image as a data URL, lossless. A large image is made smaller.

    pixels: uint8 [height, width, 3].
    """
    image = Image.fromarray(np.asarray(pixels))
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
