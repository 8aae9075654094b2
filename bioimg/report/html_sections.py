"""The sections of the page, as plain values for the template."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from bioimg.report import sentences, svg_charts
from bioimg.report.analysis import MEASURES
from bioimg.report.checks import external_checks
from bioimg.report.comparison_table import BASELINE_STATE, build_comparison
from bioimg.report.detail_tables import tuning_table
from bioimg.report.formatting import format_percent, format_percent_interval, shorten_name
from bioimg.report.report_context import ReportContext
from bioimg.report.table_model import Column
from bioimg.report.tested_set import GroupedSet, TestedSet
from bioimg.report.translation import column_header, setting_name, setting_value
from bioimg.report.visual_encoding import MAX_LINES
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
    """Return the comparison table: cells with sort keys, and the score also as a mark.

    A badge shows status and verdict, so these have no columns.
    """
    table = build_comparison(report.analysis, lang=report.lang, sort=("best_val_loss",))
    values = table.values.head(MAX_ROWS)
    score = report.analysis.test_column
    positions = column_order(table.columns, values, score)
    columns = []
    for position in positions:
        column = table.columns[position]
        header = table.headers[position]
        columns.append({"name": column.name, "header": header, "identity": column.identity})
    marks = svg_charts.interval_marks(values, score, f"{score}_low", f"{score}_high", zero=False)
    rows = []
    for record, texts, mark in zip(values.to_dict("records"), table.cells(), marks, strict=False):
        cells = []
        for position in positions:
            value = record[table.columns[position].name]
            cells.append((texts[position], sort_key(value)))
        row = {"key": record["key"], "state": record["state"], "cells": cells, "mark": mark}
        rows.append(row | badge(report, record))
    return {
        "caption": table.caption,
        "notes": table.notes,
        "columns": columns,
        "score": score,
        "rows": rows,
        "filters": column_filters(columns, rows),
        "total_rows": int(table.values["state"].ne(BASELINE_STATE).sum()),
    }


def tuning_section(report: ReportContext) -> dict[str, Any] | None:
    """Return the table of what recipes were tried with; None if nothing is tuned.

    The rows of chosen values are marked.
    """
    if not report.analysis.tuned_fields:
        return None
    table = tuning_table(report.analysis, report.lang)
    rows = []
    for record, cells in zip(table.records(), table.cells(), strict=True):
        rows.append({"cells": cells, "chosen": isinstance(record["chosen"], str)})
    return {
        "caption": table.caption,
        "headers": table.headers,
        "numeric": [not column.is_left_aligned for column in table.columns],
        "rows": rows[:MAX_ROWS],
    }


def column_order(columns: Sequence[Column], values: pd.DataFrame, score: str) -> list[int]:
    """Return the positions of the columns to show: settings that vary, the score, then the rest."""
    trials = values[values["state"].ne(BASELINE_STATE)]
    shown = []
    for position, column in enumerate(columns):
        is_constant = column.identity and trials[column.name].nunique(dropna=False) == 1
        if column.name not in ("status", "verdict") and not (is_constant and len(trials) > 1):
            shown.append(position)

    def rank(position: int) -> tuple[bool, bool]:
        column = columns[position]
        return not column.identity, column.name != score

    return sorted(shown, key=rank)


def badge(report: ReportContext, record: RowMapping) -> dict[str, str]:
    """Return the badge of a row and its look: the verdict, or else how the trial ended."""
    if record["state"] != "completed":
        text = shorten_name(record["status"], MAX_BADGE_CHARACTERS)
        return {"badge": text, "look": record["state"]}
    configuration = report.analysis.configuration_by_trial[record["key"]]
    look = report.analysis.verdicts.get(configuration, "unknown")
    return {
        "badge": sentences.describe_verdict(report.analysis, configuration, report.lang),
        "look": look,
    }


def sort_key(value: Any) -> str:
    """Return the text that the script sorts a cell by; a missing value is empty."""
    return "" if pd.isna(value) else str(value)


def column_filters(
    columns: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return, for each setting with a few values, the values to choose among."""
    filters = []
    trials = [row for row in rows if row["state"] != BASELINE_STATE]
    for position, column in enumerate(columns):
        texts = list(dict.fromkeys(row["cells"][position][0] for row in trials))
        if column["identity"] and 1 < len(texts) <= MAX_FILTER_CHOICES:
            filters.append({"position": position, "header": column["header"], "choices": texts})
    return filters


