"""The grid of weights, batch sizes and freezing, run by this project and by its baselines."""

import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torchvision

import bioimg.models.resnext_tiny  # noqa: F401  (registers resnext_tiny, for trials of this program)
from benchmarks import images, process_tree
from benchmarks.baselines.task import ConfigurationResult, Task, read_rows
from benchmarks.harness import Benchmark, Outcome, Target, device_name, write_rows
from bioimg.errors import unknown_value_error


class Baseline(NamedTuple):
    """The module of `benchmarks.baselines` that a contender is a program of, and what it does."""

    module: str
    description: str


BASELINES = {
    "ours": Baseline(
        "bioimg_grid",
        "this project, early stopping within cohorts; a lane for each GPU, else for each core",
    ),
    "ours-full": Baseline("bioimg_grid", "this project, every trial at full length"),
    "sequential": Baseline(
        "pytorch_loop",
        "ImageFolder and DataLoader, one trial after another: float32 on all cores (1 loading "
        "process), or autocast on a GPU (channels last, pinned memory, several processes)",
    ),
    "torchvision": Baseline(
        "pytorch_loop",
        "torchvision's reference recipe: its transforms, autocast; otherwise as sequential",
    ),
    "ray-asha": Baseline(
        "ray_documented",
        "a TorchTrainer for each trial, ASHA, sequential's training; a trial for each GPU or core",
    ),
    "ray": Baseline(
        "ray_documented",
        "as ray-asha, but every trial at full length",
    ),
}
BaselineName = Literal["ours", "ours-full", "sequential", "torchvision", "ray-asha", "ray"]
DEFAULT_BASELINES: tuple[BaselineName, ...] = (
    "ours",
    "ours-full",
    "sequential",
    "torchvision",
    "ray-asha",
)
SPEED_TARGETS = (
    ("ours-full", "sequential", 4.0),
    ("ours", "sequential", 10.0),
    ("ours", "ray-asha", 3.0),
)
"""Which is to be how many times as fast as which."""


@dataclass(frozen=True, kw_only=True)
class BaselineRun:
    """One run of a baseline, and the folder in which it worked."""

    folder: Path
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
    """12 configurations of ResNeXt-50: this project, a loop, torchvision's recipe, Ray's pattern.

    All of them train the same model on the same images for as many epochs, with the same batch
    sizes and seeds, and test the epoch with the lowest validation loss. They use a GPU if there is
    one. Times are of whole programs, from their start to their end.
    """

    folder: Path | None = None
    """images as CLASS/image; by default the synthetic ones"""
    images_per_class: int = 15
    """images of each class: two fifths to train, one to validate, two to test"""
    epochs: int = 6
    """epochs of each configuration"""
    batch_sizes: tuple[int, ...] = (8, 16, 32)
    """batch sizes, none larger than the training set"""
    weights: tuple[str, ...] = ()
    """files, or torchvision's names, of weights; by default two are drawn at random: times are
    equal"""
    model: str = "resnext50_32x4d"
    """name of a torchvision ResNet"""
    image_size: int = 150
    """side length of the images, in pixels"""
    only: tuple[BaselineName, ...] = DEFAULT_BASELINES
    """which contenders run"""
    repeats: int = 1
    """runs of each; medians are shown"""
    name: ClassVar[str] = "grid"

    def run(self) -> Outcome:
        failures: list[str] = []
        with tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            source = images.given_or_synthetic(self.folder, scratch / "synthetic", self.image_size)
            task = self.make_task(source, scratch)
            runs = {who: self._run_repeats(who, task, scratch, failures) for who in self.only}
            targets, findings = self.judge_runs(task, runs)
        rows = []
        for who, baseline_runs in runs.items():
            for run in baseline_runs:
                rows += [_configuration_row(who, run.cost.seconds, row) for row in run.rows]
        write_rows(rows, self.out / f"{self.name}-cells.parquet")
        return Outcome(
            f"{len(task.configurations())} configurations on {device_name()}",
            [summarise_runs(who, baseline_runs) for who, baseline_runs in runs.items()],
            targets,
            [*self._notes(source), *findings, *failures],
        )

    def judge_runs(
        self, task: Task, runs: Mapping[str, Sequence[BaselineRun]]
    ) -> tuple[list[Target], list[str]]:
        """Return the targets among the contenders that ran, and what else there is to say."""
        return grid_targets(runs), []

    def make_task(self, source: Path, scratch: Path) -> Task:
        """Return the task of all contenders, with its images and weights in `scratch`."""
        weights = [self._find_weights(name, scratch) for name in self.weights]
        if not weights:
            weights = [self._write_random_weights(scratch, seed) for seed in (0, 1)]
        folder = images.copy_subsets(source, scratch / "images", self.images_per_class)
        return Task(
            folder=str(folder),
            weights=tuple(weights),
            batch_sizes=self.batch_sizes,
            epochs=self.epochs,
            model=self.model,
            image_size=self.image_size,
        )

    def _notes(self, source: Path) -> list[str]:
        weights = "random, of two seeds: accuracies say little, times are the same"
        if self.weights:
            weights = ", ".join(self.weights)
        notes = [
            f"{self.images_per_class} images of each class from {source.name}, "
            f"{self.epochs} epochs; weights: {weights}"
        ]
        notes += [f"{who}: {BASELINES[who].description}" for who in self.only]
        if left_out := [who for who in BASELINES if who not in self.only]:
            notes.append(f"not run: {', '.join(left_out)} (see --only)")
        return notes

    def _find_weights(self, name: str, scratch: Path) -> str:
        """Return the file of weights, which is written if they have a name."""
        if Path(name).is_file():
            return str(Path(name).absolute())
        known = torchvision.models.get_model_weights(self.model).__members__
        if name not in known:
            raise unknown_value_error("weights", name, known, "It may also be a file.")
        file = scratch / f"{name}.pth"
        torch.save(known[name].get_state_dict(), file)
        return str(file)

    def _write_random_weights(self, scratch: Path, seed: int) -> str:
        torch.manual_seed(seed)
        file = scratch / f"random-{seed}.pth"
        torch.save(torchvision.models.get_model(self.model, weights=None).state_dict(), file)
        return str(file)

    def _run_repeats(
        self, who: str, task: Task, scratch: Path, failures: list[str]
    ) -> list[BaselineRun]:
        """Run a contender. If it fails, return no runs and add a message to `failures`.

        So the others' results aren't lost.
        """
        runs = []
        try:
            for number in range(self.repeats):
                runs.append(_run_baseline(who, task, scratch / f"{who}-{number}"))
        except process_tree.ProgramError as error:
            failures.append(f"{who} failed: {error}")
            return []
        return runs


