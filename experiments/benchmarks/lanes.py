"""`experiments/grid.py` as a user starts it, for parts that measure its lanes."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from benchmarks import process_tree
from bioimg.results.result_store import read_results

TINY_TRIAL_FLAGS = (
    *("--model", "resnext_tiny"),
    *("--weights", "none"),
    *("--image-size", "32"),
    *("--freeze", "none"),
    *("--epochs", "1"),
    *("--learning-rate", "5e-4"),
)
"""Flags of trials with almost no work."""


@dataclass(frozen=True)
class GridRun:
    """What a run cost, its trials in the order of their start, and their epochs.

    The trials' columns `started` and `ended` are in seconds since the epoch.
    """

    cost: process_tree.ProcessCost
    trials: pd.DataFrame
    epochs: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def idle_seconds(self) -> list[float]:
        """Seconds from each trial's end to the next one's first batch, if there is one lane."""
        next_starts = self.trials["started"].iloc[1:].to_numpy()
        ends = self.trials["ended"].iloc[:-1].to_numpy()
        return list(next_starts - ends)

    @property
    def seconds_to_first_batch(self) -> float:
        """Seconds from the program's start."""
        return float(self.trials["started"].min() - self.cost.started_at)

    @property
    def seconds_to_first_trial(self) -> float:
        """Seconds from the program's start to the end of the first trial, with its test and row."""
        return float(self.trials["ended"].min() - self.cost.started_at)


def run_seeds(trials: int, *flags: str, lanes: int) -> GridRun:
    """Run this many seeds of one configuration on lanes, without early stopping."""
    seeds = map(str, range(trials))
    return _run_grid(["--seed", *seeds, "--lanes", str(lanes), "--no-early-stopping", *flags])


def _run_grid(flags: Sequence[str]) -> GridRun:
    program = str(process_tree.EXPERIMENTS_FOLDER / "grid.py")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results"
        cost = process_tree.measure_python(
            [program, *flags, "--out", str(out)], BIOIMG_CACHE=f"{folder}/cache"
        )
        results = read_results(out)
    rows = results.trials
    for column in ("started", "ended"):
        rows[column] = rows[f"{column}_at"].astype("int64") / 1e6
    return GridRun(cost, rows.sort_values("started"), results.epochs)
