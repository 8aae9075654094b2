"""Results like those of grid.py, from a seeded simulation.

Of 12 configurations nine are completed, two were stopped early and one failed.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bioimg.config import TrialConfig
from bioimg.results import schema
from bioimg.results.result_store import ResultStore

CLASSES = ("TUMOR", "STROMA", "COMPLEX", "LYMPHO", "DEBRIS", "MUCOSA")
AXES: dict[str, tuple[Any, ...]] = {
    "weights": ("IMAGENET1K_V1", "IMAGENET1K_V2"),
    "batch_size": (32, 64, 128),
    "freeze": ("none", "features"),
}
EPOCHS, IMAGES = 10, 96
STOPPED = {("IMAGENET1K_V1", 64, "none"): 2, ("IMAGENET1K_V2", 32, "none"): 4}
FAILED = {
    (
        "IMAGENET1K_V1",
        128,
        "none",
    ): "OutOfMemoryError: CUDA out of memory. Tried to allocate 784.00 MiB"
}
SKILL = {
    "IMAGENET1K_V1": 0.0,
    "IMAGENET1K_V2": 0.6,
    "none": 1.9,
    "features": 0.9,
    32: 0.0,
    64: 0.1,
    128: 0.3,
}


def write(
    folder: Path,
    *,
    axes: Mapping[str, tuple[Any, ...]] = AXES,
    classes: tuple[str, ...] = CLASSES,
    complete: bool = True,
    **changes: Any,
) -> Path:
    """Write the results; `changes` replace entries of `data` in experiment.json, and columns."""
    base = TrialConfig(data="kather", epochs=EPOCHS)
    described = description(base, axes, classes)
    described["data"].update(
        {name: value for name, value in changes.items() if name in described["data"]}
    )
    store = ResultStore(folder)
    store.open_for_writing(described)
    trials = [
        dataclasses.replace(base, **dict(zip(axes, cell, strict=True)))
        for cell in itertools.product(*axes.values())
    ]
    for trial in trials:
        for table, rows in simulate(trial, classes).items():
            store.tables.write(
                table,
                trial.key,
                [{**row, **{k: v for k, v in changes.items() if k in row}} for row in rows],
            )
    store.tables.merge([trial.key for trial in trials])
    store.write_manifest({**described, "complete": complete})
    store.release()
    return folder


def description(
    base: TrialConfig, axes: Mapping[str, tuple[Any, ...]], classes: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "format": schema.FORMAT_VERSION,
        "name": "grid",
        "created": "2026-03-02T09:14:07+00:00",
        "finished": "2026-03-02T10:41:55+00:00",
        "base": dataclasses.asdict(base),
        "axes": {name: list(values) for name, values in axes.items()},
        "early_stopping": {
            "metric": "val_accuracy",
            "grace_period": 2,
            "reduction_factor": 2,
            "compare_within": ["freeze"],
        },
        "data": {
            "name": "kather",
            "fingerprint": "91d0c2a7be34f586",
            "synthetic": False,
            "classes": list(classes),
            "images": 600,
            "image_size": 150,
            "groups": 10,
        },
        "versions": {
            "python": "3.11.11",
            "bioimg": "0.1.0",
            "torch": "2.9.0",
            "torchvision": "0.24.0",
            "ray": "2.60.0",
        },
        "commit": "3f1c9aa0d27e",
        "hardware": {"nodes": 1, "cpus": 16, "gpus": 2, "gpu": "NVIDIA A100"},
    }


def simulate(trial: TrialConfig, classes: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of one trial in each table."""
    cell = (trial.weights, trial.batch_size, trial.freeze)
    generator = np.random.default_rng([int(trial.key, 16), trial.seed])
    skill = sum(SKILL[value] for value in cell)
    ran = 1 if cell in FAILED else STOPPED.get(cell, trial.epochs)
    epochs = list(curves(trial, skill, ran, generator))
    done = cell not in FAILED and cell not in STOPPED
    predictions = [
        row
        for split in ("val", "test")
        for row in predict(trial, split, skill, len(classes), generator)
    ]
    row = outcome(trial, epochs, [] if not done else predictions, FAILED.get(cell), cell in STOPPED)
    return {"trials": [row], "epochs": epochs, "predictions": predictions if done else []}