def _run_baseline(who: str, task: Task, folder: Path) -> BaselineRun:
    folder.mkdir()
    task.write(folder / "task.json")
    module = f"benchmarks.baselines.{BASELINES[who].module}"
    cost = process_tree.measure_python(
        ["-m", module, who, str(folder)], BIOIMG_CACHE=str(folder / "cache")
    )
    return BaselineRun(folder=folder, cost=cost, rows=read_rows(folder))


def summarise_runs(who: str, runs: Sequence[BaselineRun]) -> dict[str, Any]:
    """Return a contender's row, with medians over its runs."""
    if not runs:
        return {"contender": who}
    epochs = [sum(row.epochs for row in run.rows) for run in runs]
    return {
        "contender": who,
        "seconds": _median_seconds(runs),
        "CPU seconds": statistics.median(run.cost.cpu_seconds for run in runs),
        "peak GiB": statistics.median(run.cost.peak_memory for run in runs) / 2**30,
        "epochs trained": statistics.median(epochs),
        "best val accuracy": statistics.median(run.best_val_accuracy for run in runs),
        "best test accuracy": statistics.median(run.best_test_accuracy for run in runs),
    }


def grid_targets(runs: Mapping[str, Sequence[BaselineRun]]) -> list[Target]:
    """Return the targets of this project among the contenders that ran."""
    targets = []
    for faster, slower, times in SPEED_TARGETS:
        if faster in runs and slower in runs:
            targets.append(speed_target(runs, faster, slower, times))
    if runs.get("ours") and runs.get("sequential"):
        targets.append(_accuracy_target(runs["ours"], runs["sequential"]))
    return targets


def speed_target(
    runs: Mapping[str, Sequence[BaselineRun]], faster: str, slower: str, times: float
) -> Target:
    """Require that one contender is so many times as fast as another one."""
    ratio = None
    if runs[faster] and runs[slower]:
        ratio = _median_seconds(runs[slower]) / _median_seconds(runs[faster])
    return Target(f"{faster} as fast as {slower}", ratio, times, "times")


def _median_seconds(runs: Sequence[BaselineRun]) -> float:
    return statistics.median(run.cost.seconds for run in runs)


def _accuracy_target(ours: Sequence[BaselineRun], sequential: Sequence[BaselineRun]) -> Target:
    """Require that early stopping costs no more test accuracy than one standard error of it."""
    our_accuracy = statistics.median(run.best_test_accuracy for run in ours)
    accuracy = statistics.median(run.best_test_accuracy for run in sequential)
    standard_error = math.sqrt(accuracy * (1 - accuracy) / sequential[0].rows[0].test_images)
    return Target(
        "best test accuracy of ours less sequential's",
        our_accuracy - accuracy,
        -standard_error,
        "(minus one standard error)",
    )


def _configuration_row(who: str, seconds: float, result: ConfigurationResult) -> dict[str, Any]:
    columns = result._asdict()
    configuration = columns.pop("configuration")
    return {
        "contender": who,
        "seconds": seconds,
        **configuration._asdict(),
        "weights": Path(configuration.weights).name,
        **columns,
    }
