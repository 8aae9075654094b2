"""The page: one self-contained HTML file, the first one to open."""

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from bioimg.config import TRIAL_FIELDS
from bioimg.report import html_sections, sentences, svg_charts
from bioimg.report.analysis import Analysis
from bioimg.report.class_images import build_class_table
from bioimg.report.detail_tables import sum_seconds
from bioimg.report.formatting import (
    MISSING_TEXT,
    format_duration,
    format_list,
    format_percent,
    format_points,
    format_time,
)
from bioimg.report.report_context import ImagesByPath, ReportContext
from bioimg.report.translation import column_header
from bioimg.report.visual_encoding import PALETTE

MAX_MATRICES = 12


def write_page(
    analysis: Analysis,
    file: Path,
    lang: str = "en",
    images: ImagesByPath | None = None,
    overlays: ImagesByPath | None = None,
) -> Path:
    """Write the page of these results and return its file.

    Raises:
        UserError: there is no such language.
    """
    report = ReportContext(analysis, lang, images, overlays)
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
        percent=format_percent, points=format_points, duration=format_duration, code=mark_code
    )
    template = environment.from_string(read_resource("page.html"))
    return template.render(
        policy=content_security_policy(script, style),
        script=Markup(script),
        style=Markup(style),
        **template_values(report),
    )


def mark_code(text: str) -> Markup:
    """Escape a sentence, and mark what it has between backticks as code."""
    parts = [escape(part) for part in text.split("`")]
    for position in range(1, len(parts), 2):
        parts[position] = Markup("<code>{}</code>").format(parts[position])
    return Markup("").join(parts)


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
    matrices = []
    for _, trial in analysis.tested_trials.head(MAX_MATRICES).iterrows():
        matrices.append(html_sections.confusion_section(report, trial))
    return {
        "report": report,
        "analysis": analysis,
        "text": report.text,
        "headline": sentences.headline(report),
        "details": sentences.headline_details(report),
        "total_seconds": sum_seconds(analysis.all_results.trials),
        "comparison": html_sections.comparison_section(report),
        "tuning": html_sections.tuning_section(report),
        "differences": html_sections.difference_rows(report) if analysis.best else [],
        "compared_pairs": int(analysis.best_pairs["p"].notna().sum()),
        "external": html_sections.external_sections(report),
        "groups": html_sections.group_sections(report),
        "aggregate": report.analysis.results.aggregate,
        "frame": svg_charts.CHART_FRAME,
        "panels": panels,
        "legend": legend,
        "script_data": html_sections.script_data(panels, legend["trials"]),
        "effects": html_sections.effect_rows(report),
        "refused_effects": html_sections.refused_effects(report),
        "scores": html_sections.score_rows(report),
        "matrices": matrices,
        "class_table": build_class_table(analysis.results, analysis.trials, report.lang),
        "mistakes": list(html_sections.mistake_items(report)),
        "provenance": provenance_rows(report),
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
        "weights": describe_weights(report),
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


def describe_weights(report: ReportContext) -> str:
    """List where the weights of each model came from, and under which licence if it is known."""
    columns = ["model", "weights", "weights_source", "weights_licence"]
    rows = report.analysis.trials[columns].drop_duplicates().fillna("")
    texts = []
    for model, weights, source, licence in rows.itertuples(index=False):
        facts = ", ".join(fact for fact in (source, licence) if fact)
        texts.append(f"{model} {weights}" + f" ({facts})" * bool(facts))
    return "; ".join(texts)


def describe_values(values: Mapping[str, Any], lang: str) -> str:
    """List names with their values on one line."""
    return "; ".join(
        f"{column_header(name, lang)} {describe_value(value)}" for name, value in values.items()
    )


def describe_value(value: Any) -> str:
    """Return a value, or the first values of a list, as text; a dash if there is none."""
    text = format_list(value) if isinstance(value, (list, tuple)) else value
    return MISSING_TEXT if text in (None, "") else str(text)
