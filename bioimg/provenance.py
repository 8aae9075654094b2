"""Where results come from: experiment.json records what was asked, on which images, with which versions, on which machine."""

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

RUN_FIELDS = ("early_stopping", "versions", "commit", "hardware")
"""What a run that resumes an experiment can change about how its trials are trained and judged."""
RECORDED_PACKAGES = ("bioimg", "torch", "torchvision", "ray", "numpy", "pyarrow")


def build_manifest(
    experiment: Experiment, images: ImageSet, weights: Mapping[str, str], earlier: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of experiment.json while the experiment runs: what was asked last, and in `runs` what each run changed.

    weights:  digests of the weights, by model and name.
    earlier:  what experiment.json holds so far.
    """
    asked = json.loads(
        json.dumps(_experiment_record(experiment, images))
    )  # in the form in which earlier ones are read
    run = {
        "started": _utc_timestamp(),
        **{
            name: asked[name]
            for name in RUN_FIELDS
            if name not in earlier or asked[name] != earlier[name]
        },
    }
    return {
        **asked,
        "created": earlier.get("created", run["started"]),
        "weights": {**earlier.get("weights", {}), **weights},
        "runs": [*earlier.get("runs", []), run],
    }


def complete_manifest(
    description: Mapping[str, Any], earlier: Mapping[str, Any], *, trained: bool
) -> dict[str, Any]:
    """The content of experiment.json at the end. A run that had nothing to train isn't recorded as a source of the results."""
    ended = {**description, "complete": True, "finished": _utc_timestamp()}
    if trained:
        return ended
    untouched = {name: earlier[name] for name in RUN_FIELDS if name in earlier}
    return {
        **ended,
        **untouched,
        "finished": earlier.get("finished") or ended["finished"],
        "runs": earlier.get("runs", []),
    }


def _experiment_record(experiment: Experiment, images: ImageSet) -> dict[str, Any]:
    usable = (
        torch.cuda.is_available()
    )  # GPUs are counted without torch's CUDA, also those that it can't use
    return {
        "format": FORMAT_VERSION,
        "name": experiment.name,
        "complete": False,
        "finished": None,
        "base": dataclasses.asdict(experiment.base),
        "axes": {name: list(values) for name, values in experiment.axes.items()},
        "early_stopping": dataclasses.asdict(experiment.early_stopping)
        if experiment.early_stopping
        else None,
        "data": {
            "name": images.name,
            "fingerprint": images.fingerprint,
            "synthetic": images.synthetic,
            "classes": list(images.classes),
            "images": len(images),
            "groups": len(set(images.groups)) if images.groups else None,
        },
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in RECORDED_PACKAGES},
        },
        "commit": _git_commit(),
        "hardware": {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "gpus": [
                torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
            ]
            if usable
            else [],
        },
    }


def image_assignment_rows(datasets: Mapping[TrialConfig, Dataset]) -> Iterator[dict[str, Any]]:
    """Yield the rows of images.parquet: the subset of each image, for each way of splitting that the trials use."""
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
    """The commit of the checkout that this package runs from, marked if files differ from it; None outside a checkout."""
    git = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ]
    try:
        return subprocess.run(
            git, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
