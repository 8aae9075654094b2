"""The page: one HTML file that needs nothing else, which a supervisor opens first."""

import base64
import hashlib
import io
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from bioimg.config import FIELDS
from bioimg.report import charts
from bioimg.report.scene import Images, Scene, printable
from bioimg.report.words import words
from bioimg.results import statistics
from bioimg.results.configurations import REPEATS, configurations
from bioimg.results.store import Results

MOST_ROWS = 500
MOST_MATRICES = 12
MOST_MISTAKES = 12
THUMBNAIL = 192
"""Longest side of an image on the page, in pixels."""


def write(results: Results, file: Path, lang: str = "en", images: Images | None = None) -> Path:
    """Write the page of these results and return its file.

    Raises:
        UserError: there is no such language.
    """
    scene = Scene(results, words(lang), images)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render(scene, lang), encoding="utf-8")
    return file


def render(scene: Scene, lang: str) -> str:
    """The page as text. Everything that comes from the data goes through the template's escaping."""
    script, sheet = source("page.js"), source("page.css")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=percent, points=points, clock=clock, p=p_value, loss=loss)
    page = environment.from_string(source("page.html"))
    policy = (
        f"default-src 'none'; script-src '{digest(script)}'; style-src '{digest(sheet)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return page.render(lang=lang, w=scene.words, policy=policy, script=Markup(script), sheet=Markup(sheet), **content(scene))  # noqa: S704


def source(name: str) -> str:
    return resources.files("bioimg.report").joinpath(name).read_text(encoding="utf-8")


def digest(text: str) -> str:
    """What a Content-Security-Policy calls an inline script or style sheet."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def content(scene: Scene) -> dict[str, Any]:
    """What the template shows."""
    best = statistics.best(scene.results)
    pairs = statistics.paired(scene.results, best) if best else pd.DataFrame()
    ties = statistics.ties_with_best(scene.results, pairs) if best else []
    panels = charts.curves(scene)
    return {
        "scene": scene,
        "headline": headline(scene, best, pairs, ties),
        "table": table(scene, best, ties),
        "differences": differences(scene, pairs),
        "panels": panels,
        "hover": {"panels": [[{"key": line["key"], "points": line["points"]} for line in panel["lines"]] for panel in panels]},
        "chips": chips(scene),
        "effects": effects(scene),
        "scores": statistics.bootstrap(scene.results, best).to_dict("records") if best in set(scene.completed["key"]) else [],
        "matrices": [matrix(scene, trial) for _, trial in scene.completed.head(MOST_MATRICES).iterrows()],
        "mistakes": list(mistakes(scene)),
        "provenance": provenance(scene),
    }


def headline(scene: Scene, best: str | None, pairs: pd.DataFrame, ties: list[str]) -> dict[str, Any]:
    """What came out, in a sentence, and what must be known to believe it."""
    counts = scene.trials["status"].value_counts()
    numbers = {status: int(counts.get(status, 0)) for status in ("completed", "stopped", "failed")}
    told = {**numbers, "trials": len(scene.trials), "complete": bool(scene.results.experiment.get("complete"))}
    if best is None:
        return {**told, "best": None}
    rows = scene.results.trials.assign(configuration=configurations(scene.trials))
    rows = rows[(rows["configuration"] == best) & (rows["status"] == "completed")]
    first = rows.iloc[0]
    accuracy, n = rows["test_accuracy"].mean(), int(first["test_images"])
    low, high = statistics.wilson(round(accuracy * n), n)
    return {
        **told,
        "best": scene.recipe(first),
        "accuracy": accuracy,
        "interval": (low, high),
        "n": n,
        "runs": len(rows),
        "ties": len(ties) - 1,
        "differ": int(pairs["holds"].eq(True).sum()),
        "cheaper": cheaper(scene, ties, rows["train_seconds"].mean()),
        "seconds": rows["train_seconds"].mean(),
    }


def cheaper(scene: Scene, ties: list[str], seconds: float) -> dict[str, Any] | None:
    """Of the recipes that can't be told from the best, the one that trained fastest, if that is another."""
    rows = scene.trials.assign(configuration=configurations(scene.trials))
    rows = rows[rows["configuration"].isin(ties) & (rows["status"] == "completed")]
    means = rows.groupby("configuration", sort=False)["train_seconds"].mean()
    if means.dropna().empty or means.idxmin() == ties[0]:
        return None
    first = rows[rows["configuration"] == means.idxmin()].iloc[0]
    return {"label": scene.recipe(first), "seconds": means.min()} if means.min() < 0.9 * seconds else None


def differences(scene: Scene, pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """Each recipe against the best one, the nearest first."""
    if pairs.empty:
        return []
    pairs = pairs.sort_values("difference", ascending=False, kind="stable", na_position="last").head(MOST_ROWS)
    firsts = scene.trials.set_index("key", drop=False)
    return [
        {
            **row,
            "label": scene.recipe(firsts.loc[row["a"]]),
            "mark": mark,
            "holds": None if pd.isna(row["holds"]) else bool(row["holds"]),
        }
        for row, mark in zip(pairs.to_dict("records"), charts.forest(pairs, "difference"), strict=True)
    ]


def effects(scene: Scene) -> list[dict[str, Any]]:
    """What each level of an axis does, then each interaction."""
    found = statistics.effects(scene.results)
    found = found[found["effect"].notna()].head(MOST_ROWS)
    marks = charts.forest(found, "effect")
    labels = [scene.effect(row) for _, row in found.iterrows()]
    return [
        {**row, "label": label, "mark": mark, "interaction": ":" in row["axis"]}
        for row, label, mark in zip(found.to_dict("records"), labels, marks, strict=True)
    ]


def chips(scene: Scene) -> dict[str, Any]:
    """The legend, which shows and hides curves: the values of each axis, and every single trial."""
    code, drawn = scene.encoding, scene.ranked.head(charts.MOST_LINES)
    axes = []
    for field in [axis for axis in (code.colour, code.line, *code.panel) if axis]:
        places = enumerate(code.values[field])
        looks = [
            (f"c{k % 7}" if field == code.colour else f"plain l{k}" if field == code.line else "", value) for k, value in places
        ]
        axes.append(
            {"name": scene.word(field), "field": field, "values": [{"look": its, "value": value} for its, value in looks]}
        )
    trials = [
        {
            "key": trial["key"],
            "label": scene.label(trial),
            "look": charts.look(code, trial),
            "status": trial["status"],
            "values": {field: str(trial[field]) for field in scene.axes},
        }
        for _, trial in drawn.iterrows()
    ]
    return {"axes": axes, "trials": trials, "left_out": len(scene.ranked) - len(drawn)}


def matrix(scene: Scene, trial: pd.Series) -> dict[str, Any]:
    """A confusion matrix with the recall and precision of each class; shade 0 to 10 is the share of the label's images."""
    counts = statistics.confusion(scene.results, trial["key"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    per_class = statistics.per_class(scene.results, trial["key"]).to_dict("records")
    cells = [
        [(int(n), int(np.ceil(10 * share))) for n, share in zip(*row, strict=True)] for row in zip(counts, shares, strict=True)
    ]
    rows = [{"name": name, "cells": row, **its} for name, row, its in zip(scene.classes, cells, per_class, strict=True)]
    return {"key": trial["key"], "label": scene.label(trial), "accuracy": trial["test_accuracy"], "rows": rows}


def mistakes(scene: Scene) -> Iterator[dict[str, Any]]:
    """The surest mistakes of the trial with the lowest validation loss."""
    if scene.completed.empty:
        return
    for _, row in scene.mistakes(scene.completed.iloc[0]).head(MOST_MISTAKES).iterrows():
        pixels = (scene.images or {}).get(row["image"])
        label, prediction = (scene.classes[row[part]] for part in ("label", "prediction"))
        yield {**row, "label": label, "prediction": prediction, "source": None if pixels is None else picture(pixels)}


def picture(pixels: np.ndarray) -> str:
    """An image as a data URL, without loss, made smaller where it is large."""
    image, file = Image.fromarray(np.asarray(pixels)), io.BytesIO()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def provenance(scene: Scene) -> list[tuple[str, str]]:
    """What a reader needs to believe the page, or to do it again."""
    experiment, word = scene.results.experiment, scene.word
    data, base = experiment["data"], experiment["base"]
    fixed = ", ".join(
        f"{word(name)} {base[name]}" for name in FIELDS if name in base and name not in (*scene.axes, *REPEATS, "data")
    )
    versions = ", ".join(f"{name} {version}" for name, version in experiment.get("versions", {}).items())
    hardware = ", ".join(f"{word(name)} {value}" for name, value in (experiment.get("hardware") or {}).items())
    axes = "; ".join(f"{word(name)}: {', '.join(map(str, values))}" for name, values in experiment["axes"].items())
    return [
        (word("experiment"), experiment["name"]),
        (word("axes"), axes),
        (word("fixed"), fixed),
        (word("data"), f"{data['name']}, {data['images']} × {data['image_size']} px"),
        (word("fingerprint"), data["fingerprint"]),
        (word("versions"), versions),
        (word("commit"), str(experiment.get("commit") or "–")),
        (word("hardware"), hardware),
        (word("created"), f"{experiment.get('created') or '–'} → {experiment.get('finished') or '–'}"),
    ]


def percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None or pd.isna(share) else f"{100 * share:.{digits}f} %"


def points(difference: float | None) -> str:
    """A difference of shares in percentage points, signed."""
    return "–" if difference is None or pd.isna(difference) else f"{100 * difference:+.1f}".replace("-", "−")


def p_value(p: float | None) -> str:
    return "–" if p is None or pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.2g}"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
