"""A worker of a lane: it trains one trial after another, until none is left."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import ray
import torch
from ray.exceptions import RayError
from ray.train import get_context
from ray.train.torch import get_device
from ray.util import get_current_placement_group

from bioimg import malloc_tuning
from bioimg.cluster.coordinator import Job
from bioimg.cluster.coordinator_client import CoordinatorLostError
from bioimg.cluster.lanes import LaneSpec
from bioimg.config import TrialConfig
from bioimg.data.image_set import Dataset, ImageSet
from bioimg.errors import StorageError
from bioimg.experiment import StopReason
from bioimg.results.epoch_summary import EpochMetrics
from bioimg.results.result_store import ResultStore
from bioimg.results.schema import TrialStatus
from bioimg.training.device_memory import limit_memory, ran_out_of_memory
from bioimg.training.distributed import WorkerGroup
from bioimg.training.trial_runner import TrialContext, is_trial_completed, record_failure, run_trial

MAX_ATTEMPTS = 3
"""Lanes that may take a trial at the same epoch before it is recorded as failed.

So a trial that kills its worker isn't tried forever.
"""
SAME_ERROR_TIMEOUT_S = 10.0
"""Seconds in which all workers of a lane must raise the same error for it to be the trial's."""


class LaneDisconnectedError(BaseException):
    """The lane can't continue. A BaseException, so that no trial is marked as failed."""


def train_trials(lane: LaneSpec) -> None:
    """Train trials in this worker of a lane until none is left."""
    malloc_tuning.keep_freed_memory()
    # a lane has one core, and sums are in the same order wherever it runs
    torch.set_num_threads(1)
    if Path(lane.working_dir).is_dir():
        os.chdir(lane.working_dir)
    context = get_context()
    workers = WorkerGroup(context.get_world_rank(), context.get_world_size())
    device = get_device()
    if 0 < lane.gpus_per_worker < 1:
        limit_memory(lane.gpus_per_worker, device)
    trial_context = TrialContext(
        experiment_name=lane.experiment_name,
        store=ResultStore(lane.results_folder, lane.session_id),
        device=device,
        worker_group=workers,
        on_message=lambda text: _send_message(text, lane),
        auto_precision=lane.auto_precision,
    )
    if workers.rank == 0:
        with _disconnect_on_loss():
            lane.coordinator.register_lane(lane.number, get_current_placement_group())
    while job := _next_job(lane, workers):
        status = _run_job(job, trial_context, lane)
        if workers.rank == 0:
            with _disconnect_on_loss():
                lane.coordinator.end_trial(lane.number, status)
        if status == "failed":
            # after running out of memory, fragments are useless to the next trial
            torch.cuda.empty_cache()


def _send_message(text: str, lane: LaneSpec) -> None:
    with _disconnect_on_loss():
        lane.coordinator.add_message(text)


def _next_job(lane: LaneSpec, workers: WorkerGroup) -> Job | None:
    """Return the next trial of this lane. The first worker asks for all of them."""
    job = None
    if workers.rank == 0:
        with _disconnect_on_loss():
            job = lane.coordinator.next_trial(lane.number)
    return workers.broadcast(job)


def _run_job(job: Job, context: TrialContext, lane: LaneSpec) -> TrialStatus:
    """Train a trial and return its status."""
    trial = job.trial
    dataset = _get_dataset(job.key, lane)
    if job.attempts > 1 and is_trial_completed(trial, context):
        return "completed"
    if job.attempts > MAX_ATTEMPTS:
        error = RuntimeError(_lost_worker_message(job.loss_reason))
        return record_failure(trial, dataset.images, context, error)

    def decide_stop(epoch: EpochMetrics) -> StopReason | None:
        reason = None
        if context.worker_group.rank == 0:
            is_rung = epoch.epoch in lane.rungs_by_epochs[trial.epochs]
            with _disconnect_on_loss():
                reason = lane.coordinator.report_epoch(
                    lane.number, dataclasses.asdict(epoch), is_rung
                )
        return context.worker_group.broadcast(reason)

    try:
        return run_trial(trial, dataset, context, decide_stop)
    except (StorageError, torch.AcceleratorError):
        # not the trial's fault, and the former couldn't even be recorded
        raise
    except Exception as error:  # only a trial with several workers raises its own errors
        _record_shared_failure(error, trial, dataset.images, context, lane)
        raise  # the state of the other workers is unknown, so the lane is replaced


def _get_dataset(key: str, lane: LaneSpec) -> Dataset:
    """Return the images and the split of a trial. Images are in shared memory and aren't copied."""
    refs = lane.dataset_refs[key]
    with _disconnect_on_loss():
        return Dataset(images=ray.get(refs.images), split=ray.get(refs.split))


def _lost_worker_message(reason: str) -> str:
    """Return the error of a trial that is given up after `MAX_ATTEMPTS` lost workers."""
    message = (
        f"its worker was lost {MAX_ATTEMPTS} times at the same epoch, the last time with: {reason}"
    )
    # that a process was killed because memory ran out can only be guessed
    if "memory" in reason:
        message += (
            " If memory ran out, lower `batch_size` or `image_size`, freeze more, or use a machine "
            "with more memory."
        )
    return message


def _record_shared_failure(
    error: Exception, trial: TrialConfig, images: ImageSet, context: TrialContext, lane: LaneSpec
) -> None:
    """Record the trial as failed if all workers raised the same error: then the trial caused it.

    They compare errors through the coordinator, since they can't reach each other any more.
    """
    description = type(error).__name__
    if not ran_out_of_memory(error):  # then the text differs between workers
        description += f": {error}"
    workers, coordinator = context.worker_group, lane.coordinator
    with _disconnect_on_loss():
        is_shared = coordinator.all_raised_same_error(
            lane.number, workers.rank, workers.size, description, SAME_ERROR_TIMEOUT_S
        )
    if not is_shared:
        return
    if workers.rank == 0:
        record_failure(trial, images, context, error)
        with _disconnect_on_loss():
            coordinator.end_trial(lane.number, "failed")
    else:
        # the first worker that ends takes the others with it, so wait until the row is written
        with _disconnect_on_loss():
            coordinator.wait_until_idle(lane.number)


@contextlib.contextmanager
def _disconnect_on_loss() -> Iterator[None]:
    """End this lane when Ray or the coordinator is lost, or when it has given up the lane.

    Raises:
        LaneDisconnectedError: one of these has happened.
    """
    try:
        yield
    except (RayError, CoordinatorLostError) as error:
        raise LaneDisconnectedError(str(error)) from error