def curves(
    trial: TrialConfig, skill: float, ran: int, generator: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Yield epochs: the validation loss rises after a while if everything is trained."""
    pace = 0.45 if trial.freeze == "none" else 0.25
    for epoch in range(1, ran + 1):
        left = np.exp(-pace * epoch) + generator.normal(0, 0.015)
        over = 0.012 * max(0, epoch - 6) if trial.freeze == "none" else 0.0
        floor = 1 / (1 + np.exp(skill + 0.4))
        yield {
            "key": trial.key,
            "epoch": epoch,
            "train_loss": max(0.01, 1.5 * left + (0 if trial.freeze == "none" else 0.1)),
            "train_accuracy": min(
                1.0, 1 - 0.6 * max(left, 0) - (0 if trial.freeze == "none" else 0.03)
            ),
            "val_loss": max(0.05, 1.3 * left + 1.6 * floor + over + generator.normal(0, 0.02)),
            "val_accuracy": round(
                (1 - floor - 0.5 * max(left, 0)) * IMAGES + generator.normal(0, 1)
            )
            / IMAGES,
            "seconds": (19.4 if trial.freeze == "none" else 4.1) + 40 / trial.batch_size,
        }


def predict(
    trial: TrialConfig, split: str, skill: float, classes: int, generator: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Yield predictions of images, each of which is equally difficult for every trial."""
    images = np.random.default_rng([1, len(split)])
    labels = np.arange(IMAGES) % classes
    difficulty = images.normal(0, 1.3, IMAGES)
    lure = (labels + 1 + images.integers(0, max(classes - 1, 1), IMAGES)) % classes
    for image, label in enumerate(labels):
        logits = generator.normal(0, 0.7, classes)
        logits[label] += skill + 0.6
        logits[lure[image]] += difficulty[image] + 0.8
        odds = np.exp(logits - logits.max())
        group = f"slide-{image % 10 + 1:02d}"
        yield {
            "key": trial.key,
            "subset": split,
            "image": f"{split}/{group}/tile-{image:03d}.tif",
            "group": group,
            "label": int(label),
            "prediction": int(odds.argmax()),
            "probabilities": (odds / odds.sum()).tolist(),
        }


def outcome(
    trial: TrialConfig,
    epochs: list[dict[str, Any]],
    predictions: list[dict[str, Any]],
    error: str | None,
    stopped: bool,
) -> dict[str, Any]:
    """Return the row of the trials table that summarises epochs and predictions."""
    best = min(epochs, key=lambda row: row["val_loss"])
    right = [row["label"] == row["prediction"] for row in predictions if row["subset"] == "test"]
    known = {} if error else {
        "final_train_loss": epochs[-1]["train_loss"],
        "best_train_accuracy": max(row["train_accuracy"] for row in epochs),
        "best_val_loss": best["val_loss"],
        "best_val_loss_epoch": best["epoch"],
        "final_val_accuracy": epochs[-1]["val_accuracy"],
        "best_val_accuracy": max(row["val_accuracy"] for row in epochs),
        "test_accuracy": sum(right) / len(right) if right else None,
        "final_test_accuracy": sum(right) / len(right) if right else None,
    }  # fmt: skip
    return {
        **dataclasses.asdict(trial),
        **known,
        "experiment": "grid",
        "key": trial.key,
        "data_fingerprint": "91d0c2a7be34f586",
        "synthetic": False,
        "train_images": 408,
        "val_images": IMAGES,
        "test_images": IMAGES,
        "split_leaks_groups": True,
        "device": "cuda",
        "precision_used": "bfloat16",
        "batch_norm": "frozen" if trial.freeze == "features" else "local",
        "features": "cached" if trial.freeze == "features" else "computed",
        "trained_parameters": 12_294 if trial.freeze == "features" else 22_992_198,
        "status": "failed" if error else "stopped" if stopped else "completed",
        "epochs_run": len(epochs),
        "error": error,
        "train_seconds": sum(row["seconds"] for row in epochs),
        "wait_seconds": 1.7,
    }
