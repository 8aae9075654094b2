"""This project, as `experiments/grid.py` runs it: `ours` with early stopping, `ours-full` with every trial at full length."""

import functools
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from benchmarks.contenders.task import Cell, Task, Trained, main
from bioimg import runner
from bioimg.config import TrialConfig
from bioimg.experiment import EarlyStopping, Experiment
from bioimg.flags import Settings
from bioimg.results.store import read


def experiment(task: Task, *, early_stopping: bool) -> Experiment:
    """The task as an experiment."""
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
    return Experiment(name="grid", base=base, axes=axes, early_stopping=rule if early_stopping else None)


def run(task: Task, folder: Path, *, early_stopping: bool, local: bool = False) -> Iterator[Trained]:
    """Run the task into `folder`/results."""
    asked = experiment(task, early_stopping=early_stopping)
    runner.run(asked, Settings(out=str(folder / "results"), local=local), Console(width=200))
    results = read(folder / "results")
    accuracies = results.epochs.set_index(["key", "epoch"])["val_accuracy"]
    for row in results.trials.to_dict("records"):
        yield Trained(
            Cell(row["weights"], row["batch_size"], row["freeze"]),
            epochs=row["epochs_run"],
            train_images=row["train_images"],
            val_images=row["val_images"],
            test_images=row["test_images"],
            val_accuracy=float(accuracies[row["key"], row["best_val_loss_epoch"]]),
            test_accuracy=row["test_accuracy"] if row["status"] == "completed" else None,
        )


if __name__ == "__main__":
    main(
        {
            "ours": functools.partial(run, early_stopping=True),
            "ours-full": functools.partial(run, early_stopping=False),
        }
    )
