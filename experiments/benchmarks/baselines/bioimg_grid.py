"""This project, as `experiments/grid.py` runs it.

`ours` stops trials early; `ours-full` runs every trial at full length.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from benchmarks.baselines.task import (
    Configuration,
    ConfigurationResult,
    Task,
    run_baseline_program,
)
from bioimg import runner
from bioimg.config import TrialConfig
from bioimg.experiment import EarlyStopping, Experiment
from bioimg.results.result_store import read_results
from bioimg.run_options import RunOptions


def build_experiment(task: Task, *, early_stopping: bool) -> Experiment:
    """Return the task as an experiment."""
    rule = EarlyStopping(grace_period=task.grace_period, reduction_factor=task.reduction_factor)
    base = TrialConfig(
        data=task.folder,
        split="folder",
        model=task.model,
        image_size=task.image_size,
        epochs=task.epochs,
        learning_rate=task.learning_rate,
        weight_decay=task.weight_decay,
        seed=task.seed,
    )
    axes = {"weights": task.weights, "batch_size": task.batch_sizes, "freeze": task.freezes}
    return Experiment(
        name="grid", base=base, axes=axes, early_stopping=rule if early_stopping else None
    )


def run_task(
    task: Task, folder: Path, *, early_stopping: bool, local: bool = False
) -> Iterator[ConfigurationResult]:
    """Run the task into `folder`/results. Yield its configurations."""
    experiment = build_experiment(task, early_stopping=early_stopping)
    out = folder / "results"
    runner.run_experiment(experiment, RunOptions(out=str(out), local=local), Console(width=200))
    results = read_results(out)
    accuracies = results.epochs.set_index(["key", "epoch"])["val_accuracy"]
    for row in results.trials.to_dict("records"):
        yield ConfigurationResult(
            Configuration(row["weights"], row["batch_size"], row["freeze"]),
            epochs=row["epochs_run"],
            train_images=row["train_images"],
            val_images=row["val_images"],
            test_images=row["test_images"],
            val_accuracy=float(accuracies[row["key"], row["best_val_loss_epoch"]]),
            test_accuracy=row["test_accuracy"] if row["status"] == "completed" else None,
        )


if __name__ == "__main__":
    run_baseline_program(
        {
            "ours": functools.partial(run_task, early_stopping=True),
            "ours-full": functools.partial(run_task, early_stopping=False),
        }
    )
