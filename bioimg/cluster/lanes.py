"""Lanes: warm groups of Ray Train workers, each one `TorchTrainer` for a whole experiment.

A TorchTrainer for every trial, the documented way, has to start each time. A lane takes one trial after another from the
board, so that processes, weights, features and images stay where they are.
"""

import contextlib
import dataclasses
import os
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

# how often Train checks its workers; with its default of 2 s a dead one is noticed late
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
# a worker that doesn't answer for so long hangs; it answers while it trains, so a long epoch isn't a hang
os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "60")
os.environ.setdefault(
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", "5"
)  # the wait for workers that hang
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one process less

import ray
import torch
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError, get_context
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from bioimg.cluster.coordinator import Job
from bioimg.config import TrialConfig
from bioimg.data.image_set import Dataset, ImageSet
from bioimg.errors import StorageError
from bioimg.experiment import StopReason
from bioimg.results.result_store import ResultStore
from bioimg.training import malloc_tuning
from bioimg.training.distributed import WorkerGroup
from bioimg.training.trial_runner import TrialContext, is_trial_completed, record_failure, run_trial
from bioimg.training.trial_trainer import EpochMetrics

MAX_ATTEMPTS = 3
"""How often lanes take a trial that makes no progress before it is recorded as failed: one that kills its worker isn't tried
for ever."""
SAME_ERROR_TIMEOUT_S = 10.0
"""Seconds in which all workers of a lane must raise the same error for it to count as the trial's own."""


class LaneDisconnectedError(BaseException):
    """The lane can't continue. It isn't an Exception: no trial has failed."""


class DatasetRefs(NamedTuple):
    """References to the images and to the split of a trial, in Ray's object store."""

    images: ray.ObjectRef
    split: ray.ObjectRef


@dataclass(frozen=True, kw_only=True)
class LaneSpec:
    """What the workers of a lane need to know. `dataset_refs` refers to the images and split of each trial, by its key."""

    number: int
    workers: int
    gpu: bool
    coordinator: Any
    dataset_refs: dict[str, DatasetRefs]
    experiment_name: str
    results_folder: str
    session_id: str | None
    """The run that holds the folder of results."""
    working_dir: str
    """The folder that the user's relative paths refer to."""
    rungs_by_epochs: dict[int, tuple[int, ...]]
    """Epochs after which a trial waits for Tune's decision, for each number of epochs that a trial may have."""


def start_lane(lane: LaneSpec) -> Future[None]:
    """Start a lane. The future is done when the lane has nothing left to do; its exception says why the lane was lost.

    `fit` only waits for Ray Train's controller, an actor of its own, so a thread calls it. Train restarts nothing by itself:
    whatever is lost, a worker or a machine, its trial goes back to the board at once.
    """
    trainer = TorchTrainer(
        _run_worker,
        train_loop_config={"lane": lane},
        torch_config=TorchConfig(backend="nccl" if lane.gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=lane.workers,
            use_gpu=lane.gpu,
            resources_per_worker=worker_resources(lane.gpu),
        ),
        run_config=RunConfig(
            name=f"lane-{lane.number}",
            storage_path=ResultStore(lane.results_folder).engine_folder,
            failure_config=FailureConfig(
                max_failures=0, max_preemption_failures=0, controller_failure_limit=0
            ),
        ),
    )
    ended: Future[None] = Future()

    def fit() -> None:
        try:
            trainer.fit()
            ended.set_result(None)
        except BaseException as error:
            with contextlib.suppress(RayError):  # the board is lost, too: the fleet finds out
                if (
                    ray.is_initialized()
                ):  # else this is the end of the program, and the call would start another Ray
                    ray.get(
                        lane.coordinator.mark_lane_lost.remote(lane.number, describe_failure(error))
                    )
            ended.set_exception(error)

    threading.Thread(target=fit, name=f"lane-{lane.number}", daemon=True).start()
    return ended


def describe_failure(error: BaseException) -> str:
    """Why a worker died, in one line."""
    failures = (
        list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else [error]
    )
    first = getattr(failures[0], "health_check_failure", failures[0])
    return " ".join(str(first).split())[:500]