def difference_rows(report: ReportContext) -> list[dict[str, Any]]:
    """Return each recipe against the best one, the nearest first."""
    pairs = report.analysis.best_pairs.sort_values(
        "difference", ascending=False, kind="stable", na_position="last"
    )
    pairs = pairs.head(MAX_ROWS)
    marks = svg_charts.interval_marks(pairs, "difference")
    rows = []
    for pair, mark in zip(pairs.to_dict("records"), marks, strict=True):
        row = {
            "label": report.recipe(pair["a"]),
            "badge": sentences.describe_verdict(report.analysis, pair["a"], report.lang),
            "claim": sentences.claim(report.analysis, pair, report.lang),
            "mark": mark,
        }
        rows.append({**pair, **row})
    return rows


def external_sections(report: ReportContext) -> list[dict[str, Any]]:
    """Return what recipes reached on each external set, the highest score first."""
    sections = []
    for tested in report.analysis.external_sets:
        checks = list(external_checks(tested.name, tested.record, has_folds=tested.has_folds))
        sections.append(
            {
                "name": tested.name,
                "sentences": sentences.describe_external_set(report, tested),
                "warnings": [check.text(report.lang) for check in checks if check.is_warning],
                "notes": [check.text(report.lang) for check in checks if not check.is_warning],
                "rows": list(external_rows(report, tested)),
                "chart": svg_charts.home_and_away(report, tested),
            }
        )
    return sections


def external_rows(report: ReportContext, tested: TestedSet) -> Iterator[dict[str, Any]]:
    """Yield each recipe on an external set: its line's look, scores, change and verdict."""
    scores = tested.scores.sort_values("score_away", ascending=False, kind="stable")
    scores = scores.head(MAX_ROWS)
    pairs = tested.best_pairs.set_index("a")
    marks = svg_charts.interval_marks(scores, "change", "change_low", "change_high")
    for (key, row), mark in zip(scores.iterrows(), marks, strict=True):
        trial: Any = report.analysis.first_trials.loc[str(key)]
        look = "best" if key == tested.best_key else "unknown"
        claim = ""
        if key in pairs.index:
            pair: Any = pairs.loc[str(key)]
            look = pair["verdict"]
            claim = sentences.claim(report.analysis, {"a": key, **pair}, report.lang)
        scope = f"_{report.analysis.scope}" if look in ("better", "worse") else ""
        yield {
            **row,
            "label": report.recipe(str(key)),
            "away": _share_with_interval(row, "score_away"),
            "css_classes": svg_charts.line_css_classes(report.encoding, trial),
            "look": look,
            "badge": report.text(f"verdict.{look}{scope}"),
            "claim": claim,
            "mark": mark,
        }


def group_sections(report: ReportContext) -> list[dict[str, Any]]:
    """Return what recipes reached on groups of each set; only reasons where they aren't known."""
    sections = []
    for grouped in report.analysis.group_sets:
        if grouped.problem == "unknown":
            continue
        section: dict[str, Any] = {
            "name": sentences.tested_on(grouped, report.lang),
            "sentence": sentences.describe_groups(report, grouped),
            "rows": [],
            "classes": [],
        }
        if not grouped.problem:
            section["rows"] = list(group_rows(report, grouped))
            section["classes"] = list(group_class_rows(report, grouped))
        sections.append(section)
    return sections


