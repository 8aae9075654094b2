"""Run one trial to its end, with everything that it writes to disk.

The loop of `bioimg.local` and the lanes of `bioimg.cluster` share this.
"""

from collections.abc import Callable, Iterator

import torch

from bioimg.config import TrialConfig
from bioimg.data.image_set import Dataset, ImageSet
from bioimg.errors import StorageError
from bioimg.experiment import StopReason
from bioimg.results.epoch_summary import EpochMetrics
from bioimg.results.schema import TrialStatus
from bioimg.training.device_memory import check_model_fits
from bioimg.training.loop import NonFiniteLossError, train
from bioimg.training.trial_recorder import TrialContext, TrialRecorder
from bioimg.training.trial_trainer import TrialTrainer

StopCheck = Callable[[EpochMetrics], StopReason | None]
"""Return why to stop the trial after this epoch, or None.

All workers call it after each epoch and get the same answer. After the last epoch, or the last
of the trial's patience, it has no effect.
"""


def run_trial(
    trial: TrialConfig, dataset: Dataset, context: TrialContext, should_stop: StopCheck
) -> TrialStatus:
    """Train, test and record a trial. Return its status.

    It continues after the last epoch that it, or a shorter trial like it, reached.

    An exception becomes a row `failed`. It is raised only if several workers train together and it
    may have occurred in just one of them. The others wait for that worker, so the group has to be
    made again.

    Raises:
        StorageError: results can't be written.
        torch.AcceleratorError: the GPU failed for another reason than lack of memory. This process
            can't use it any more.
    """
    recorder = TrialRecorder(trial, dataset.images, context)
    try:
        check_model_fits(trial.model_config, context.device)
        trainer = TrialTrainer(
            trial,
            dataset.images,
            dataset.split,
            device=context.device,
            worker_group=context.worker_group,
            on_message=context.on_message,
            auto_precision=context.auto_precision,
        )
        for epoch in _iter_undecided_epochs(recorder, trainer):
            stop_reason = should_stop(epoch)
            if stop_reason and not _completes_trial(epoch, trainer):
                recorder.record_stopped(trainer, stop_reason)
                return "stopped"
        recorder.record_completed(trainer)
        return "completed"
    except (StorageError, torch.AcceleratorError):
        # a row `failed` couldn't be written either, or would blame the trial
        raise
    except Exception as error:
        # the loss and its scale are the whole group's, anything else may be one worker's own error
        if context.worker_group.size > 1 and not isinstance(error, NonFiniteLossError):
            raise
        recorder.record_failure(error)
        return "failed"


def _iter_undecided_epochs(
    recorder: TrialRecorder, trainer: TrialTrainer
) -> Iterator[EpochMetrics]:
    """Yield the epochs without a recorded decision on stopping: earlier ones, then new ones."""
    yield from recorder.resume(trainer)
    recorder.mark_started()
    for epoch in train(trainer):
        recorder.record_epoch(trainer)
        yield epoch


def _completes_trial(epoch: EpochMetrics, trainer: TrialTrainer) -> bool:
    """Return True for the trial's last epoch, and for the last one of its patience."""
    return epoch is trainer.history[-1] and trainer.has_ended


def is_trial_completed(trial: TrialConfig, context: TrialContext) -> bool:
    """Return True if a process recorded the trial as completed before it was killed.

    Every worker calls this.
    """
    rows = []
    if context.worker_group.rank == 0:
        rows = context.store.tables.trial_rows("trials", trial.key)
    return context.worker_group.broadcast(any(row["status"] == "completed" for row in rows))


def record_failure(
    trial: TrialConfig, images: ImageSet, context: TrialContext, error: Exception
) -> TrialStatus:
    """Record the failure of a trial that isn't tried again. Return its status."""
    TrialRecorder(trial, images, context).record_failure(error)
    return "failed"
