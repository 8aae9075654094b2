"""What a trial costs besides its training."""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import images, lanes, tree
from benchmarks.contenders import nothing
from benchmarks.frame import Outcome, Part, Target

BATCH = ("--batch-size", "408")
"""All training images of the phantom: one step."""


@dataclass(frozen=True, kw_only=True)
class Overhead(Part):
    """From one trial's end to the next one's first batch: on a lane, and with a TorchTrainer for each trial.

    Both train on almost nothing, with 1 and with 2 workers (DDP) for each trial, one trial after another. Then the same for
    trials of ResNeXt-50 on a lane, the time from the program's start, and the memory that a second lane takes.
    """

    folder: Path | None = None
    """images for ResNeXt-50, as CLASS/image; by default real tiles beside the project, else the phantom"""
    trials: int = 12
    """trials on a lane"""
    documented: int = 3
    """trials in the documented way, which is slow"""
    heavy: int = 4
    """trials of ResNeXt-50 on a lane"""

    def run(self) -> Outcome:
        light = {workers: self._light(workers) for workers in (1, 2)}
        trainers = {workers: self._documented(workers) for workers in (1, 2)}
        two_lanes, heavy = lanes.run(4, *lanes.TINY, *BATCH, lanes=2), self._heavy()
        rows = [
            *(_row("lane", workers, ran.gaps, ran) for workers, ran in light.items()),
            _row("two lanes", 1, None, two_lanes),
            *(_row("a TorchTrainer for each trial", workers, gaps) for workers, gaps in trainers.items()),
            _row("lane, ResNeXt-50 of random weights", 1, heavy.gaps, heavy),
        ]
        a_lane = (two_lanes.cost.peak_memory - light[1].cost.peak_memory) / 2**30
        notes = ["first batch, first trial: seconds from the program's start", f"a second lane takes {a_lane:.2f} GiB"]
        slowest = max(statistics.median(ran.gaps) for ran in light.values())
        ratio = min(statistics.median(trainers[n]) / statistics.median(light[n].gaps) for n in light)
        targets = [
            Target("from trial to trial", slowest, 0.15, "s", at_most=True),
            Target("against a TorchTrainer for each trial", ratio, 100.0, "times"),
            Target("ResNeXt-50's first batch on a warm lane", statistics.median(heavy.gaps), 0.5, "s", at_most=True),
        ]
        return Outcome("From one trial's end to the next one's first batch", rows, targets, notes)

    def _light(self, workers: int) -> lanes.Ran:
        return lanes.run(self.trials, *lanes.TINY, *BATCH, "--workers", str(workers), lanes=1)

    def _heavy(self) -> lanes.Ran:
        with tempfile.TemporaryDirectory() as name:
            folder = images.parted(images.source(self.folder, Path(name) / "phantom", 150), Path(name) / "images", 10)
            flags = ["--data", str(folder), "--split", "folder", "--model", "resnext50_32x4d", "--weights", "none"]
            return lanes.run(
                self.heavy, *flags, "--freeze", "none", "--image-size", "150", "--batch-size", "8", "--epochs", "1", lanes=1
            )

    def _documented(self, workers: int) -> list[float]:
        with tempfile.TemporaryDirectory() as name:
            tree.python(["-m", "benchmarks.contenders.nothing", str(self.documented), str(workers), name])
            return nothing.gaps(Path(name))


def _row(way: str, workers: int, gaps: list[float] | None, ran: lanes.Ran | None = None) -> dict[str, Any]:
    """A row; waits between trials are only meaningful on one lane, and the rest where whole programs are comparable."""
    row: dict[str, Any] = {"": way, "workers": workers}
    if gaps:
        row |= {"trials": len(gaps) + 1, "median s": float(statistics.median(gaps)), "longest s": float(max(gaps))}
    if ran:
        started = {"first batch": float(ran.first_batch), "first trial": float(ran.first_trial)}
        row |= {**started, "peak GiB": ran.cost.peak_memory / 2**30}
    return row
