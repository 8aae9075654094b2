"""What a trial costs besides its training."""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import images, lanes, process_tree
from benchmarks.baselines import ray_empty_trials
from benchmarks.harness import Benchmark, Outcome, Target

ONE_STEP_FLAGS = ("--batch-size", "408")
"""All training images of the phantom: one step."""


@dataclass(frozen=True, kw_only=True)
class OverheadBenchmark(Benchmark):
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
        light = {workers: self._run_tiny_trials(workers) for workers in (1, 2)}
        trainers = {workers: self._time_documented_trials(workers) for workers in (1, 2)}
        two_lanes, heavy = (
            lanes.run_seeds(4, *lanes.TINY_TRIAL_FLAGS, *ONE_STEP_FLAGS, lanes=2),
            self._run_resnext50(),
        )
        rows = [
            *(
                _overhead_row("lane", workers, ran.idle_seconds, ran)
                for workers, ran in light.items()
            ),
            _overhead_row("two lanes", 1, None, two_lanes),
            *(
                _overhead_row("a TorchTrainer for each trial", workers, gaps)
                for workers, gaps in trainers.items()
            ),
            _overhead_row("lane, ResNeXt-50 of random weights", 1, heavy.idle_seconds, heavy),
        ]
        a_lane = (two_lanes.cost.peak_memory - light[1].cost.peak_memory) / 2**30
        notes = [
            "first batch, first trial: seconds from the program's start",
            f"a second lane takes {a_lane:.2f} GiB",
        ]
        slowest = max(statistics.median(ran.idle_seconds) for ran in light.values())
        ratio = min(
            statistics.median(trainers[n]) / statistics.median(light[n].idle_seconds) for n in light
        )
        targets = [
            Target("from trial to trial", slowest, 0.15, "s", at_most=True),
            Target("against a TorchTrainer for each trial", ratio, 100.0, "times"),
            Target(
                "ResNeXt-50's first batch on a warm lane",
                statistics.median(heavy.idle_seconds),
                0.5,
                "s",
                at_most=True,
            ),
        ]
        return Outcome("From one trial's end to the next one's first batch", rows, targets, notes)

    def _run_tiny_trials(self, workers: int) -> lanes.GridRun:
        return lanes.run_seeds(
            self.trials,
            *lanes.TINY_TRIAL_FLAGS,
            *ONE_STEP_FLAGS,
            "--workers",
            str(workers),
            lanes=1,
        )

    def _run_resnext50(self) -> lanes.GridRun:
        with tempfile.TemporaryDirectory() as name:
            folder = images.copy_subsets(
                images.choose_source(self.folder, Path(name) / "phantom", 150),
                Path(name) / "images",
                10,
            )
            flags = [
                "--data",
                str(folder),
                "--split",
                "folder",
                "--model",
                "resnext50_32x4d",
                "--weights",
                "none",
            ]
            return lanes.run_seeds(
                self.heavy,
                *flags,
                "--freeze",
                "none",
                "--image-size",
                "150",
                "--batch-size",
                "8",
                "--epochs",
                "1",
                lanes=1,
            )

    def _time_documented_trials(self, workers: int) -> list[float]:
        with tempfile.TemporaryDirectory() as name:
            process_tree.measure_python(
                ["-m", "benchmarks.contenders.nothing", str(self.documented), str(workers), name]
            )
            return ray_empty_trials.seconds_between_trials(Path(name))


def _overhead_row(
    way: str, workers: int, gaps: list[float] | None, ran: lanes.GridRun | None = None
) -> dict[str, Any]:
    """A row; waits between trials are only meaningful on one lane, and the rest where whole programs are comparable."""
    row: dict[str, Any] = {"": way, "workers": workers}
    if gaps:
        row |= {
            "trials": len(gaps) + 1,
            "median s": float(statistics.median(gaps)),
            "longest s": float(max(gaps)),
        }
    if ran:
        started = {
            "first batch": float(ran.seconds_to_first_batch),
            "first trial": float(ran.seconds_to_first_trial),
        }
        row |= {**started, "peak GiB": ran.cost.peak_memory / 2**30}
    return row
