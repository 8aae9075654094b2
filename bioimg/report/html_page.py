"""The page: one self-contained HTML file, the first one to open."""

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from bioimg.config import TRIAL_FIELDS
from bioimg.report import html_sections, svg_charts
from bioimg.report.analysis import Analysis
from bioimg.report.detail_tables import sum_without_shared_epochs
from bioimg.report.formatting import (
    MISSING_TEXT,
    format_duration,
    format_list,
    format_p_value,
    format_percent,
    format_points,
    format_time,
)
from bioimg.report.headline import stopping_sentence
from bioimg.report.report_context import ImagesByPath, ReportContext
from bioimg.report.translation import column_header
from bioimg.report.visual_encoding import PALETTE

MAX_MATRICES = 12
NOTABLE_TIME_SHARE = 0.9
"""A recipe is called faster if it takes less than this share of the best one's time."""


def write_page(
    analysis: Analysis, file: Path, lang: str = "en", images: ImagesByPath | None = None
) -> Path:
    """Write the page of these results and return its file.

    Raises:
        UserError: there is no such language.
    """
    report = ReportContext(analysis, lang, images)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render_page(report), encoding="utf-8")
    return file


def render_page(report: ReportContext) -> str:
    """Render the page as text. The template escapes everything that comes from the data."""
    script = read_resource("page.js")
    style = palette_css() + read_resource("page.css")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        percent=format_percent, points=format_points, duration=format_duration, p=format_p_value
    )
    template = environment.from_string(read_resource("page.html"))
    return template.render(
        policy=content_security_policy(script, style),
        script=Markup(script),
        style=Markup(style),
        **template_values(report),
    )


def read_resource(name: str) -> str:
    """Read a text file of this package."""
    return (resources.files("bioimg.report") / name).read_text(encoding="utf-8")


def palette_css() -> str:
    """Declare the colours of curves on white, which the style sheet refers to."""
    colours = [f"--paper-c{index}: {colour};" for index, colour in enumerate(PALETTE)]
    return f":root {{ {' '.join(colours)} }}\n"


