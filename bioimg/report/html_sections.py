"""The sections of the page, as plain values for the template."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from bioimg.report import svg_charts
from bioimg.report.comparison_table import build_comparison
from bioimg.report.formatting import format_p_value, format_percent
from bioimg.report.report_context import ReportContext, shorten_name
from bioimg.report.table_model import Column
from bioimg.report.translation import column_header, setting_name, setting_value
from bioimg.report.visual_encoding import MAX_LINES
from bioimg.results import statistics
from bioimg.results.configurations import configuration_keys

RowMapping = Mapping[Any, Any]
MAX_ROWS = 500
MAX_MISTAKES = 12
MAX_FILTER_CHOICES = 12
THUMBNAIL_PX = 192
"""Longest side of an image on the page, in pixels."""


def comparison_section(scene: ReportContext, ties: list[str]) -> dict[str, Any]:
    """The comparison table for the page: cells with their sort keys, and the test accuracy also as a mark."""
    its = build_comparison(scene.results, lang=scene.lang, sort=("best_val_loss",))
    values = its.values.head(MAX_ROWS)
    order = column_order(its.columns, values)
    columns = [
        {"name": its.columns[k].name, "header": its.headers[k], "identity": its.columns[k].identity}
        for k in order
    ]
    marks = svg_charts.interval_marks(
        values, "test_accuracy", "test_accuracy_low", "test_accuracy_high", zero=False
    )
    rows = [
        {
            **{name: record[name] for name in ("key", "state")},
            "standing": badge_class(record, ties),
            "said": shorten_name(badge_text(scene, record), 60),
            "cells": [(cells[k], sort_key(record[its.columns[k].name])) for k in order],
            "mark": mark,
        }
        for record, cells, mark in zip(values.to_dict("records"), its.cells(), marks, strict=False)
    ]
    choices = column_filters(columns, rows)
    return {
        "table": its,
        "columns": columns,
        "rows": rows,
        "filters": choices,
        "all": len(its.values),
    }


def column_order(columns: Sequence[Column], values: pd.DataFrame) -> list[int]:
    """Order of the columns: settings that vary, test accuracy, then the rest; status and standing are shown as a badge."""
    same = {
        column.name
        for column in columns
        if column.identity and values[column.name].nunique(dropna=False) == 1 < len(values)
    }
    shown = [
        place
        for place, column in enumerate(columns)
        if column.name not in {"status", "standing", *same}
    ]
    return sorted(
        shown,
        key=lambda place: (not columns[place].identity, columns[place].name != "test_accuracy"),
    )


def badge_text(scene: ReportContext, record: RowMapping) -> str:
    """The text of the badge."""
    if record["state"] != "completed":
        return record["status"]
    return scene.text("verdict.unknown") if pd.isna(record.get("standing")) else record["standing"]


def badge_class(record: RowMapping, ties: list[str]) -> str:
    """The look of the badge: best, tie, other, or why the row isn't ranked."""
    if record["state"] != "completed":
        return record["state"]
    return "best" if ties[:1] == [record["key"]] else "tie" if record["key"] in ties else "other"


