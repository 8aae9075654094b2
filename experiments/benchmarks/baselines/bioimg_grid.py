"""This project, as `experiments/grid.py` runs it.

`ours` stops trials early; `ours-full` runs every trial at full length.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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

SMALLEST_PROBABILITY = 1e-30
"""Probabilities that float32 rounds to zero have finite losses by it."""


def build_experiment(task: Task, *, early_stopping: bool) -> Experiment:
    """Return the task as an experiment."""
    rule = EarlyStopping(grace_period=task.grace_period, reduction_factor=task.reduction_factor)
    base = TrialConfig(
        data=task.folder,
        split="folder",
        model=task.model,
        image_size=task.image_size,
        epochs=task.epochs,
        learning_rate=task.learning_rates[0],
        head_rate_factor=task.head_rate_factor,
        weight_decay=task.weight_decay,
        seed=task.seed,
    )
    axes = {
        "weights": task.weights,
        "batch_size": task.batch_sizes,
        "freeze": task.freezes,
        "learning_rate": task.learning_rates,
    }
    return Experiment(
        name="grid",
        base=base,
        axes=axes,
        early_stopping=rule if early_stopping else None,
        tune=("learning_rate",) if len(task.learning_rates) > 1 else (),
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
        predictions = results.predictions[results.predictions["key"].eq(row["key"])]
        yield ConfigurationResult(
            Configuration(row["weights"], row["batch_size"], row["freeze"], row["learning_rate"]),
            epochs=row["epochs_run"],
            train_images=row["train_images"],
            val_images=row["val_images"],
            test_images=row["test_images"],
            val_accuracy=float(accuracies[row["key"], row["best_val_loss_epoch"]]),
            **image_results(predictions),
        )


def image_results(predictions: pd.DataFrame) -> dict[str, Any]:
    """Return the fields of `ConfigurationResult` that depend on a trial's predictions, if any.

    Images are in ImageFolder's order.
    """
    if predictions.empty:
        return {"test_accuracy": None, "val_losses": None, "test_correct": None}
    predictions = predictions.sort_values(["label", "image"])
    val = predictions[predictions["subset"].eq("val")]
    test = predictions[predictions["subset"].eq("test")]
    probabilities = np.stack(val["probabilities"].tolist())
    of_labels = np.take_along_axis(probabilities, val[["label"]].to_numpy(), axis=1)[:, 0]
    correct = test["label"].eq(test["prediction"])
    return {
        "test_accuracy": float(correct.mean()),
        "val_losses": (-np.log(of_labels.clip(SMALLEST_PROBABILITY))).tolist(),
        "test_correct": correct.tolist(),
    }


if __name__ == "__main__":
    run_baseline_program(
        {
            "ours": functools.partial(run_task, early_stopping=True),
            "ours-full": functools.partial(run_task, early_stopping=False),
        }
    )