def group_rows(report: ReportContext, grouped: GroupedSet) -> Iterator[dict[str, Any]]:
    """Yield each recipe on groups: its measures and its verdict."""
    pairs = grouped.best_pairs.set_index("a")
    scores = grouped.scores.sort_values("score", ascending=False, kind="stable")
    for key, row in scores.head(MAX_ROWS).iterrows():
        look = "best" if key == grouped.best_key else "unknown"
        claim = ""
        if key in pairs.index:
            pair: Any = pairs.loc[str(key)]
            look = pair["verdict"]
            claim = sentences.claim(
                report.analysis, {"a": key, **pair}, report.lang, units="groups"
            )
        scope = f"_{report.analysis.scope}" if look in ("better", "worse") else ""
        yield {
            "label": report.recipe(str(key)),
            "accuracy": _share_with_interval(row, "accuracy"),
            "balanced_accuracy": _share_with_interval(row, "balanced_accuracy"),
            "auroc": _share_with_interval(row, "auroc"),
            "look": look,
            "badge": report.text(f"verdict.{look}{scope}"),
            "claim": claim,
        }


def group_class_rows(report: ReportContext, grouped: GroupedSet) -> Iterator[dict[str, Any]]:
    """Yield sensitivity and specificity of each class, for the first run of the best recipe."""
    metrics = grouped.class_metrics
    keys = list(dict.fromkeys(metrics["key"]))
    configurations = report.analysis.configuration_by_trial
    of_best = [key for key in keys if configurations[key] == grouped.best_key]
    for _, row in metrics[metrics["key"].isin(of_best[:1])].iterrows():
        yield {
            "name": shorten_name(row["class"]),
            "groups": row["support"],
            "sensitivity": _share_with_interval(row, "recall"),
            "specificity": _share_with_interval(row, "specificity"),
        }


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


def refused_effects(report: ReportContext) -> list[dict[str, str]]:
    """Return the effects that aren't estimated, each with the reason."""
    effects = report.analysis.effects
    refused = effects[effects["effect"].isna()].head(MAX_ROWS)
    return [
        {
            "label": report.effect_label(row),
            "reason": sentences.effect_refusal(report, row.to_dict()),
        }
        for _, row in refused.iterrows()
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
    """Return what was measured of the best recipe on the test images."""
    analysis = report.analysis
    if analysis.best is None or analysis.tested_trials.empty:
        return []
    measured = analysis.configuration_scores.loc[analysis.best.key]
    rows = []
    for name in MEASURES:
        row = {"name": column_header(name, report.lang), "value": measured[name]}
        # the calibration error has no interval
        ends = {"low": measured.get(f"{name}_low", np.nan), "high": measured.get(f"{name}_high")}
        rows.append({**row, **ends})
    return rows


def confusion_section(report: ReportContext, trial: pd.Series) -> dict[str, Any]:
    """Return a confusion matrix with the recall, specificity and precision of each class.

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
            "recall": _share_with_interval(metrics.iloc[label], "recall"),
            "specificity": _share_with_interval(metrics.iloc[label], "specificity"),
            "precision": format_percent(metrics["precision"].iloc[label]),
        }
        for label, name in enumerate(report.classes)
    ]
    return {
        "key": trial["key"],
        "label": report.trial_label(trial),
        "accuracy": trial["test_accuracy"],
        "rows": rows,
    }


def _share_with_interval(values: pd.Series, name: str) -> str:
    interval = format_percent_interval(values[f"{name}_low"], values[f"{name}_high"])
    return f"{format_percent(values[name])}{interval}"


def mistake_items(report: ReportContext) -> Iterator[dict[str, Any]]:
    """Yield the most confident mistakes of the best recipe's first run."""
    for _, mistake in report.analysis.worst_mistakes.iterrows():
        pixels = (report.images or {}).get(mistake["image"])
        overlay = (report.overlays or {}).get(mistake["image"])
        yield {
            "image": mistake["image"],
            "label": report.classes[mistake["label"]],
            "prediction": report.classes[mistake["prediction"]],
            "probability": mistake["probability"],
            "others": mistake["others"],
            "trials": mistake["trials"],
            "url": None if pixels is None else to_data_url(pixels),
            "overlay_url": None if overlay is None else to_data_url(overlay),
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
