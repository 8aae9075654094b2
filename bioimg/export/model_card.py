"""The README.md of an exported model. Its text is in model_card.md.jinja."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from bioimg.config import TRIAL_FIELDS
from bioimg.export.trained_model import CheckImages, TrainedModel, shorten_path
from bioimg.models.licences import NO_DERIVATIVES_CLAUSE, forbids_commerce, forbids_sharing
from bioimg.report.analysis import Analysis
from bioimg.report.class_images import find_class_images
from bioimg.report.formatting import format_percent, format_percent_interval, format_setting
from bioimg.results.external_sets import external_results, read_external_sets
from bioimg.results.result_store import Results
from bioimg.text import replace_controls

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
MEASURES = {
    "test_accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "ece": "expected calibration error",
}
PREPARATIONS = {
    "resize": "resize to {size} x {size} (bilinear, antialiased), even if that changes the shape",
    "crop": "take the largest square in the middle, resize it to {size} x {size} (bilinear, "
    "antialiased)",
    "pad": "resize to fit into {size} x {size} (bilinear, antialiased), fill up with black",
}
PATH_FIELDS = ("data", "images")
"""Settings that are paths of one machine."""


def format_card(
    results: Results,
    model: TrainedModel,
    images: CheckImages,
    licence: str,
    check: Mapping[str, Any],
    um_per_pixel: float | None,
    *,
    has_loader: bool,
) -> str:
    """Return the model card of a trial, as Markdown.

    licence: of the pretrained weights; empty if it isn't known.
    check: the content of check.json.
    um_per_pixel: size of a pixel of the stored images, in micrometres.
    has_loader: whether the folder for PyTorch has a load.py.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = _mark_code
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    row: Any = results.trials.set_index("key").loc[model.key]
    own_trial = results.trials[results.trials["key"].eq(model.key)]
    known = find_class_images(results, own_trial)
    scores = _format_scores(results, model.key)
    differences = check["largest_difference"]
    return template.render(
        name=model.name,
        key=model.key,
        version=importlib.metadata.version("bioimg"),
        size=model.trial.image_size,
        data_name=results.manifest["data"]["name"],
        fingerprint=row["data_fingerprint"],
        subsets=known.subsets,
        classes=known.counts(),
        test_images=row["test_images"],
        scores=[(MEASURES[column], value) for column, value in scores.items()],
        external=_list_external_scores(results, model.key),
        recipe=_list_settings(row),
        licence=licence,
        source=shorten_path(row["weights_source"] or ""),
        no_commerce=forbids_commerce(licence),
        no_sharing=forbids_sharing(licence),
        clause=NO_DERIVATIVES_CLAUSE,
        preparation=_describe_preparation(model),
        formats=tuple(differences),
        has_loader=has_loader,
        sides=sorted(images.stored_sizes),
        um_per_pixel=um_per_pixel,
        checked_images=len(check["images"]),
        difference=f"{max(differences.values()):.1g}",
        precision=check["precision_of_predict"],
        precision_difference=f"{check['difference_of_precision']:.1g}",
    )


def _format_scores(results: Results, key: str) -> dict[str, str]:
    """Return the value of each measure on the test images, with its interval."""
    measured: Any = Analysis(results).trial_scores.loc[key]
    scores = {}
    for column in MEASURES:
        interval = format_percent_interval(measured[f"{column}_low"], measured[f"{column}_high"])
        scores[column] = format_percent(measured[column]) + interval
    return scores


def _list_external_scores(results: Results, key: str) -> list[tuple[str, int, str, str]]:
    """Return name, images, accuracy and balanced accuracy for each set that the trial predicted."""
    rows = []
    for name, external_set in read_external_sets(results.manifest).items():
        there = external_results(results, name)
        if key in set(there.predictions["key"]):
            scores = _format_scores(there, key)
            accuracies = (scores["test_accuracy"], scores["balanced_accuracy"])
            rows.append((name, external_set.images, *accuracies))
    return rows


def _list_settings(row: Any) -> list[tuple[str, str]]:
    """Return the settings that are set, without paths of this machine."""
    settings = []
    for name in TRIAL_FIELDS:
        value = row[name]
        if name not in PATH_FIELDS and not pd.isna(value):
            settings.append((name, shorten_path(format_setting(value))))
    return settings


def _describe_preparation(model: TrainedModel) -> str:
    steps = []
    if model.trial.channels is not None:
        steps.append(f"use the channels {model.trial.channels} as red, green and blue")
    steps.append(PREPARATIONS[model.trial.resize].format(size=model.trial.image_size))
    if model.scaling_limits is not None:
        limits = [f"{low:g} to {high:g}" for low, high in model.scaling_limits]
        steps.append(f"scale red, green and blue from {', '.join(limits)} to 0 to 255, and clip")
    return "; ".join(steps)


def _mark_code(value: object) -> str:
    """Return a value as code in Markdown, also inside a table."""
    text = replace_controls(str(value)).replace("\n", " ")
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"
