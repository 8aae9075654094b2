"""The page: one self-contained HTML file, the first one to open."""

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from bioimg.config import TRIAL_FIELDS
from bioimg.report import html_sections, svg_charts
from bioimg.report.detail_tables import sum_without_shared_epochs
from bioimg.report.formatting import (
    format_duration,
    format_p_value,
    format_percent,
    format_points,
    format_time,
)
from bioimg.report.outcome import pooled_test_accuracy
from bioimg.report.report_context import ImagesByPath, ReportContext
from bioimg.report.table_notes import format_list
from bioimg.report.translation import column_header
from bioimg.results import statistics
from bioimg.results.configurations import configuration_keys
from bioimg.results.result_store import Results

MAX_MATRICES = 12


def write_page(
    results: Results, file: Path, lang: str = "en", images: ImagesByPath | None = None
) -> Path:
    """Write the page of these results and return its file.

    Raises:
        UserError: there is no such language.
    """
    scene = ReportContext(results, lang, images)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render_page(scene), encoding="utf-8")
    return file


def render_page(scene: ReportContext) -> str:
    """The page as text. The template escapes everything that comes from the data."""
    script, sheet = read_resource("page.js"), read_resource("page.css")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        percent=format_percent, points=format_points, clock=format_duration, p=format_p_value
    )
    page = environment.from_string(read_resource("page.html"))
    policy = (
        f"default-src 'none'; script-src '{csp_hash(script)}'; style-src '{csp_hash(sheet)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return page.render(
        policy=policy, script=Markup(script), sheet=Markup(sheet), **template_context(scene)
    )


def read_resource(name: str) -> str:
    return resources.files("bioimg.report").joinpath(name).read_text(encoding="utf-8")


def csp_hash(text: str) -> str:
    """What a Content-Security-Policy calls an inline script or style sheet."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def template_context(scene: ReportContext) -> dict[str, Any]:
    """What the template shows."""
    best = statistics.best_configuration(scene.results)
    pairs = statistics.compare_pairs(scene.results, best) if best else pd.DataFrame()
    ties = statistics.best_and_indistinguishable(scene.results, pairs) if best else []
    panels = svg_charts.curve_panels(scene)
    return {
        "scene": scene,
        "text": scene.text,
        "headline": headline_values(scene, best, pairs, ties),
        "table": html_sections.comparison_section(scene, ties),
        "differences": html_sections.difference_rows(scene, pairs),
        "compared": int(pairs["holds"].notna().sum()) if len(pairs) else 0,
        "seconds": float(sum_without_shared_epochs(scene.trials, ["train_seconds"]).iloc[0]),
        "panels": panels,
        "chips": (legend := html_sections.legend_items(scene)),
        "hover": html_sections.tooltip_data(panels, legend["trials"]),
        "effects": html_sections.effect_rows(scene),
        "scores": html_sections.score_rows(scene, best),
        "matrices": [
            html_sections.confusion_matrix_values(scene, trial)
            for _, trial in scene.tested_trials.head(MAX_MATRICES).iterrows()
        ],
        "mistakes": list(html_sections.mistake_items(scene)),
        "provenance": provenance_rows(scene),
    }


def headline_values(
    scene: ReportContext, best: str | None, pairs: pd.DataFrame, ties: list[str]
) -> dict[str, Any]:
    """The outcome in a sentence, and what is needed to judge it."""
    counts = scene.trials["status"].value_counts()
    numbers = {status: int(counts.get(status, 0)) for status in ("completed", "stopped", "failed")}
    told = {
        **numbers,
        "trials": len(scene.trials),
        "complete": bool(scene.results.manifest.get("complete")),
    }
    if best is None:
        return {**told, "best": None}
    rows = scene.results.trials.assign(configuration=configuration_keys(scene.trials))
    rows = rows[(rows["configuration"] == best) & (rows["status"] == "completed")]
    first = rows.iloc[0]
    share, n = pooled_test_accuracy(rows)
    low, high = statistics.wilson_interval(round(share * n), n)
    seconds = total_seconds(rows).mean()
    return {
        **told,
        "best": scene.configuration_label(first),
        "accuracy": share,
        "interval": (low, high),
        "n": n,
        "runs": len(rows),
        "folds": rows["fold"].nunique() > 1,
        "ties": len(ties) - 1,
        "differ": int(pairs["holds"].eq(True).sum()),
        "faster": faster_alternative(scene, ties, share, seconds),
        "seconds": seconds,
    }


def total_seconds(trials: pd.DataFrame) -> pd.Series:
    """Seconds of each trial, including those for computing its features."""
    return trials["train_seconds"] + trials["features_seconds"].fillna(0).astype(float)


def faster_alternative(
    scene: ReportContext, ties: list[str], share: float, seconds: float
) -> dict[str, Any] | None:
    """The fastest recipe that is no less accurate than the best and not distinguishable from it; None if none saves a tenth.

    A recipe with a lower accuracy isn't suggested: a difference may exist although it couldn't be shown.
    """
    rows = scene.trials.assign(configuration=configuration_keys(scene.trials))
    rows = rows[rows["configuration"].isin(ties[1:]) & (rows["status"] == "completed")]
    means = (
        rows.assign(seconds=total_seconds(rows))
        .groupby("configuration", sort=False)[["test_accuracy", "seconds"]]
        .mean()
    )
    means = means[(means["test_accuracy"] >= share) & (means["seconds"] < 0.9 * seconds)]
    if means.empty:
        return None
    key = means["seconds"].idxmin()
    recipe = scene.configuration_label(rows[rows["configuration"] == key].iloc[0])
    return {
        "recipe": recipe,
        "seconds": means.at[key, "seconds"],
        "accuracy": means.at[key, "test_accuracy"],
    }


def provenance_rows(scene: ReportContext) -> list[tuple[str, str]]:
    """What a reader needs to trust the results, or to reproduce them."""
    experiment, base = scene.results.manifest, scene.results.manifest["base"]
    data, axes = (
        experiment["data"],
        {name: format_list(values) for name, values in experiment["axes"].items()},
    )
    fixed = {
        name: base[name]
        for name in TRIAL_FIELDS
        if name in base and name not in {*scene.varying_fields, *axes, "data"}
    }
    images = {
        "name": data["name"],
        "images": data["images"],
        "classes": len(data["classes"]),
        "image_size": base["image_size"],
    }
    told = {
        "experiment": experiment["name"],
        "axes": describe_values(axes, scene.lang),
        "fixed": describe_values(fixed, scene.lang),
        "images": scene.text(
            "provenance.images_text",
            **images,
            groups="–" if data.get("groups") is None else data["groups"],
        ),
        "fingerprint": data["fingerprint"],
        "versions": describe_values(experiment.get("versions") or {}, scene.lang),
        "commit": experiment.get("commit") or "–",
        "hardware": describe_values(experiment.get("hardware") or {}, scene.lang),
        "created": " → ".join(
            format_time(experiment.get(name)) for name in ("created", "finished")
        ),
    }
    return [(scene.text(f"provenance.{name}"), str(value)) for name, value in told.items()]


def describe_values(values: Mapping[str, Any], lang: str) -> str:
    """Names with their values on one line."""
    lines = {
        name: format_list(value) if isinstance(value, list) else value
        for name, value in values.items()
    }
    texts = {name: "–" if line in (None, "") else line for name, line in lines.items()}
    return "; ".join(f"{column_header(name, lang)} {value}" for name, value in texts.items())
