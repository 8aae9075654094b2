"""Time and memory that don't grow with the number of trials."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import lanes
from benchmarks.harness import Benchmark, Outcome, Target

PARTS = 10
"""Parts of a run that are compared."""
NOISE_IMAGES = 24
"""Images, enough for a trial."""


@dataclass(frozen=True, kw_only=True)
class ScaleBenchmark(Benchmark):
    """1,000 trials of almost no work on lanes: the last ones take no more time and memory."""

    trials: int = 1000
    """trials of almost no work; the first tenth is compared with the last"""
    lane_count: int = 2
    """number of lanes"""

    def run(self) -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            images = _write_noise_images(Path(folder))
            flags = ("--data", str(images), "--batch-size", "8")
            ran = lanes.run_seeds(
                self.trials, *lanes.TINY_TRIAL_FLAGS, *flags, lanes=self.lane_count
            )
        rows = tenth_rows(ran)
        targets = []
        for what, column in (("time", "seconds per trial"), ("memory", "GiB")):
            growth = rows[-1][column] / rows[0][column]
            name = f"the last tenth of the trials against the first, {what}"
            targets.append(Target(name, growth, 1.2, "times", at_most=True))
        return Outcome(f"{self.trials} trials on {self.lane_count} lanes", rows, targets)


def tenth_rows(ran: lanes.GridRun) -> list[dict[str, Any]]:
    """Divide the trials into ten parts in the order of their ends.

    Each has its time per trial, and the memory at its end. The first hundredth of the trials, while
    some lane may still be starting, isn't part of the first tenth's time.
    """
    ends = np.sort(ran.trials["ended"].to_numpy())
    last_trials = [int(part[-1]) for part in np.array_split(np.arange(len(ends)), PARTS)]
    previous = len(ends) // 100
    rows = []
    for last in last_trials:
        row = {
            "trials": last + 1,
            "seconds per trial": float(ends[last] - ends[previous]) / (last - previous),
            "GiB": _memory_gib(ran, ran.cost.memory, ends[last]),
            "of the program itself": _memory_gib(ran, ran.cost.own_memory, ends[last]),
        }
        rows.append(row)
        previous = last
    return rows


def _memory_gib(ran: lanes.GridRun, samples: list[int], moment: float) -> float:
    return float(np.interp(moment, ran.cost.sample_times, samples)) / 2**30


def _write_noise_images(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    for number in range(NOISE_IMAGES):
        file = folder / "images" / "AB"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(256, size=(32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return folder / "images"
