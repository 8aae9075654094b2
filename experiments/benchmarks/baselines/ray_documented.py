"""Ray Train and Ray Tune as Ray's documentation combines them: each trial starts a TorchTrainer.

See docs.ray.io, "Hyperparameter Tuning with Ray Tune" in the user guides of Ray Train. The worker's
loop is that of `pytorch_loop`. As many trials run side by side as there are GPUs, without any as
many as there are cores, with one thread each. No checkpoints are kept, which is in its favour.
"""

import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# in its favour: reports are seen sooner than by default
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")

import ray
import ray.train
import ray.train.torch
from ray import tune
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler

from benchmarks.baselines import pytorch_loop
from benchmarks.baselines.task import (
    Configuration,
    ConfigurationResult,
    Task,
    run_baseline_program,
)


def train_worker(config: dict[str, Any]) -> None:
    """Train one configuration, as a worker of Ray Train."""
    task = config["task"]
    setup = pytorch_loop.sequential_setup(task.image_size, ray.train.torch.get_device())
    configuration = Configuration(*config["configuration"])
    for row in pytorch_loop.train_configuration(task, configuration, setup):
        ray.train.report(row)


def run_trial(config: dict[str, Any]) -> None:
    """Start a TorchTrainer, as a trial of Ray Tune."""
    run_config = ray.train.RunConfig(
        name=tune.get_context().get_trial_id(),
        storage_path=config["storage"],
        callbacks=[TuneReportCallback()],
    )
    TorchTrainer(
        train_worker,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if config["use_gpu"] else "gloo"),
        scaling_config=ray.train.ScalingConfig(num_workers=1, use_gpu=config["use_gpu"]),
        run_config=run_config,
    ).fit()


def run_task(task: Task, folder: Path, *, early_stopping: bool) -> Iterator[ConfigurationResult]:
    """Run the task, under ASHA or without. Yield its configurations.

    Raises:
        RuntimeError: a trial failed.
    """
    ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR)
    resources = ray.cluster_resources()
    use_gpu = resources.get("GPU", 0) >= 1
    storage = str((folder / "ray").absolute())
    asha = ASHAScheduler(
        "epochs",
        max_t=task.epochs,
        grace_period=task.grace_period,
        reduction_factor=task.reduction_factor,
    )
    results = tune.Tuner(
        tune.with_resources(run_trial, {"memory": 1e8}),
        param_space={
            "task": task,
            "storage": storage,
            "use_gpu": use_gpu,
            "configuration": tune.grid_search(task.configurations()),
        },
        tune_config=tune.TuneConfig(
            metric="epoch_val_accuracy",
            mode="max",
            scheduler=asha if early_stopping else None,
            max_concurrent_trials=int(resources["GPU" if use_gpu else "CPU"]),
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
        configuration = Configuration(*result.config["configuration"])
        yield pytorch_loop.configuration_result(configuration, result.metrics)


if __name__ == "__main__":
    run_baseline_program(
        {
            "ray": functools.partial(run_task, early_stopping=False),
            "ray-asha": functools.partial(run_task, early_stopping=True),
        }
    )
