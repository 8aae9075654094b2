"""Ray's documented pattern on trials of no work.

TRIALS WORKERS FOLDER leaves a file in FOLDER for each trial's first step, named after its time. Drivers of trials are reused,
which is in its favour.
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
    """The function of a Train worker."""
    if ray.train.get_context().get_world_rank() == 0:
        config["folder"].joinpath(f"{time.time()}.started").touch()


def trial_driver(config: dict[str, Any]) -> None:
    """The function of a Tune trial."""
    TorchTrainer(
        empty_worker,
        train_loop_config=config,
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ray.train.ScalingConfig(num_workers=config["workers"]),
        run_config=ray.train.RunConfig(
            name=str(config["number"]), storage_path=str(config["folder"] / "ray")
        ),
    ).fit()


def main(trials: int, workers: int, folder: Path) -> None:
    """Run so many trials, one after another."""
    ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR)
    tune.Tuner(
        tune.with_resources(trial_driver, {"memory": 1e8}),
        param_space={
            "number": tune.grid_search(list(range(trials))),
            "workers": workers,
            "folder": folder,
        },
        tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=True),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder / "ray"), verbose=0),
    ).fit()


def seconds_between_trials(folder: Path) -> list[float]:
    """Seconds from each trial to the next."""
    moments = sorted(float(path.stem) for path in folder.glob("*.started"))
    return [after - before for before, after in itertools.pairwise(moments)]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