def find_storage_error(error: BaseException) -> StorageError | None:
    """A worker's error, if a lane ended because results can't be written: no other lane could write them either."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    return next((failure for failure in failures if isinstance(failure, StorageError)), None)


def worker_resources(gpu: bool) -> dict[str, float]:
    """What Ray sets aside for one worker."""
    return {"CPU": 1, "GPU": 1} if gpu else {"CPU": 1}


def _run_worker(config: dict[str, LaneSpec]) -> None:
    """One worker: take trials until there are none."""
    lane, context = config["lane"], get_context()
    malloc_tuning.keep_freed_memory()
    torch.set_num_threads(1)  # a lane has one core, and sums are in the same order wherever it runs
    if Path(lane.working_dir).is_dir():
        os.chdir(lane.working_dir)
    group = WorkerGroup(context.get_world_rank(), context.get_world_size())
    place = TrialContext(
        experiment_name=lane.experiment_name,
        store=ResultStore(lane.results_folder, lane.session_id),
        device=get_device(),
        worker_group=group,
    )

    def take() -> Job | None:
        return group.broadcast(
            _get_or_disconnect(lane.coordinator.next_trial.remote(lane.number))
            if group.rank == 0
            else None
        )

    while job := take():
        status = _run_job(job, place, lane)
        if group.rank == 0:
            _get_or_disconnect(lane.coordinator.end_trial.remote(lane.number, status))
        if status == "failed":
            torch.cuda.empty_cache()  # after running out of memory, fragments are of no use to the next trial


def _run_job(job: Job, place: TrialContext, lane: LaneSpec) -> str:
    trial = TrialConfig(**job.trial)
    refs = lane.dataset_refs[job.key]
    # images are in shared memory: nothing is copied
    dataset = Dataset(images=_get_or_disconnect(refs.images), split=_get_or_disconnect(refs.split))
    if job.attempts > 1 and is_trial_completed(trial, place):
        return "completed"
    if job.attempts > MAX_ATTEMPTS:
        return record_failure(
            trial, dataset.images, place, RuntimeError(_lost_worker_message(job.loss_reason))
        )

    def judge(epoch: EpochMetrics) -> StopReason | None:
        wait = epoch.epoch in lane.rungs_by_epochs[trial.epochs]
        report = lane.coordinator.report_epoch
        mine: StopReason | None = (
            _get_or_disconnect(report.remote(lane.number, dataclasses.asdict(epoch), wait))
            if place.worker_group.rank == 0
            else None
        )
        return place.worker_group.broadcast(mine)

    try:
        return run_trial(trial, dataset, place, judge)
    except (
        StorageError,
        torch.AcceleratorError,
    ):  # it isn't the trial's fault: the former can't even be recorded
        raise
    except Exception as error:  # of one of several workers
        _record_shared_failure(error, trial, dataset.images, place, lane)
        raise  # the state of the other workers is unknown: the group starts over


def _lost_worker_message(reason: str) -> str:
    """The error of a trial that is given up. Whether a process was killed for lack of memory can only be guessed."""
    said = (
        f"its worker was lost {MAX_ATTEMPTS} times at the same epoch, the last time with: {reason}"
    )
    advice = " If memory ran out, lower `batch_size` or `image_size`, freeze more, or use a machine with more memory."
    return said + advice if "memory" in reason else said


def _record_shared_failure(
    error: Exception, trial: TrialConfig, images: ImageSet, place: TrialContext, lane: LaneSpec
) -> None:
    """Record the trial as failed if all workers raised the same error: then the trial caused it and isn't tried again.

    They compare through the board, since they can't reach each other any more.
    """
    told = type(error).__name__ + (
        "" if isinstance(error, torch.OutOfMemoryError) else f": {error}"
    )
    group, board = place.worker_group, lane.coordinator
    if not _get_or_disconnect(
        board.all_raised_same_error.remote(
            lane.number, group.rank, group.size, told, SAME_ERROR_TIMEOUT_S
        )
    ):
        return
    if group.rank == 0:
        record_failure(trial, images, place, error)
        _get_or_disconnect(board.end_trial.remote(lane.number, "failed"))
    else:  # the first worker that ends takes the others with it
        _get_or_disconnect(board.wait_until_idle.remote(lane.number))


def _get_or_disconnect(reference: Any) -> Any:
    """The board's answer.

    Raises:
        CutOff: the board can't be reached any more, or has given up this lane.
    """
    try:
        return ray.get(reference)
    except RayError as error:
        raise LaneDisconnectedError(str(error)) from error
