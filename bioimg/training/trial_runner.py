"""Run one trial to its end, with everything that it writes to disk: what a `for` loop and a lane share."""

import dataclasses
import datetime
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score

from bioimg.config import TrialConfig
from bioimg.data.image_set import ImageSet
from bioimg.data.splitting import split_images
from bioimg.errors import StorageError
from bioimg.experiment import StopReason
from bioimg.results.epoch_summary import summarise_epochs
from bioimg.results.result_store import ResultStore
from bioimg.training import checkpoints, precision
from bioimg.training.distributed import SINGLE_WORKER, WorkerGroup
from bioimg.training.evaluation import score_logits
from bioimg.training.loop import NonFiniteLossError, train
from bioimg.training.trial_trainer import EpochMetrics, TrialTrainer

StopCheck = Callable[[EpochMetrics], StopReason | None]
"""Called after each epoch by all workers alike. Returns why to stop, or None. After the last epoch, or the last of the
trial's patience, it has no effect."""


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """Where trials run and where they leave their rows."""

    experiment_name: str
    store: ResultStore
    device: torch.device
    worker_group: WorkerGroup = SINGLE_WORKER


def run_trial(trial: TrialConfig, images: ImageSet, place: TrialContext, judge: StopCheck) -> str:
    """Train, test and record a trial, from the last epoch that it, or a shorter trial like it, reached. Returns its status.

    An exception becomes a row `failed`. It is raised only if several workers train together and it may have occurred in just
    one of them: the others wait for that worker, so the group has to be made again.

    Raises:
        torch.AcceleratorError: the GPU failed for another reason than lack of memory: this process can't use it any more.
    """
    record = _TrialRecorder(trial, images, place)
    try:
        run = TrialTrainer(
            trial,
            images,
            split_images(images, trial),
            device=place.device,
            group=place.worker_group,
        )
        for epoch in record.resume(run):
            if (stop := judge(epoch)) and not _completes_trial(epoch, run):
                return record.record_end("stopped", run, stop)
        record.mark_started()
        for epoch in train(run):
            record.record_epoch(run)
            if (stop := judge(epoch)) and not _completes_trial(epoch, run):
                return record.record_end("stopped", run, stop)
        return record.record_end("completed", run)
    except (
        StorageError,
        torch.AcceleratorError,
    ):  # a row `failed` couldn't be written either, or would blame the trial
        raise
    except Exception as error:
        if place.worker_group.size > 1 and not isinstance(
            error, NonFiniteLossError
        ):  # the loss is the whole group's
            raise
        return record.record_failure(error)


def _completes_trial(epoch: EpochMetrics, run: TrialTrainer) -> bool:
    """Whether an epoch completes the trial, whatever its judgement: the last one, or the last of the trial's patience."""
    return epoch.epoch == run.trial.epochs or (epoch is run.history[-1] and run.out_of_patience)


def is_trial_completed(trial: TrialConfig, place: TrialContext) -> bool:
    """Whether a process has recorded the trial as completed before it was killed. Every worker calls."""
    rows = (
        place.store.tables.trial_rows("trials", trial.key) if place.worker_group.rank == 0 else []
    )
    return place.worker_group.broadcast(any(row["status"] == "completed" for row in rows))


def record_failure(
    trial: TrialConfig, images: ImageSet, place: TrialContext, reason: Exception
) -> str:
    """Record the failure of a trial that isn't tried again."""
    return _TrialRecorder(trial, images, place).record_failure(reason)