def sort_key(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def column_filters(
    columns: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """For each setting with a few values, the values to choose among."""
    found = []
    for place, column in enumerate(columns):
        values = list(dict.fromkeys(row["cells"][place][0] for row in rows))
        if column["identity"] and 1 < len(values) <= MAX_FILTER_CHOICES:
            found.append({"place": place, "header": column["header"], "values": values})
    return found


def difference_rows(scene: ReportContext, pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """Each recipe against the best one, the nearest first."""
    if pairs.empty:
        return []
    pairs = pairs.sort_values(
        "difference", ascending=False, kind="stable", na_position="last"
    ).head(MAX_ROWS)
    firsts, marks = (
        scene.trials.set_index("key", drop=False),
        svg_charts.interval_marks(pairs, "difference"),
    )
    rows = [
        {
            **row,
            "label": scene.configuration_label(firsts.loc[row["a"]]),
            "verdict": pair_verdict(row),
            "claim": claim_text(scene, row),
        }
        for row in pairs.to_dict("records")
    ]
    return [
        {**row, "said": scene.text(f"verdict.{row['verdict']}"), "mark": mark}
        for row, mark in zip(rows, marks, strict=True)
    ]


def claim_text(scene: ReportContext, row: RowMapping) -> str:
    """The claim of `statistics.paired`, which is in English, or its translation."""
    if scene.lang == "en":
        return row["claim"]
    told = {
        "a": format_percent(row["accuracy_a"]),
        "b": format_percent(row["accuracy_b"]),
        "n": row["n"],
        "p": format_p_value(row["p_holm"]),
    }
    return scene.text("page.claim_text", **told, verdict=scene.text(f"verdict.{pair_verdict(row)}"))


def pair_verdict(row: RowMapping) -> str:
    """The outcome of a pair: unknown if it must not be compared, a tie if the difference doesn't hold."""
    if pd.isna(row["holds"]):
        return "unknown"
    return "tie" if not row["holds"] else "better" if row["difference"] > 0 else "worse"


def effect_rows(scene: ReportContext) -> list[RowMapping]:
    """The effect of each level of an axis, then each interaction."""
    found = statistics.estimate_effects(scene.results)
    found = found[found["effect"].notna()].head(MAX_ROWS)
    marks = svg_charts.interval_marks(found, "effect")
    labels = [scene.effect_label(row) for _, row in found.iterrows()]
    return [
        {**row, "label": label, "mark": mark, "interaction": ":" in row["axis"]}
        for row, label, mark in zip(found.to_dict("records"), labels, marks, strict=True)
    ]


def legend_items(scene: ReportContext) -> dict[str, Any]:
    """The legend, which shows and hides curves: the values of each axis, and every single trial."""
    code, drawn = scene.encoding, scene.ranked_trials.head(MAX_LINES)
    axes = []
    for field in [
        axis for axis in (code.colour_field, code.line_field, *code.panel_fields) if axis
    ]:
        places = enumerate(code.values_by_field[field])
        looks = [
            (
                f"c{k % 7}"
                if field == code.colour_field
                else f"plain l{k}"
                if field == code.line_field
                else "",
                value,
            )
            for k, value in places
        ]
        axes.append(
            {
                "name": setting_name(field, scene.lang),
                "field": field,
                "values": [
                    {"look": its, "value": value, "text": setting_value(field, value, scene.lang)}
                    for its, value in looks
                ],
            }
        )
    trials = [
        {
            "key": trial["key"],
            "label": scene.trial_label(trial),
            "look": svg_charts.line_css_classes(code, trial),
            "status": trial["status"],
            "values": {field: str(trial[field]) for field in scene.varying_fields},
        }
        for _, trial in drawn.iterrows()
    ]
    return {"axes": axes, "trials": trials, "left_out": len(scene.ranked_trials) - len(drawn)}


def tooltip_data(panels: list[dict[str, Any]], trials: list[dict[str, Any]]) -> dict[str, Any]:
    """What the script needs to show the values of the curves."""
    return {
        "panels": [
            [{"key": line["key"], "points": line["points"]} for line in panel["lines"]]
            for panel in panels
        ],
        "trials": {
            trial["key"]: {"label": trial["label"], "values": trial["values"]} for trial in trials
        },
    }


def score_rows(scene: ReportContext, best: str | None) -> list[RowMapping]:
    """The best recipe's other scores: of its only run, with intervals that resample groups, or means over its runs."""
    runs = scene.tested_trials[
        configuration_keys(scene.trials).reindex(scene.tested_trials.index).eq(str(best))
    ]
    tables = [statistics.bootstrap_metrics(scene.results, key) for key in runs["key"]]
    if not tables:
        return []
    found = tables[0] if len(tables) == 1 else _mean_scores(tables)
    return [
        {**row, "name": column_header(row["metric"], scene.lang)}
        for row in found.to_dict("records")
    ]


def _mean_scores(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Scores averaged over runs, for which no interval is known."""
    return tables[0].assign(
        value=sum(table["value"] for table in tables) / len(tables), low=np.nan, high=np.nan
    )


def confusion_matrix_values(scene: ReportContext, trial: pd.Series) -> dict[str, Any]:
    """A confusion matrix with the recall and precision of each class; shade 0 to 10 is the share of the label's images."""
    counts = statistics.confusion_counts(scene.results, trial["key"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    per_class = statistics.class_metrics(scene.results, trial["key"]).to_dict("records")
    cells = [
        [(int(n), int(np.ceil(10 * share))) for n, share in zip(*row, strict=True)]
        for row in zip(counts, shares, strict=True)
    ]
    rows = [
        {"name": name, "cells": row, **its}
        for name, row, its in zip(scene.classes, cells, per_class, strict=True)
    ]
    return {
        "key": trial["key"],
        "label": scene.trial_label(trial),
        "accuracy": trial["test_accuracy"],
        "rows": rows,
    }


def mistake_items(scene: ReportContext) -> Iterator[dict[str, Any]]:
    """The most confident mistakes of the trial with the lowest validation loss."""
    if scene.tested_trials.empty:
        return
    for _, row in (
        scene.wrong_predictions(scene.tested_trials.iloc[0]).head(MAX_MISTAKES).iterrows()
    ):
        pixels = (scene.images or {}).get(row["image"])
        label, prediction = (scene.classes[row[part]] for part in ("label", "prediction"))
        yield {
            **row,
            "label": label,
            "prediction": prediction,
            "source": None if pixels is None else to_data_url(pixels),
        }


def to_data_url(pixels: np.ndarray) -> str:
    """An image as a data URL, lossless; a large image is made smaller."""
    image, file = Image.fromarray(np.asarray(pixels)), io.BytesIO()
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
