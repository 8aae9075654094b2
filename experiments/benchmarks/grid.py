"""The grid of weights, batch sizes and freezing, run by this project and by those it is compared with."""

import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
import torchvision

import bioimg.models.resnext_tiny  # noqa: F401  (registers resnext_tiny, for trials of this program)
from benchmarks import images, process_tree
from benchmarks.baselines.task import ConfigurationResult, Task, read_rows
from benchmarks.harness import Benchmark, Outcome, Target, measurement_context

CONTENDERS = {
    "ours": (
        "ours",
        "this project, early stopping within cohorts; a lane with one thread for each core",
    ),
    "ours-full": ("ours", "this project, every trial at full length"),
    "sequential": (
        "plain",
        "ImageFolder, DataLoader (1 process), float32, one trial after another on all cores",
    ),
    "torchvision": (
        "plain",
        "torchvision's reference recipe: its transforms, autocast to bfloat16; otherwise as sequential",
    ),
    "ray-asha": (
        "documented",
        "a TorchTrainer for each trial, ASHA, the sequential loop's training; a trial for each core",
    ),
    "ray": (
        "documented",
        "a TorchTrainer for each trial, no ASHA, the sequential loop's training; a trial for each core",
    ),
    "ray-asha-bfloat16": (
        "documented",
        "a TorchTrainer for each trial, ASHA, torchvision's training; a trial for each core",
    ),
}
ContenderName = Literal[
    "ours", "ours-full", "sequential", "torchvision", "ray-asha", "ray", "ray-asha-bfloat16"
]
DEFAULT_CONTENDERS: tuple[ContenderName, ...] = (
    "ours",
    "ours-full",
    "sequential",
    "torchvision",
    "ray-asha",
)


@dataclass(frozen=True, kw_only=True)
class ContenderRun:
    """One run of a contender."""

    cost: process_tree.ProcessCost
    rows: list[ConfigurationResult]

    @property
    def best_val_accuracy(self) -> float:
        """The best of all configurations."""
        return max(row.val_accuracy for row in self.rows)

    @property
    def best_test_accuracy(self) -> float:
        """The best of all configurations that were trained in full."""
        return max(row.test_accuracy for row in self.rows if row.test_accuracy is not None)


@dataclass(frozen=True, kw_only=True)
class GridBenchmark(Benchmark):
    """12 configurations of ResNeXt-50: this project, a sequential loop, torchvision's recipe, and Ray's documented pattern.

    All of them train the same model on the same images for as many epochs, with the same batch sizes and seeds, and test the
    epoch with the lowest validation loss. Times are of whole programs, from their start to their end.
    """

    folder: Path | None = None
    """images as CLASS/image; by default real tiles beside the project, else the phantom"""
    images_per_class: int = 15
    """images of each class: two fifths to train, one to validate, two to test"""
    epochs: int = 6
    """epochs of each configuration"""
    batch_sizes: tuple[int, ...] = (8, 16, 32)
    """batch sizes, none larger than the training set"""
    weights: tuple[Path, ...] = ()
    """files of weights that fit the model; by default two are drawn at random, since others may be missing; times are equal"""
    model: str = "resnext50_32x4d"
    """name of a torchvision ResNet"""
    image_size: int = 150
    """side length of the images, in pixels"""
    only: tuple[ContenderName, ...] = DEFAULT_CONTENDERS
    """which contenders run"""
    repeats: int = 1
    """runs of each; medians are shown"""

    def run(self) -> Outcome:
        with tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            source = images.choose_source(self.folder, scratch / "phantom", self.image_size)
            task = self.make_task(source, scratch)
            broken: list[str] = []
            runs = {who: self._run_repeats(who, task, scratch, broken) for who in self.only}
        cells = [
            _configuration_row(who, run.cost.seconds, row)
            for who in runs
            for run in runs[who]
            for row in run.rows
        ]
        self.out.mkdir(parents=True, exist_ok=True)
        pd.DataFrame([{**cell, **measurement_context()} for cell in cells]).to_parquet(
            self.out / "grid-cells.parquet"
        )
        drawn = (
            "files"
            if self.weights
            else "random, of two seeds: accuracies say little, times are the same"
        )
        about = f"{self.images_per_class} images of each class from {source.name}, {self.epochs} epochs; weights: {drawn}"
        notes = [about, *(f"{who}: {CONTENDERS[who][1]}" for who in self.only), *broken]
        if left_out := [who for who in CONTENDERS if who not in self.only]:
            notes.append(f"not run: {', '.join(left_out)} (see --only)")
        return Outcome(
            f"{len(task.configurations())} configurations",
            [contender_summary(who, runs[who]) for who in runs],
            grid_targets(runs),
            notes,
        )

    def make_task(self, source: Path, scratch: Path) -> Task:
        """The task of all contenders, with its images and weights in `scratch`."""
        weights = [str(path.absolute()) for path in self.weights] or [
            self._write_random_weights(scratch, seed) for seed in (0, 1)
        ]
        return Task(
            folder=str(images.copy_subsets(source, scratch / "images", self.images_per_class)),
            weights=tuple(weights),
            batch_sizes=self.batch_sizes,
            epochs=self.epochs,
            model=self.model,
            image_size=self.image_size,
        )

    def _write_random_weights(self, scratch: Path, seed: int) -> str:
        torch.manual_seed(seed)
        file = scratch / f"random-{seed}.pth"
        torch.save(torchvision.models.get_model(self.model, weights=None).state_dict(), file)
        return str(file)

    def _run_repeats(
        self, who: str, task: Task, scratch: Path, broken: list[str]
    ) -> list[ContenderRun]:
        """Every run of a contender; none, and a message in `broken`, if one fails, so that the others' results aren't lost."""
        try:
            return [
                _run_contender(who, task, scratch / f"{who}-{number}")
                for number in range(self.repeats)
            ]
        except process_tree.ProgramError as error:
            broken.append(f"{who} failed: {error}")
            return []


