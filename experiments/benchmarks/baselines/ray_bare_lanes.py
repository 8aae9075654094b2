"""Ray alone: two lanes whose workers only import torch and torchvision.

The program takes FOLDER, and prints READY when the first worker has imported them. Ray's settings
are those of this project.
"""

import sys
import threading
import time
from pathlib import Path

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from bioimg.cluster import ray_session

LANES = 2
READY = "ready to train"


def import_torch(config: dict[str, Path]) -> None:
    """Import what training needs and leave a file, as a worker of Ray Train."""
    import torchvision  # noqa: F401

    config["file"].touch()


def main(folder: Path) -> None:
    """Start the lanes and wait for them."""
    ray_session.configure_ray()
    ray_session.start_local_ray()
    files = [folder / str(number) for number in range(LANES)]
    lanes = [threading.Thread(target=start_lane, args=(file,)) for file in files]
    for lane in lanes:
        lane.start()
    while not any(file.exists() for file in files):
        time.sleep(0.05)
    print(READY, flush=True)
    for lane in lanes:
        lane.join()
    ray.shutdown()


def start_lane(file: Path) -> None:
    """Run one worker as a lane does."""
    DataParallelTrainer(
        import_torch,
        train_loop_config={"file": file},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(name=f"lane-{file.name}", storage_path=str(file.parent / "ray")),
    ).fit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
