"""Ray's documented pattern on trials of no work.

The program takes TRIALS WORKERS FOLDER. It leaves a file in FOLDER for each trial's first step,
named after its time. Actors of trials are reused, which is in its favour.
"""

import itertools
import logging
import sys
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray import tune
from ray.train.torch import TorchConfig, TorchTrainer


def empty_worker(config: dict[str, Any]) -> None:
    """Note the time, as a worker of Ray Train."""
    if ray.train.get_context().get_world_rank() == 0:
        config["folder"].joinpath(f"{time.time()}.started").touch()


def run_trial(config: dict[str, Any]) -> None:
    """Start a TorchTrainer, as a trial of Ray Tune."""
    run_config = ray.train.RunConfig(
        name=str(config["number"]), storage_path=str(config["folder"] / "ray")
    )
    TorchTrainer(
        empty_worker,
        train_loop_config=config,
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ray.train.ScalingConfig(num_workers=config["workers"]),
        run_config=run_config,
    ).fit()


def main(trials: int, workers: int, folder: Path) -> None:
    """Run this many trials, one after another."""
    ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR)
    tune.Tuner(
        tune.with_resources(run_trial, {"memory": 1e8}),
        param_space={
            "number": tune.grid_search(list(range(trials))),
            "workers": workers,
            "folder": folder,
        },
        tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=True),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder / "ray"), verbose=0),
    ).fit()


def seconds_between_trials(folder: Path) -> list[float]:
    """Return the seconds from each trial's first step to the next trial's."""
    times = sorted(float(path.stem) for path in folder.glob("*.started"))
    return [later - earlier for earlier, later in itertools.pairwise(times)]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