def content_security_policy(script: str, style: str) -> str:
    """Return the policy that lets a browser run this script and style, and load nothing else."""
    directives = (
        "default-src 'none'",
        f"script-src '{csp_hash(script)}'",
        f"style-src '{csp_hash(style)}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(directives)


def csp_hash(text: str) -> str:
    """Return the name of an inline script or style sheet in a Content-Security-Policy."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def template_values(report: ReportContext) -> dict[str, Any]:
    """Compute what the template shows."""
    analysis = report.analysis
    panels = svg_charts.curve_panels(report)
    legend = html_sections.legend_section(report)
    total_time = sum_without_shared_epochs(analysis.trials, ["train_seconds"])["train_seconds"]
    return {
        "report": report,
        "text": report.text,
        "headline": headline_values(report),
        "comparison": html_sections.comparison_section(report),
        "differences": html_sections.difference_rows(report) if analysis.best else [],
        "compared_pairs": int(analysis.best_pairs["p"].notna().sum()),
        "total_seconds": float(total_time),
        "frame": svg_charts.CHART_FRAME,
        "panels": panels,
        "legend": legend,
        "script_data": html_sections.script_data(panels, legend["trials"]),
        "effects": html_sections.effect_rows(report),
        "scores": html_sections.score_rows(report),
        "matrices": [
            html_sections.confusion_section(report, trial)
            for _, trial in analysis.tested_trials.head(MAX_MATRICES).iterrows()
        ],
        "mistakes": list(html_sections.mistake_items(report)),
        "provenance": provenance_rows(report),
    }


def headline_values(report: ReportContext) -> dict[str, Any]:
    """Return the outcome, and what is needed to judge it."""
    analysis = report.analysis
    counts = {"trials": len(analysis.trials)}
    for status in ("completed", "stopped", "failed"):
        counts[status] = analysis.status_counts[status]
    best = analysis.best
    if best is None:
        return {**counts, "best": None}
    seconds = best.runs["recipe_seconds"].mean()
    verdicts = analysis.verdict_counts
    return {
        **counts,
        "best": report.configuration_label(best.first_run),
        "accuracy": best.accuracy,
        "interval": (best.low, best.high),
        "images": best.images,
        "runs": len(best.runs),
        "has_folds": best.runs["fold"].nunique() > 1,
        "ties": verdicts["tie"],
        "differ": verdicts["better"] + verdicts["worse"],
        "faster": faster_alternative(report, best.accuracy, seconds),
        "seconds": seconds,
        "stopping": stopping_sentence(analysis, report.lang),
    }


def faster_alternative(
    report: ReportContext, accuracy: float, seconds: float
) -> dict[str, Any] | None:
    """Return the fastest recipe that can replace the best; None if none saves a tenth of the time.

    A recipe with a lower accuracy isn't suggested, since a difference may exist that couldn't be
    shown.

    accuracy, seconds: those of the best one.
    """
    analysis = report.analysis
    ties = [key for key, verdict in analysis.verdicts.items() if verdict == "tie"]
    configurations = analysis.trials["key"].map(analysis.configuration_by_trial)
    trials = analysis.trials.assign(configuration=configurations)
    runs = trials[trials["configuration"].isin(ties) & trials["status"].eq("completed")]
    measures = ["test_accuracy", "recipe_seconds"]
    means = runs.groupby("configuration", sort=False)[measures].mean()
    as_accurate = means["test_accuracy"] >= accuracy
    means = means[as_accurate & (means["recipe_seconds"] < NOTABLE_TIME_SHARE * seconds)]
    if means.empty:
        return None
    key = means["recipe_seconds"].idxmin()
    first_run = runs[runs["configuration"] == key].iloc[0]
    return {
        "recipe": report.configuration_label(first_run),
        "seconds": means.at[key, "recipe_seconds"],
        "accuracy": means.at[key, "test_accuracy"],
    }


def provenance_rows(report: ReportContext) -> list[tuple[str, str]]:
    """Return what a reader needs to trust the results, or to reproduce them: names with values."""
    manifest = report.analysis.manifest
    base = manifest["base"]
    varied = {*report.analysis.varying_fields, *manifest["axes"], "data", "images"}
    fixed = {name: base[name] for name in TRIAL_FIELDS if name in base and name not in varied}
    timestamps = (manifest.get("created"), manifest.get("finished"))
    values = {
        "experiment": manifest["name"],
        "axes": describe_values(manifest["axes"], report.lang),
        "fixed": describe_values(fixed, report.lang),
        "images": describe_images(report),
        "fingerprint": manifest["data"]["fingerprint"],
        "versions": describe_values(manifest.get("versions") or {}, report.lang),
        "commit": manifest.get("commit") or MISSING_TEXT,
        "hardware": describe_values(manifest.get("hardware") or {}, report.lang),
        "created": " → ".join(map(format_time, timestamps)),
    }
    return [(report.text(f"provenance.{name}"), str(value)) for name, value in values.items()]


def describe_images(report: ReportContext) -> str:
    """Describe the data set in one line."""
    data = report.analysis.manifest["data"]
    groups = data.get("groups")
    return report.text(
        "provenance.images_text",
        name=data["name"],
        images=data["images"],
        classes=len(data["classes"]),
        groups=MISSING_TEXT if groups is None else groups,
        image_size=report.analysis.manifest["base"]["image_size"],
    )


def describe_values(values: Mapping[str, Any], lang: str) -> str:
    """List names with their values on one line."""
    return "; ".join(
        f"{column_header(name, lang)} {describe_value(value)}" for name, value in values.items()
    )


def describe_value(value: Any) -> str:
    """Return a value, or the first values of a list, as text; a dash if there is none."""
    text = format_list(value) if isinstance(value, (list, tuple)) else value
    return MISSING_TEXT if text in (None, "") else str(text)