def _run_contender(who: str, task: Task, folder: Path) -> ContenderRun:
    folder.mkdir()
    task.write(folder / "task.json")
    module = f"benchmarks.contenders.{CONTENDERS[who][0]}"
    cost = process_tree.measure_python(
        ["-m", module, who, str(folder)], BIOIMG_CACHE=str(folder / "cache")
    )
    return ContenderRun(cost=cost, rows=read_rows(folder))


def contender_summary(who: str, runs: Sequence[ContenderRun]) -> dict[str, Any]:
    """A contender's row: medians over its runs."""
    if not runs:
        return {"contender": who}
    return {
        "contender": who,
        "seconds": statistics.median([run.cost.seconds for run in runs]),
        "CPU seconds": statistics.median([run.cost.cpu_seconds for run in runs]),
        "peak GiB": statistics.median([run.cost.peak_memory for run in runs]) / 2**30,
        "epochs trained": statistics.median([sum(row.epochs for row in run.rows) for run in runs]),
        "best val accuracy": statistics.median([run.best_val_accuracy for run in runs]),
        "best test accuracy": statistics.median([run.best_test_accuracy for run in runs]),
    }


def grid_targets(runs: Mapping[str, Sequence[ContenderRun]]) -> list[Target]:
    """The targets of this project among the contenders that ran."""
    asked = [
        ("ours-full", "sequential", 4.0),
        ("ours", "sequential", 10.0),
        ("ours", "ray-asha", 3.0),
    ]
    found = [
        Target(f"{mine} as fast as {other}", _time_ratio(runs[other], runs[mine]), times, "times")
        for mine, other, times in asked
        if mine in runs and other in runs
    ]
    if runs.get("ours") and runs.get("sequential"):
        found.append(_accuracy_target(runs["ours"], runs["sequential"]))
    return found


def _time_ratio(theirs: Sequence[ContenderRun], ours: Sequence[ContenderRun]) -> float | None:
    times = [statistics.median(run.cost.seconds for run in runs) for runs in (theirs, ours) if runs]
    return times[0] / times[1] if len(times) == 2 else None


def _accuracy_target(ours: Sequence[ContenderRun], theirs: Sequence[ContenderRun]) -> Target:
    """Early stopping mustn't cost more test accuracy than one standard error of it."""
    mine, other = (
        statistics.median(run.best_test_accuracy for run in runs) for runs in (ours, theirs)
    )
    error = math.sqrt(other * (1 - other) / theirs[0].rows[0].test_images)
    return Target(
        "best test accuracy of ours less sequential's",
        mine - other,
        -error,
        "(minus one standard error)",
    )


def _configuration_row(who: str, seconds: float, row: ConfigurationResult) -> dict[str, Any]:
    known = {name: value for name, value in row._asdict().items() if name != "cell"}
    return {
        "contender": who,
        "seconds": seconds,
        **row.cell._asdict(),
        "weights": Path(row.cell.weights).name,
        **known,
    }
