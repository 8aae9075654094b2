"""What doesn't grow with the number of trials."""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks import lanes
from benchmarks.frame import Outcome, Part, Target, seconds
from bioimg.config import TrialConfig
from bioimg.report import breakdown
from bioimg.report.tables import comparison
from bioimg.results import schema
from bioimg.results.store import read


@dataclass(frozen=True, kw_only=True)
class Scale(Part):
    """1,000 trials of almost no work on lanes: time per trial, and memory, at the end compared with the beginning.

    Then a results folder of 10,000 trials x 50 epochs is made, read, and tabulated.
    """

    trials: int = 1000
    """trials of almost no work; the first tenth is compared with the last"""
    lane_count: int = 2
    """number of lanes"""
    rows: int = 10_000
    """trials in the results folder that is read"""
    epochs: int = 50
    """epochs of each of them"""

    def run(self) -> Outcome:
        with tempfile.TemporaryDirectory() as name:
            folder = _two_classes(Path(name) / "images")
            flags = ("--data", str(folder), "--batch-size", "8")
            ran = lanes.run(self.trials, *lanes.TINY, *flags, lanes=self.lane_count)
            tabulating = _tabulating(Path(name) / "results", self.rows, self.epochs)
            others = _all_tables(Path(name) / "fewer", self.rows // 10, self.epochs)
        rows = list(tenths(ran))
        slower = rows[-1]["seconds per trial"] / rows[0]["seconds per trial"]
        larger = rows[-1]["GiB"] / rows[0]["GiB"]
        targets = [
            Target("the last tenth of the trials against the first, time", slower, 1.2, "times", at_most=True),
            Target("the last tenth of the trials against the first, memory", larger, 1.2, "times", at_most=True),
            Target(f"{self.rows:,} trials x {self.epochs} epochs read and tabulated", sum(tabulating), 10.0, "s", at_most=True),
        ]
        notes = [
            f"{self.rows:,} trials: read in {tabulating[0]:.1f} s, comparison table in {tabulating[1]:.1f} s",
            f"{self.rows // 10:,} trials: the report's other tables in {others:.1f} s (no target)",
        ]
        return Outcome(f"{self.trials} trials on {self.lane_count} lanes", rows, targets, notes)


def tenths(ran: lanes.Ran) -> list[dict[str, Any]]:
    """The trials in ten parts in the order of their ends: time per trial, and memory at the end of the part.

    The first hundredth, while some lane may still be starting, isn't part of the first tenth's time.
    """
    ends = np.sort(ran.trials["ended"].to_numpy())
    parts = np.array_split(np.arange(len(ends)), 10)
    befores = [len(ends) // 100, *(part[-1] for part in parts[:-1])]
    return [
        {
            "trials": int(part[-1]) + 1,
            "seconds per trial": float(ends[part[-1]] - ends[before]) / int(part[-1] - before),
            "GiB": _held(ran, "memory", ends[part[-1]]),
            "of the program itself": _held(ran, "own_memory", ends[part[-1]]),
        }
        for before, part in zip(befores, parts, strict=True)
    ]


def _held(ran: lanes.Ran, what: str, moment: Any) -> float:
    return float(np.interp(moment, ran.cost.moments, getattr(ran.cost, what))) / 2**30


def _two_classes(folder: Path) -> Path:
    """24 images of noise, enough for a trial."""
    generator = np.random.default_rng(0)
    for number in range(24):
        file = folder / "AB"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(file)
    return folder


def _tabulating(folder: Path, trials: int, epochs: int) -> tuple[float, float]:
    """Seconds to read a folder of so many trials, and to make the comparison table."""
    write(folder, trials, epochs)
    found = []
    reading = seconds(lambda: found.append(read(folder)))
    return reading, seconds(lambda: comparison(found[0]))


def _all_tables(folder: Path, trials: int, epochs: int) -> float:
    """Seconds that all other tables of `bioimg report` take, whose scores have an interval for each trial."""
    write(folder, trials, epochs)
    results = read(folder)
    return seconds(lambda: breakdown.tables(results))


def write(folder: Path, trials: int, epochs: int, tested: int = 8) -> None:
    """A folder of results: one configuration in four learning rates and many seeds, each with predictions of a few images."""
    draw = np.random.default_rng(0)
    configs = [TrialConfig(seed=n // 4, epochs=epochs, learning_rate=10.0 ** -(2 + n % 4)) for n in range(trials)]
    keys = [config.key for config in configs]
    curves = draw.random((trials, epochs))
    base = {"experiment": "scale", "data_fingerprint": "0" * 16, "status": "completed", "epochs_run": epochs, "synthetic": True}
    known = {"test_accuracy": 0.5, "best_val_loss_epoch": 1, "train_seconds": 1.0, "test_images": tested, "val_images": tested}
    known |= {"train_images": 8, "best_val_loss": 0.5, "final_test_accuracy": 0.5, "best_val_accuracy": 0.5}
    rows = [{**base, **known, "key": config.key, **dataclasses.asdict(config)} for config in configs]
    per_epoch = {name: curves.ravel() for name in schema.EPOCHS.names if name not in ("key", "epoch")}
    tables = {
        "trials": pa.Table.from_pylist(rows, schema=schema.TRIALS),
        "epochs": _table(
            {**per_epoch, "key": np.repeat(keys, epochs), "epoch": np.tile(range(1, epochs + 1), trials)}, "EPOCHS"
        ),
        "predictions": _table(_predictions(keys, draw.integers(2, size=(trials, 2 * tested)), tested), "PREDICTIONS"),
    }
    data = {"name": "none", "fingerprint": "0" * 16, "classes": ["A", "B"], "synthetic": True, "images": 24, "groups": None}
    described = {"format": schema.FORMAT, "name": "scale", "axes": {}, "early_stopping": None, "data": data}
    folder.mkdir(parents=True)
    (folder / "experiment.json").write_text(json.dumps(described))
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")


def _predictions(keys: Sequence[str], guessed: np.ndarray, tested: int) -> dict[str, Any]:
    """Columns: `tested` images of each split, of classes in turn, and what each trial takes them for."""
    trials, count = guessed.shape
    return {
        "key": np.repeat(keys, count),
        "split": np.tile(np.repeat(["val", "test"], tested), trials),
        "image": np.tile([f"{n}.png" for n in range(count)], trials),
        "group": [None] * guessed.size,
        "label": np.tile(np.arange(count) % 2, trials),
        "prediction": guessed.ravel(),
        "probabilities": list(np.eye(2, dtype=np.float32)[guessed.ravel()]),
    }


def _table(columns: dict[str, Any], name: str) -> pa.Table:
    return pa.Table.from_pandas(pd.DataFrame(columns), schema=getattr(schema, name), preserve_index=False)
