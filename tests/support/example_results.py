"""Example results, as real files in the real format.

`write_results` writes given rows, and `write_simulated_results` those of a seeded simulation of 12
configurations: nine are completed, two were stopped early and one failed.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bioimg.config import TRIAL_FIELDS, TrialConfig
from bioimg.report.analysis import Analysis
from bioimg.results import schema
from bioimg.results.result_store import ResultStore, read_results
from bioimg.results.table_store import TABLE_SCHEMAS
from bioimg.storage.checked_parquet import encode_table

# results of given numbers

CLASSES = ("tumour", "stroma", "complex", "lympho", "debris", "mucosa")


def trial_row(config: TrialConfig, **values: Any) -> dict[str, Any]:
    """Return the row of a completed trial, in which only the given values were measured."""
    row: dict[str, Any] = dict.fromkeys(schema.TRIALS_SCHEMA.names)
    row |= {
        "experiment": "test",
        "key": config.key,
        **{name: getattr(config, name) for name in TRIAL_FIELDS},
    }
    row |= {
        "data_fingerprint": "5eed5eed5eed5eed",
        "synthetic": False,
        "status": "completed",
        "epochs_run": config.epochs,
    }
    row |= {"train_images": 2550, "val_images": 600, "test_images": 600, "split_leaks_groups": None}
    return row | {"device": "cpu", "precision_used": "float32", "features": "trained"} | values


def prediction_rows(
    key: str,
    wrong: Sequence[int] = (),
    n: int = 600,
    classes: int = 6,
    groups: Sequence[str | None] | None = None,
    subset: str = "test",
) -> list[dict[str, Any]]:
    """Return predictions of n images with a confidence of 0.9, correct but for the given ones."""
    rows = []
    for image in range(n):
        label = image % classes
        prediction = (label + 1) % classes if image in set(wrong) else label
        probabilities = np.full(classes, 0.1 / (classes - 1), np.float32)
        probabilities[prediction] = 0.9
        row = {
            "key": key,
            "subset": subset,
            "image": f"{label}/{image:05}.tif",
            "group": groups[image] if groups else None,
        }
        rows.append(
            row | {"label": label, "prediction": prediction, "probabilities": probabilities}
        )
    return rows


def epoch_rows(
    key: str, val_loss: Sequence[float], val_accuracy: Sequence[float], train: float = 0.99
) -> list[dict[str, Any]]:
    """Return epochs with a training loss that falls all the time."""
    return [
        {
            "key": key,
            "epoch": e,
            "train_loss": 1 / e,
            "train_accuracy": train,
            "val_loss": loss,
            "val_accuracy": acc,
            "val_score": acc,
            "seconds": 2.0,
        }
        for e, (loss, acc) in enumerate(zip(val_loss, val_accuracy, strict=True), start=1)
    ]


def write_results(
    folder: Path,
    trials: Sequence[dict[str, Any]],
    epochs: Sequence[dict[str, Any]] = (),
    predictions: Sequence[dict[str, Any]] = (),
    classes: Sequence[str] = CLASSES,
    **manifest: Any,
) -> Path:
    """Write rows as results; keyword arguments replace entries of experiment.json."""
    default = TrialConfig()
    base = trials[0] if trials else {name: getattr(default, name) for name in TRIAL_FIELDS}
    description = {
        "format": schema.FORMAT_VERSION,
        "name": "test",
        "complete": True,
        "created": "2026-01-01T00:00:00",
        "finished": "2026-01-01T02:00:00",
        "base": {name: base[name] for name in TRIAL_FIELDS},
        "axes": {},
        "early_stopping": None,
        "data": {
            "name": "kather2016",
            "fingerprint": "5eed5eed5eed5eed",
            "synthetic": False,
            "classes": list(classes),
            "images": 3750,
            "image_size": 150,
            "groups": None,
        },
        "versions": {"bioimg": "0.1.0"},
        "commit": "abc1234",
        "hardware": {},
    }
    store = ResultStore(folder)
    store.open_for_writing({**description, **manifest})
    tables = {"trials": trials, "epochs": epochs, "predictions": predictions}
    for name, rows in tables.items():
        table = pa.Table.from_pylist(list(rows), schema=TABLE_SCHEMAS[name])
        store.storage.write(f"{name}.parquet", encode_table(table))
    store.write_manifest({**description, **manifest})
    store.release()
    return folder


def read_analysis(folder: Path) -> Analysis:
    """Return the analysis of a results folder."""
    return Analysis(read_results(folder))


V1, V2 = "IMAGENET1K_V1", "IMAGENET1K_V2"
MEASURES = (
    "final_train_loss",
    "best_train_accuracy",
    "best_val_loss",
    "best_val_loss_epoch",
    "final_val_accuracy",
    "best_val_accuracy",
    "test_accuracy",
    "train_seconds",
)
"""The columns of trials that each of `NINE_RUNS` gives, after its settings."""
NINE_RUNS = (
    (V1, 32, "none", 50, 0.0113, 0.9965, 0.2404, 28, 0.9183, 0.9283, 0.935, 16 * 60 + 15),
    (V1, 64, "none", 35, 0.0262, 0.9973, 0.2262, 30, 0.8817, 0.9317, 0.933, 11 * 60 + 17),
    (V1, 128, "none", 50, None, None, 0.2720, 34, None, 0.935, 0.94, 16 * 60 + 13),
    (V2, 128, "none", 40, 0.0166, 1.0, 0.1656, 35, 0.9217, 0.97, 0.953, 13 * 60 + 4),
    (V2, 32, "none", 40, None, None, 0.1789, 16, None, 0.9483, 0.943, 13 * 60 + 10),
    (V2, 32, "none", 60, None, None, 0.2053, 8, None, 0.946, 0.9483, 19 * 60 + 45),
    (V2, 128, "features", 40, 0.1001, 0.9878, 0.3975, 37, 0.8483, 0.8633, 0.856, 4 * 60 + 15),
    (V2, 128, "features", 100, None, None, 0.3996, 32, None, 0.8633, 0.8633, 16 * 60 + 15),
    (V1, 128, "features", 100, None, None, 0.3184, 52, None, 0.8883, 0.875, 14 * 60 + 53),
)
"""Tables 2 to 8 of the report of 2023, as printed."""


def write_report_2023(path: Path) -> Path:
    """Write the numbers of the report of 2023 as results; what it doesn't tell is null."""
    rows = []
    for weights, batch_size, freeze, epochs, *measured in NINE_RUNS:
        config = TrialConfig(
            data="kather2016", weights=weights, batch_size=batch_size, freeze=freeze, epochs=epochs
        )
        measures = dict(zip(MEASURES, measured, strict=True))
        rows.append(trial_row(config, **measures, split_leaks_groups=True))
    return write_results(path, rows, name="report-2023")


