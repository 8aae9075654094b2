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
from benchmarks.harness import Benchmark, Outcome, Target, elapsed_seconds
from bioimg.config import TrialConfig
from bioimg.report import detail_tables
from bioimg.report.comparison_table import build_comparison
from bioimg.results import schema
from bioimg.results.result_store import read_results


@dataclass(frozen=True, kw_only=True)
class ScaleBenchmark(Benchmark):
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
            folder = _write_noise_images(Path(name) / "images")
            flags = ("--data", str(folder), "--batch-size", "8")
            ran = lanes.run_seeds(
                self.trials, *lanes.TINY_TRIAL_FLAGS, *flags, lanes=self.lane_count
            )
            tabulating = _time_tabulation(Path(name) / "results", self.rows, self.epochs)
            others = _time_other_tables(Path(name) / "fewer", self.rows // 10, self.epochs)
        rows = list(tenth_rows(ran))
        slower = rows[-1]["seconds per trial"] / rows[0]["seconds per trial"]
        larger = rows[-1]["GiB"] / rows[0]["GiB"]
        targets = [
            Target(
                "the last tenth of the trials against the first, time",
                slower,
                1.2,
                "times",
                at_most=True,
            ),
            Target(
                "the last tenth of the trials against the first, memory",
                larger,
                1.2,
                "times",
                at_most=True,
            ),
            Target(
                f"{self.rows:,} trials x {self.epochs} epochs read and tabulated",
                sum(tabulating),
                10.0,
                "s",
                at_most=True,
            ),
        ]
        notes = [
            f"{self.rows:,} trials: read in {tabulating[0]:.1f} s, comparison table in {tabulating[1]:.1f} s",
            f"{self.rows // 10:,} trials: the report's other tables in {others:.1f} s (no target)",
        ]
        return Outcome(f"{self.trials} trials on {self.lane_count} lanes", rows, targets, notes)


def tenth_rows(ran: lanes.GridRun) -> list[dict[str, Any]]:
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
            "GiB": _memory_gib(ran, "memory", ends[part[-1]]),
            "of the program itself": _memory_gib(ran, "own_memory", ends[part[-1]]),
        }
        for before, part in zip(befores, parts, strict=True)
    ]


def _memory_gib(ran: lanes.GridRun, what: str, moment: Any) -> float:
    return float(np.interp(moment, ran.cost.sample_times, getattr(ran.cost, what))) / 2**30


def _write_noise_images(folder: Path) -> Path:
    """24 images of noise, enough for a trial."""
    generator = np.random.default_rng(0)
    for number in range(24):
        file = folder / "AB"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(file)
    return folder


def _time_tabulation(folder: Path, trials: int, epochs: int) -> tuple[float, float]:
    """Seconds to read a folder of so many trials, and to make the comparison table."""
    write_results_folder(folder, trials, epochs)
    found = []
    reading = elapsed_seconds(lambda: found.append(read_results(folder)))
    return reading, elapsed_seconds(lambda: build_comparison(found[0]))


def _time_other_tables(folder: Path, trials: int, epochs: int) -> float:
    """Seconds that all other tables of `bioimg report` take, whose scores have an interval for each trial."""
    write_results_folder(folder, trials, epochs)
    results = read_results(folder)
    return elapsed_seconds(lambda: detail_tables.build_detail_tables(results))


def write_results_folder(folder: Path, trials: int, epochs: int, tested: int = 8) -> None:
    """A folder of results: one configuration in four learning rates and many seeds, each with predictions of a few images."""
    draw = np.random.default_rng(0)
    configs = [
        TrialConfig(seed=n // 4, epochs=epochs, learning_rate=10.0 ** -(2 + n % 4))
        for n in range(trials)
    ]
    keys = [config.key for config in configs]
    curves = draw.random((trials, epochs))
    base = {
        "experiment": "scale",
        "data_fingerprint": "0" * 16,
        "status": "completed",
        "epochs_run": epochs,
        "synthetic": True,
    }
    known = {
        "test_accuracy": 0.5,
        "best_val_loss_epoch": 1,
        "train_seconds": 1.0,
        "test_images": tested,
        "val_images": tested,
    }
    known |= {
        "train_images": 8,
        "best_val_loss": 0.5,
        "final_test_accuracy": 0.5,
        "best_val_accuracy": 0.5,
    }
    rows = [
        {**base, **known, "key": config.key, **dataclasses.asdict(config)} for config in configs
    ]
    per_epoch = {
        name: curves.ravel() for name in schema.EPOCHS_SCHEMA.names if name not in ("key", "epoch")
    }
    tables = {
        "trials": pa.Table.from_pylist(rows, schema=schema.TRIALS_SCHEMA),
        "epochs": _arrow_table(
            {
                **per_epoch,
                "key": np.repeat(keys, epochs),
                "epoch": np.tile(range(1, epochs + 1), trials),
            },
            "EPOCHS_SCHEMA",
        ),
        "predictions": _arrow_table(
            _prediction_columns(keys, draw.integers(2, size=(trials, 2 * tested)), tested),
            "PREDICTIONS_SCHEMA",
        ),
    }
    data = {
        "name": "none",
        "fingerprint": "0" * 16,
        "classes": ["A", "B"],
        "synthetic": True,
        "images": 24,
        "groups": None,
    }
    described = {
        "format": schema.FORMAT_VERSION,
        "name": "scale",
        "axes": {},
        "early_stopping": None,
        "data": data,
    }
    folder.mkdir(parents=True)
    (folder / "experiment.json").write_text(json.dumps(described))
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")


def _prediction_columns(keys: Sequence[str], guessed: np.ndarray, tested: int) -> dict[str, Any]:
    """Columns: `tested` images of each subset, of classes in turn, and what each trial takes them for."""
    trials, count = guessed.shape
    return {
        "key": np.repeat(keys, count),
        "subset": np.tile(np.repeat(["val", "test"], tested), trials),
        "image": np.tile([f"{n}.png" for n in range(count)], trials),
        "group": [None] * guessed.size,
        "label": np.tile(np.arange(count) % 2, trials),
        "prediction": guessed.ravel(),
        "probabilities": list(np.eye(2, dtype=np.float32)[guessed.ravel()]),
    }


def _arrow_table(columns: dict[str, Any], name: str) -> pa.Table:
    return pa.Table.from_pandas(
        pd.DataFrame(columns), schema=getattr(schema, name), preserve_index=False
    )
