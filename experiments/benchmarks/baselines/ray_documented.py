"""Ray Train and Ray Tune as Ray's documentation combines them: a Tune trial that starts a TorchTrainer of its own.

See docs.ray.io, "Hyperparameter Tuning with Ray Tune" in the user guides of Ray Train. The worker's loop is the plain one.
As many trials run side by side as there are cores, with one thread each. No checkpoints are kept, which is in its favour.
"""

import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2"
)  # in its favour: reports are seen sooner than by default

import ray
import ray.train
from ray import tune
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler

from benchmarks.baselines import pytorch_loop
from benchmarks.baselines.task import (
    Configuration,
    ConfigurationResult,
    Task,
    run_contender_program,
)

TRAINING_SETUPS = {
    "float32": pytorch_loop.sequential_setup,
    "bfloat16": pytorch_loop.torchvision_setup,
}


def train_worker(config: dict[str, Any]) -> None:
    """The function of a Train worker."""
    task, cell = config["task"], Configuration(*config["cell"])
    for row in pytorch_loop.train_configuration(
        task, cell, TRAINING_SETUPS[config["recipe"]](task.image_size)
    ):
        ray.train.report(row)


def trial_driver(config: dict[str, Any]) -> None:
    """The function of a Tune trial."""
    TorchTrainer(
        train_worker,
        train_loop_config=config,
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(
            name=tune.get_context().get_trial_id(),
            storage_path=config["storage"],
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def run_task(
    task: Task, folder: Path, *, early_stopping: bool, recipe: str = "float32"
) -> Iterator[ConfigurationResult]:
    """Run the task, under ASHA or without.

    Raises:
        RuntimeError: a trial failed.
    """
    ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR)
    storage = str((folder / "ray").absolute())
    asha = ASHAScheduler(
        "epochs",
        max_t=task.epochs,
        grace_period=task.grace_period,
        reduction_factor=task.reduction_factor,
    )
    results = tune.Tuner(
        tune.with_resources(trial_driver, {"memory": 1e8}),
        param_space={
            "task": task,
            "recipe": recipe,
            "storage": storage,
            "cell": tune.grid_search(task.configurations()),
        },
        tune_config=tune.TuneConfig(
            metric="epoch_val_accuracy",
            mode="max",
            scheduler=asha if early_stopping else None,
            max_concurrent_trials=int(ray.cluster_resources()["CPU"]),
        ),
        run_config=tune.RunConfig(name="tune", storage_path=storage, verbose=0),
    ).fit()
    if results.errors:
        raise RuntimeError(
            f"{len(results.errors)} trials failed, the first with {results.errors[0]}"
        )
    for result in results:
        assert result.config is not None
        assert result.metrics is not None
        yield pytorch_loop.configuration_result(
            Configuration(*result.config["cell"]), result.metrics
        )


if __name__ == "__main__":
    run_contender_program(
        {
            "ray": functools.partial(run_task, early_stopping=False),
            "ray-asha": functools.partial(run_task, early_stopping=True),
            "ray-asha-bfloat16": functools.partial(
                run_task, early_stopping=True, recipe="bfloat16"
            ),
        }
    )