# results of a simulation

SIMULATED_CLASSES = ("TUMOR", "STROMA", "COMPLEX", "LYMPHO", "DEBRIS", "MUCOSA")
SIMULATED_AXES: dict[str, tuple[Any, ...]] = {
    "weights": ("IMAGENET1K_V1", "IMAGENET1K_V2"),
    "batch_size": (32, 64, 128),
    "freeze": ("none", "features"),
}
EPOCHS = 10
IMAGES = 96
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


def write_simulated_results(
    folder: Path,
    *,
    axes: Mapping[str, tuple[Any, ...]] = SIMULATED_AXES,
    classes: tuple[str, ...] = SIMULATED_CLASSES,
    complete: bool = True,
    **changes: Any,
) -> Path:
    """Write simulated results; `changes` replace columns, and entries of `data` in the manifest."""
    base = TrialConfig(data="kather", epochs=EPOCHS)
    manifest = describe_experiment(base, axes, classes)
    data = manifest["data"]
    data.update({name: value for name, value in changes.items() if name in data})
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLE_SCHEMAS}
    for values in itertools.product(*axes.values()):
        trial = dataclasses.replace(base, **dict(zip(axes, values, strict=True)))
        for name, rows in simulate(trial, classes).items():
            for row in rows:
                changed = {column: value for column, value in changes.items() if column in row}
                tables[name].append({**row, **changed})
    return write_results(folder, **tables, **{**manifest, "complete": complete})


def describe_experiment(
    base: TrialConfig, axes: Mapping[str, tuple[Any, ...]], classes: tuple[str, ...]
) -> dict[str, Any]:
    """Return the content of experiment.json."""
    return {
        "format": schema.FORMAT_VERSION,
        "name": "grid",
        "created": "2026-03-02T09:14:07+00:00",
        "finished": "2026-03-02T10:41:55+00:00",
        "base": dataclasses.asdict(base),
        "axes": {name: list(values) for name, values in axes.items()},
        "early_stopping": {
            "metric": "val_score",
            "grace_period": 2,
            "reduction_factor": 2,
            "alpha": 0.05,
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
        "train_accuracy": best["train_accuracy"],
        "val_accuracy": best["val_accuracy"],
        "val_score": best["val_accuracy"],
        "final_val_accuracy": epochs[-1]["val_accuracy"],
        "best_val_accuracy": max(row["val_accuracy"] for row in epochs),
        "test_accuracy": sum(right) / len(right) if right else None,
        "score_used": "accuracy",
        "test_score": sum(right) / len(right) if right else None,
    }  # fmt: skip
    loss = {
        "stopped_at_rung": len(epochs),
        "rung_metric": "val_score",
        "rung_score": best["val_accuracy"],
        "lost_to": "0123456789ab",
        "lost_images": 12,
        "won_images": 3,
        "lost_p": 0.0176,
    }
    return {
        **dataclasses.asdict(trial),
        **known,
        **(loss if stopped else {}),
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
