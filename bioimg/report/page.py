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

from bioimg.config import FIELDS
from bioimg.report import charts, sections
from bioimg.report.breakdown import counted_once
from bioimg.report.captions import header
from bioimg.report.claims import accuracy
from bioimg.report.notes import listed
from bioimg.report.numerals import clock, moment, p_value, percent, points
from bioimg.report.scene import Images, Scene
from bioimg.results import statistics
from bioimg.results.configurations import configurations
from bioimg.results.store import Results

MOST_MATRICES = 12


def write(results: Results, file: Path, lang: str = "en", images: Images | None = None) -> Path:
    """Write the page of these results and return its file.

    Raises:
        UserError: there is no such language.
    """
    scene = Scene(results, lang, images)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render(scene), encoding="utf-8")
    return file


def render(scene: Scene) -> str:
    """The page as text. The template escapes everything that comes from the data."""
    script, sheet = source("page.js"), source("page.css")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=percent, points=points, clock=clock, p=p_value)
    page = environment.from_string(source("page.html"))
    policy = (
        f"default-src 'none'; script-src '{digest(script)}'; style-src '{digest(sheet)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return page.render(policy=policy, script=Markup(script), sheet=Markup(sheet), **content(scene))


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
        "w": scene.words,
        "headline": headline(scene, best, pairs, ties),
        "table": sections.table(scene, ties),
        "differences": sections.differences(scene, pairs),
        "compared": int(pairs["holds"].notna().sum()) if len(pairs) else 0,
        "seconds": float(counted_once(scene.trials, ["train_seconds"]).iloc[0]),
        "panels": panels,
        "chips": (legend := sections.chips(scene)),
        "hover": sections.hover(panels, legend["trials"]),
        "effects": sections.effects(scene),
        "scores": sections.scores(scene, best),
        "matrices": [sections.matrix(scene, trial) for _, trial in scene.completed.head(MOST_MATRICES).iterrows()],
        "mistakes": list(sections.mistakes(scene)),
        "provenance": provenance(scene),
    }


def headline(scene: Scene, best: str | None, pairs: pd.DataFrame, ties: list[str]) -> dict[str, Any]:
    """The outcome in a sentence, and what is needed to judge it."""
    counts = scene.trials["status"].value_counts()
    numbers = {status: int(counts.get(status, 0)) for status in ("completed", "stopped", "failed")}
    told = {**numbers, "trials": len(scene.trials), "complete": bool(scene.results.experiment.get("complete"))}
    if best is None:
        return {**told, "best": None}
    rows = scene.results.trials.assign(configuration=configurations(scene.trials))
    rows = rows[(rows["configuration"] == best) & (rows["status"] == "completed")]
    first = rows.iloc[0]
    share, n = accuracy(rows)
    low, high = statistics.wilson(round(share * n), n)
    seconds = spent(rows).mean()
    return {
        **told,
        "best": scene.recipe(first),
        "accuracy": share,
        "interval": (low, high),
        "n": n,
        "runs": len(rows),
        "folds": rows["fold"].nunique() > 1,
        "ties": len(ties) - 1,
        "differ": int(pairs["holds"].eq(True).sum()),
        "faster": faster(scene, ties, share, seconds),
        "seconds": seconds,
    }


def spent(trials: pd.DataFrame) -> pd.Series:
    """Seconds of each trial, including those for computing its features."""
    return trials["train_seconds"] + trials["features_seconds"].fillna(0).astype(float)


def faster(scene: Scene, ties: list[str], share: float, seconds: float) -> dict[str, Any] | None:
    """The fastest recipe that is no less accurate than the best and not distinguishable from it; None if none saves a tenth.

    A recipe with a lower accuracy isn't suggested: a difference may exist although it couldn't be shown.
    """
    rows = scene.trials.assign(configuration=configurations(scene.trials))
    rows = rows[rows["configuration"].isin(ties[1:]) & (rows["status"] == "completed")]
    means = rows.assign(seconds=spent(rows)).groupby("configuration", sort=False)[["test_accuracy", "seconds"]].mean()
    means = means[(means["test_accuracy"] >= share) & (means["seconds"] < 0.9 * seconds)]
    if means.empty:
        return None
    key = means["seconds"].idxmin()
    recipe = scene.recipe(rows[rows["configuration"] == key].iloc[0])
    return {"recipe": recipe, "seconds": means.at[key, "seconds"], "accuracy": means.at[key, "test_accuracy"]}


def provenance(scene: Scene) -> list[tuple[str, str]]:
    """What a reader needs to trust the results, or to reproduce them."""
    experiment, base = scene.results.experiment, scene.results.experiment["base"]
    data, axes = experiment["data"], {name: listed(values) for name, values in experiment["axes"].items()}
    fixed = {name: base[name] for name in FIELDS if name in base and name not in {*scene.axes, *axes, "data"}}
    images = {"name": data["name"], "images": data["images"], "classes": len(data["classes"]), "image_size": base["image_size"]}
    told = {
        "experiment": experiment["name"],
        "axes": described(axes, scene.lang),
        "fixed": described(fixed, scene.lang),
        "images": scene.words["data_told"].format(**images, groups="–" if data.get("groups") is None else data["groups"]),
        "fingerprint": data["fingerprint"],
        "versions": described(experiment.get("versions") or {}, scene.lang),
        "commit": experiment.get("commit") or "–",
        "hardware": described(experiment.get("hardware") or {}, scene.lang),
        "created": " → ".join(moment(experiment.get(name)) for name in ("created", "finished")),
    }
    return [(scene.words[name], str(value)) for name, value in told.items()]


def described(values: Mapping[str, Any], lang: str) -> str:
    """Names with their values on one line."""
    lines = {name: listed(value) if isinstance(value, list) else value for name, value in values.items()}
    texts = {name: "–" if line in (None, "") else line for name, line in lines.items()}
    return "; ".join(f"{header(name, lang)} {value}" for name, value in texts.items())