class _TrialRecorder:
    """Writes the results of a trial. Every worker calls, rank 0 writes."""

    def __init__(self, trial: TrialConfig, images: ImageSet, place: TrialContext) -> None:
        self._trial, self._images, self._context = trial, images, place
        self._wait_started = time.perf_counter()
        self._started_at: datetime.datetime | None = None
        self._trainer: TrialTrainer | None = None
        self._is_writer = place.worker_group.rank == 0
        self._storage, self._folder = place.store.storage, place.store.checkpoint_folder(trial.key)

    def resume(self, run: TrialTrainer) -> list[EpochMetrics]:
        """Resume where the trial, or a shorter one, left off. Returns the epochs whose judgement isn't on record.

        That is the last one, whose judgement may have been lost, or every epoch that another trial has trained.
        """
        recorded = 0
        if self._is_writer and checkpoints.find_or_inherit_state(self._trial, self._context.store):
            recorded = len(self._context.store.tables.trial_rows("epochs", self._trial.key))
        recorded = self._context.worker_group.broadcast(
            recorded
        )  # now the state is there for all workers
        checkpoints.load_state(run, self._storage, self._folder)
        if len(run.history) != (
            known := self._context.worker_group.broadcast(len(run.history))
        ):  # NFS may show a file late elsewhere
            raise RuntimeError(
                f"this worker sees a state after {len(run.history)} epochs, and the first one after {known}."
            )
        self._trainer = run
        return run.history[max(min(recorded, len(run.history)) - 1, 0) :]

    def mark_started(self) -> None:
        self._started_at = _utc_now()

    def record_epoch(self, run: TrialTrainer) -> None:
        self._wait_started += run.history[-1].seconds
        if self._is_writer:
            self._context.store.require_lock()
            checkpoints.save_state(run, self._storage, self._folder)
            if len(run.history) >= self._context.store.earlier_epoch_counts.get(
                self._trial.key, 0
            ):  # else they are trained again
                self._context.store.tables.write("epochs", self._trial.key, self._epoch_rows(run))

    def record_end(self, status: str, run: TrialTrainer, stop: StopReason | None = None) -> str:
        outcome = stop._asdict() if stop else self._measure_test_set(run)
        if self._is_writer:
            self._context.store.require_lock()
            keep = self._context.store.checkpoints_to_keep
            spent = (
                self._save_at_rung(run, stop, keep)
                if stop
                else checkpoints.save_completed(run, self._storage, self._folder, keep)
            )
            self._write_row(
                status, self._epoch_rows(run), {**_training_columns(run), **outcome}, spent
            )
            for name in spent:
                self._storage.delete(name)
        return status

    def record_failure(self, error: Exception) -> str:
        if self._is_writer:
            self._context.store.require_lock()
            self._storage.write(
                f"{self._folder}/error.txt", "".join(traceback.format_exception(error)).encode()
            )
            epochs, origin = self._known_epochs()
            self._write_row(
                "failed", epochs, {"error": _failure_text(error), "continued_from": origin}
            )
        return "failed"

    def _known_epochs(self) -> tuple[list[dict[str, Any]], str | None]:
        """The epochs of a failed trial, including those of a shorter one, which aren't on record before it has its own."""
        if self._trainer:
            return self._epoch_rows(self._trainer), self._trainer.continued_from
        epochs, origin = checkpoints.load_history(self._storage, self._folder)
        return [{"key": self._trial.key, **epoch} for epoch in epochs], origin

    def _save_at_rung(self, run: TrialTrainer, stop: StopReason, keep: str) -> list[str]:
        """End at the rung. Returns the states that aren't kept.

        For a rung among the epochs of a shorter trial there is no state, and that trial has a later one.
        """
        trained, run.history = len(run.history), run.history[: stop.stopped_at_rung]
        if len(run.history) < trained:
            return checkpoints.state_files(self._folder)
        return checkpoints.save_stopped(run, self._storage, self._folder, keep)

    def _measure_test_set(self, run: TrialTrainer) -> dict[str, Any]:
        """Measure the test set twice: as the last epoch left the model and, once, at the best epoch."""
        subsets = {"val": run.split.val, "test": run.split.test}
        final = run.score_images(run.split.test)
        run.restore_best()
        logits = {subset: run.predict_logits(indices) for subset, indices in subsets.items()}
        if self._is_writer:
            rows = [
                row
                for subset, indices in subsets.items()
                for row in _prediction_rows(run, subset, indices, logits[subset])
            ]
            self._context.store.tables.write("predictions", self._trial.key, rows)
        labels, predicted = (
            run.images.labels[run.split.test],
            logits["test"].argmax(1).cpu().numpy(),
        )
        return {
            "test_accuracy": score_logits(logits["test"], labels).accuracy,
            "final_test_accuracy": final.accuracy,
            "balanced_accuracy": balanced_accuracy_score(labels, predicted),
            "macro_f1": f1_score(labels, predicted, average="macro", labels=np.unique(labels)),
        }

    def _epoch_rows(self, run: TrialTrainer) -> list[dict[str, Any]]:
        return [{"key": self._trial.key, **dataclasses.asdict(epoch)} for epoch in run.history]

    def _write_row(
        self,
        status: str,
        epochs: list[dict[str, Any]],
        more: dict[str, Any],
        spent: Collection[str] = (),
    ) -> None:
        """Write the row; `spent` are files that will be deleted."""
        row = {
            "experiment": self._context.experiment_name,
            "key": self._trial.key,
            **dataclasses.asdict(self._trial),
            "data_fingerprint": self._images.fingerprint,
            "synthetic": self._images.synthetic,
            "unreadable_skipped": self._images.unreadable_skipped,
            "device": _device_name(self._context.device),
            "status": status,
            **summarise_epochs(epochs),
            "bytes": sum(
                size
                for name, size in self._storage.sizes(self._folder).items()
                if name not in spent
            ),
            "wait_seconds": time.perf_counter() - self._wait_started,
            "started_at": self._started_at,
            "ended_at": _utc_now(),
            **more,
        }
        self._context.store.tables.write("epochs", self._trial.key, epochs)
        self._context.store.tables.write("trials", self._trial.key, [row])


def _failure_text(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    if (
        isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text
    ):  # the latter on a CPU
        text += (
            " Lower `batch_size` or `image_size`, freeze more, or use a device with more memory."
        )
    return text


def _training_columns(run: TrialTrainer) -> dict[str, Any]:
    return {
        "train_images": len(run.split.train),
        "val_images": len(run.split.val),
        "test_images": len(run.split.test),
        "split_fingerprint": run.split.fingerprint,
        "split_leaks_groups": run.split.leaks_groups,
        "duplicate_images_across_splits": run.split.duplicate_count,
        "weights_digest": run.weights_digest,
        "precision_used": precision.dtype_name(run.dtype),
        "batch_norm": run.batch_norm_scope,
        "features": "computed" if run.features_seconds is None else "cached",
        "features_seconds": run.features_seconds,
        "continued_from": run.continued_from,
        "out_of_patience": run.out_of_patience,
        "trained_parameters": sum(
            p.numel() for p in run.trained_module.parameters() if p.requires_grad
        ),
    }


def _prediction_rows(
    run: TrialTrainer, subset: str, indices: np.ndarray, logits: torch.Tensor
) -> list[dict[str, Any]]:
    probabilities = logits.double().softmax(1).cpu().numpy()
    groups = run.images.groups
    return [
        {
            "key": run.trial.key,
            "subset": subset,
            "image": run.images.paths[index],
            "group": groups[index] if groups else None,
            "label": int(run.images.labels[index]),
            "prediction": int(chances.argmax()),
            "probabilities": chances,
        }
        for index, chances in zip(indices, probabilities, strict=True)
    ]


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
