"""Results of given numbers, in the real schema and as real files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bioimg.config import TRIAL_FIELDS, TrialConfig
from bioimg.results import schema
from bioimg.results.table_store import TABLE_SCHEMAS

CLASSES = ("tumour", "stroma", "complex", "lympho", "debris", "mucosa")


def trial(config: TrialConfig, **values: Any) -> dict[str, Any]:
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


def predictions(
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


def curve(
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
            "seconds": 2.0,
        }
        for e, (loss, acc) in enumerate(zip(val_loss, val_accuracy, strict=True), start=1)
    ]


def folder(
    path: Path,
    trials: Sequence[dict[str, Any]],
    epochs: Sequence[dict[str, Any]] = (),
    images: Sequence[dict[str, Any]] = (),
    classes: Sequence[str] = CLASSES,
    **experiment: Any,
) -> Path:
    """Write a results folder; keyword arguments replace entries of experiment.json."""
    path.mkdir(parents=True, exist_ok=True)
    known = [*trials]
    base = (
        {name: known[0][name] for name in TRIAL_FIELDS}
        if known
        else {name: getattr(TrialConfig(), name) for name in TRIAL_FIELDS}
    )
    data = {
        "name": "kather2016",
        "fingerprint": "5eed5eed5eed5eed",
        "synthetic": False,
        "classes": list(classes),
    }
    data |= {"images": 3750, "image_size": 150, "groups": None}
    description = {
        "format": schema.FORMAT_VERSION,
        "name": "test",
        "complete": True,
        "created": "2026-01-01T00:00:00",
        "finished": "2026-01-01T02:00:00",
    }
    description |= {
        "base": base,
        "axes": {},
        "early_stopping": None,
        "data": data,
        "versions": {"bioimg": "0.1.0"},
        "commit": "abc1234",
    }
    (path / "experiment.json").write_text(json.dumps(description | {"hardware": {}} | experiment))
    for name, rows in {"trials": trials, "epochs": epochs, "predictions": images}.items():
        pq.write_table(
            pa.Table.from_pylist(list(rows), schema=TABLE_SCHEMAS[name]), path / f"{name}.parquet"
        )
    return path


V1, V2 = "IMAGENET1K_V1", "IMAGENET1K_V2"
MEASURES = (
    "final_train_loss",
    "best_train_accuracy",
    "best_val_loss",
    "best_val_loss_epoch",
    "final_val_accuracy",
)
MEASURES = (*MEASURES, "best_val_accuracy", "test_accuracy", "train_seconds")
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


def report_2023(path: Path) -> Path:
    """Write the numbers of the report of 2023 as results; what it doesn't tell is null."""
    rows = []
    for weights, batch_size, freeze, epochs, *measured in NINE_RUNS:
        config = TrialConfig(
            data="kather2016", weights=weights, batch_size=batch_size, freeze=freeze, epochs=epochs
        )
        rows.append(
            trial(config, **dict(zip(MEASURES, measured, strict=True)), split_leaks_groups=True)
        )
    return folder(path, rows, name="report-2023")
