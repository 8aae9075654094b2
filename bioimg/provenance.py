"""Where results come from.

experiment.json records what was asked, on which images, with which versions, on which machine.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bioimg.config import TrialConfig
from bioimg.data.image_set import SUBSETS, Dataset, ImageSet
from bioimg.experiment import SPLIT_FIELDS, Experiment
from bioimg.results.schema import FORMAT_VERSION
from bioimg.results.score import resolve_score

RUN_FIELDS = ("early_stopping", "versions", "commit", "hardware")
"""What a session that resumes an experiment can change about how trials are trained and judged."""
RECORDED_PACKAGES = ("bioimg", "torch", "torchvision", "ray", "numpy", "pyarrow")


def build_manifest(
    experiment: Experiment, images: ImageSet, weights: Mapping[str, str], earlier: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of experiment.json while the experiment runs.

    It holds what was asked last and, in `runs`, what each session changed.

    weights: digests of the weights, by model and name.
    earlier: what experiment.json holds so far.
    """
    # through JSON, so that it can be compared with what was read
    record = json.loads(json.dumps(_experiment_record(experiment, images)))
    changed = {
        name: record[name]
        for name in RUN_FIELDS
        if name not in earlier or record[name] != earlier[name]
    }
    session = {"started": _utc_timestamp(), **changed}
    return {
        **record,
        "created": earlier.get("created", session["started"]),
        "weights": {**earlier.get("weights", {}), **weights},
        "external": earlier.get("external", {}),
        "runs": [*earlier.get("runs", []), session],
    }


def complete_manifest(
    manifest: Mapping[str, Any], earlier: Mapping[str, Any], *, trained: bool
) -> dict[str, Any]:
    """Return the content of experiment.json at the end.

    A session that trained nothing isn't recorded as a source of the results.
    """
    completed = {**manifest, "complete": True, "finished": _utc_timestamp()}
    if trained:
        return completed
    return {
        **completed,
        **{name: earlier[name] for name in RUN_FIELDS if name in earlier},
        "finished": earlier.get("finished") or completed["finished"],
        "runs": earlier.get("runs", []),
    }


def _experiment_record(experiment: Experiment, images: ImageSet) -> dict[str, Any]:
    rule = experiment.stopping_rule
    return {
        "format": FORMAT_VERSION,
        "name": experiment.name,
        "complete": False,
        "finished": None,
        "base": dataclasses.asdict(experiment.base),
        "axes": {name: list(values) for name, values in experiment.axes.items()},
        "tune": list(experiment.tune),
        "tune_seeds": experiment.tune_seeds,
        "aggregate": experiment.aggregate,
        "early_stopping": dataclasses.asdict(rule) if rule else None,
        "score": resolve_score(experiment.base.score, images.class_counts),
        "data": _data_record(images),
        "versions": _versions_record(),
        "commit": _git_commit(),
        "hardware": _hardware_record(),
    }


def _data_record(images: ImageSet) -> dict[str, Any]:
    return {
        "name": images.name,
        "fingerprint": images.fingerprint,
        "synthetic": images.synthetic,
        "classes": list(images.classes),
        "images": len(images),
        "groups": len(set(images.groups)) if images.groups else None,
    }


def _versions_record() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES}
    return {"python": platform.python_version(), **packages}


def _hardware_record() -> dict[str, Any]:
    # device_count also counts GPUs that torch can't use
    gpu_count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(gpu_count)],
    }


def image_assignment_rows(datasets: Mapping[TrialConfig, Dataset]) -> Iterator[dict[str, Any]]:
    """Yield the rows of images.parquet: the subset of each image, for each split of the trials."""
    datasets_by_split: dict[tuple[Any, ...], Dataset] = {}
    for trial, dataset in datasets.items():
        values = tuple(getattr(trial, name) for name in SPLIT_FIELDS)
        datasets_by_split.setdefault(values, dataset)
    for values, dataset in datasets_by_split.items():
        images = dataset.images
        for subset in SUBSETS:
            for index in getattr(dataset.split, subset):
                yield {
                    **dict(zip(SPLIT_FIELDS, values, strict=True)),
                    "image": images.paths[index],
                    "group": images.groups[index] if images.groups else None,
                    "label": int(images.labels[index]),
                    "subset": subset,
                    "digest": images.digests[index],
                }


def _utc_timestamp() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


def _git_commit() -> str | None:
    """Return the commit of the checkout that this package runs from; None outside a checkout.

    It is marked if files differ from it.
    """
    folder = str(Path(__file__).parent)
    describe = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        process = subprocess.run(
            ["git", "-C", folder, *describe], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip()
