"""What a trial costs besides its training."""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import images, lanes, process_tree
from benchmarks.baselines import ray_empty_trials
from benchmarks.harness import Benchmark, Outcome, Target

TINY_FLAGS = (*lanes.TINY_TRIAL_FLAGS, "--batch-size", "408")
"""All training images of the synthetic set in one step."""
RESNEXT50_FLAGS = (
    *("--split", "folder"),
    *("--model", "resnext50_32x4d"),
    *("--weights", "none"),
    *("--freeze", "none"),
    *("--image-size", "150"),
    *("--batch-size", "8"),
    *("--epochs", "1"),
    *("--learning-rate", "5e-4"),
)
RESNEXT50_IMAGES_PER_CLASS = 10
TWO_LANES_TRIALS = 4


@dataclass(frozen=True, kw_only=True)
class OverheadBenchmark(Benchmark):
    """From one trial's end to the next one's first batch: on a lane, and with TorchTrainers.

    Both train on almost nothing, with 1 and with 2 workers (DDP) for each trial, one trial after
    another. Then the same for trials of ResNeXt-50 on a lane, the time from the program's start,
    and the memory that a second lane takes.
    """

    folder: Path | None = None
    """images for ResNeXt-50, as CLASS/image; by default the synthetic ones"""
    trials: int = 12
    """trials on a lane"""
    documented: int = 3
    """trials in the documented way, which is slow"""
    heavy: int = 4
    """trials of ResNeXt-50 on a lane"""

    def run(self) -> Outcome:
        lane_runs = {workers: self._run_tiny_trials(workers) for workers in (1, 2)}
        trainer_gaps = {workers: self._time_documented_trials(workers) for workers in (1, 2)}
        two_lanes = lanes.run_seeds(TWO_LANES_TRIALS, *TINY_FLAGS, lanes=2)
        resnext50 = self._run_resnext50()

        rows = []
        for workers, ran in lane_runs.items():
            rows.append(overhead_row("lane", workers, ran.idle_seconds, ran))
        rows.append(overhead_row("two lanes", 1, None, two_lanes))
        for workers, gaps in trainer_gaps.items():
            rows.append(overhead_row("a TorchTrainer for each trial", workers, gaps))
        name = "lane, ResNeXt-50 of random weights"
        rows.append(overhead_row(name, 1, resnext50.idle_seconds, resnext50))

        lane_gaps = {n: statistics.median(ran.idle_seconds) for n, ran in lane_runs.items()}
        ratios = [statistics.median(trainer_gaps[n]) / gap for n, gap in lane_gaps.items()]
        resnext50_gap = statistics.median(resnext50.idle_seconds)
        targets = [
            Target("from trial to trial", max(lane_gaps.values()), 0.15, "s", at_most=True),
            Target("against a TorchTrainer for each trial", min(ratios), 100.0, "times"),
            Target(
                "ResNeXt-50's first batch on a warm lane", resnext50_gap, 0.5, "s", at_most=True
            ),
        ]
        lane_memory = (two_lanes.cost.peak_memory - lane_runs[1].cost.peak_memory) / 2**30
        notes = [
            "first batch, first trial: seconds from the program's start",
            f"a second lane takes {lane_memory:.2f} GiB",
        ]
        return Outcome("From one trial's end to the next one's first batch", rows, targets, notes)

    def _run_tiny_trials(self, workers: int) -> lanes.GridRun:
        return lanes.run_seeds(self.trials, *TINY_FLAGS, "--workers", str(workers), lanes=1)

    def _run_resnext50(self) -> lanes.GridRun:
        with tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            source = images.given_or_synthetic(self.folder, scratch / "synthetic", 150)
            folder = images.copy_subsets(source, scratch / "images", RESNEXT50_IMAGES_PER_CLASS)
            return lanes.run_seeds(self.heavy, "--data", str(folder), *RESNEXT50_FLAGS, lanes=1)

    def _time_documented_trials(self, workers: int) -> list[float]:
        program = ("-m", "benchmarks.baselines.ray_empty_trials")
        with tempfile.TemporaryDirectory() as folder:
            process_tree.measure_python([*program, str(self.documented), str(workers), folder])
            return ray_empty_trials.seconds_between_trials(Path(folder))


def overhead_row(
    name: str, workers: int, gaps: list[float] | None, ran: lanes.GridRun | None = None
) -> dict[str, Any]:
    """Return a row of the table.

    Waits between trials are only meaningful on one lane, and the rest only for whole programs that
    are comparable.
    """
    row: dict[str, Any] = {"": name, "workers": workers}
    if gaps:
        row["trials"] = len(gaps) + 1
        row["median s"] = float(statistics.median(gaps))
        row["longest s"] = float(max(gaps))
    if ran:
        row["first batch"] = ran.seconds_to_first_batch
        row["first trial"] = ran.seconds_to_first_trial
        row["peak GiB"] = ran.cost.peak_memory / 2**30
    return row
