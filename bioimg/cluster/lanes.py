"""Lanes: warm groups of Ray Train workers, each of them one trainer for a whole experiment.

A TorchTrainer for every trial, the documented way, would have to start each time. A lane takes one
trial after another from the coordinator, so processes, weights, features and images stay in place.
Ray Train's controllers import this module, too. So what only workers need is in `lane_worker`.
"""

import contextlib
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util import remove_placement_group

from bioimg.cluster.coordinator_client import CoordinatorClient, CoordinatorLostError
from bioimg.errors import StorageError
from bioimg.results.result_store import ResultStore

if TYPE_CHECKING:
    from bioimg.data.image_set import ImageSet, Split

MAX_REASON_LENGTH = 500


class DatasetRefs(NamedTuple):
    """References to the images and to the split of a trial, in Ray's object store."""

    images: "ray.ObjectRef[ImageSet]"
    split: "ray.ObjectRef[Split]"


@dataclass(frozen=True, kw_only=True)
class LaneSpec:
    """What the workers of a lane need to know."""

    number: int
    workers: int
    gpus_per_worker: float
    """0 on CPUs; less than 1 where lanes share a GPU."""
    auto_precision: str
    """What a `precision` of `auto` means; `auto` for what is fastest on the lane's device."""
    coordinator: CoordinatorClient
    dataset_refs: dict[str, DatasetRefs]
    """The images and the split of each trial, by its key."""
    experiment_name: str
    results_folder: str
    session_id: str | None
    """The session that holds the results folder."""
    working_dir: str
    """The folder that the user's relative paths refer to."""
    rungs_by_epochs: dict[int, tuple[int, ...]]
    """Epochs after which a trial waits for Tune's decision, by the number of epochs of a trial."""


def start_lane(lane: LaneSpec) -> Future[None]:
    """Start a lane and return a future, which is done when the lane has nothing left to do.

    Its exception says why the lane was lost. Ray Train restarts nothing by itself: whatever is
    lost, a worker or a machine, its trial returns to the coordinator at once.
    """
    trainer = _make_trainer(
        lane,
        train_loop_config={"lane": lane},
        scaling_config=ScalingConfig(
            num_workers=lane.workers,
            use_gpu=lane.gpus_per_worker > 0,
            resources_per_worker=worker_resources(lane.gpus_per_worker),
        ),
        run_config=RunConfig(
            name=f"lane-{lane.number}",
            storage_path=ResultStore(lane.results_folder).ray_folder,
            failure_config=FailureConfig(
                max_failures=0, max_preemption_failures=0, controller_failure_limit=0
            ),
        ),
    )
    done: Future[None] = Future()

    def fit() -> None:
        try:
            trainer.fit()
            done.set_result(None)
        except BaseException as error:
            _report_lane_lost(lane, error)
            done.set_exception(error)

    # `fit` only waits for Ray Train's controller, an actor of its own, so a thread is enough
    threading.Thread(target=fit, name=f"lane-{lane.number}", daemon=True).start()
    return done


def _make_trainer(lane: LaneSpec, **settings: Any) -> DataParallelTrainer:
    """Return a TorchTrainer, or for a single worker what that one is built on.

    A single worker has no other to exchange gradients with. TorchTrainer's settings would make its
    controller import torch, which takes a second and 0.3 GiB.
    """
    if lane.workers == 1:
        return DataParallelTrainer(_run_worker, **settings)

    from ray.train.torch import TorchConfig, TorchTrainer

    torch_config = TorchConfig(backend="nccl" if lane.gpus_per_worker else "gloo")
    return TorchTrainer(_run_worker, torch_config=torch_config, **settings)


def _report_lane_lost(lane: LaneSpec, error: BaseException) -> None:
    # when the program ends, Ray is shut down, and the call would start another one
    if not ray.is_initialized():
        return
    # if the coordinator is lost, too, the lane pool notices it
    with contextlib.suppress(CoordinatorLostError, RayError):
        devices = lane.coordinator.mark_lane_lost(lane.number, describe_failure(error))
        # Ray Train frees them itself, but not after its controller was killed where Ray has no
        # dashboard: it asks that one whether the controller lives
        if devices:
            remove_placement_group(devices)


def describe_failure(error: BaseException) -> str:
    """Return in one line why a lane was lost."""
    failure = next(iter(_worker_failures(error)), error)
    cause = getattr(failure, "health_check_failure", failure)
    return " ".join(str(cause).split())[:MAX_REASON_LENGTH]


def find_storage_error(error: BaseException) -> StorageError | None:
    """Return the error of a lane that couldn't write results, as no other lane could."""
    for failure in _worker_failures(error):
        if isinstance(failure, StorageError):
            return failure
    return None


def _worker_failures(error: BaseException) -> list[Exception]:
    return list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else []


def worker_resources(gpus: float) -> dict[str, float]:
    """Return what Ray reserves for one worker."""
    return {"CPU": 1, "GPU": gpus} if gpus else {"CPU": 1}


def _run_worker(config: dict[str, LaneSpec]) -> None:
    """Train trials in one worker of a lane until none is left."""
    from bioimg.cluster.lane_worker import train_trials

    train_trials(config["lane"])
