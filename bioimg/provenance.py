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
from bioimg.data.image_set import ImageSet
from bioimg.data.splitting import split_images
from bioimg.experiment import Experiment
from bioimg.results.image_assignments import SPLIT_COLUMNS
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


def image_assignment_rows(images: Mapping[TrialConfig, ImageSet]) -> Iterator[dict[str, Any]]:
    """Rows of images.parquet: which image is in which subset, for each way of splitting that the trials use."""
    first: dict[tuple[Any, ...], tuple[TrialConfig, ImageSet]] = {}
    for trial, seen in images.items():
        first.setdefault(tuple(getattr(trial, name) for name in SPLIT_COLUMNS), (trial, seen))
    for trial, seen in first.values():
        cut = split_images(seen, trial)
        for subset in ("train", "val", "test"):
            for index in getattr(cut, subset):
                yield {
                    **{name: getattr(trial, name) for name in SPLIT_COLUMNS},
                    "image": seen.paths[index],
                    "group": seen.groups[index] if seen.groups else None,
                    "label": int(seen.labels[index]),
                    "subset": subset,
                    "digest": seen.digests[index],
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
