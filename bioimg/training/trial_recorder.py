"""Write what a trial leaves on disk: its rows in each table, its state and its model."""

import dataclasses
import datetime
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from bioimg.config import TrialConfig
from bioimg.data.image_set import ImageSet
from bioimg.experiment import StopReason
from bioimg.models.model_source import find_model_source
from bioimg.results.epoch_summary import EpochMetrics, summarise_epochs
from bioimg.results.result_store import ResultStore
from bioimg.results.schema import TrialStatus
from bioimg.results.score import measure_macro_f1, measure_score, resolve_score
from bioimg.training import checkpoint_files, checkpoints, precision
from bioimg.training.device_memory import ran_out_of_memory
from bioimg.training.distributed import SINGLE_WORKER, WorkerGroup
from bioimg.training.save_schedule import SaveSchedule
from bioimg.training.trial_trainer import TrialTrainer

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """Where trials run and where they leave their rows."""

    experiment_name: str
    store: ResultStore
    device: torch.device
    worker_group: WorkerGroup = SINGLE_WORKER
    on_message: Callable[[str], None] = lambda text: None
    """Take what a user who waits should know."""
    auto_precision: str = "auto"
    """What a `precision` of `auto` means in this run; `auto` for what is fastest here."""


class TrialRecorder:
    """Writes the results of a trial. Every worker calls the methods, and the first one writes."""

    def __init__(self, trial: TrialConfig, images: ImageSet, context: TrialContext) -> None:
        self._trial = trial
        self._images = images
        self._context = context
        self._store = context.store
        self._storage = context.store.storage
        self._folder = context.store.checkpoint_folder(trial.key)
        self._is_writer = context.worker_group.rank == 0
        self._created = time.perf_counter()
        self._epoch_seconds = 0.0
        self._started_at: datetime.datetime | None = None
        self._trainer: TrialTrainer | None = None
        self._save_schedule = SaveSchedule()
        self._latest_state: str | None = None
        self._saved_epochs = 0

    def resume(self, trainer: TrialTrainer) -> list[EpochMetrics]:
        """Resume where the trial, or a shorter one, left off.

        Returns:
            The epochs without a recorded decision on stopping: the last one, whose decision may
            have been lost, or every epoch that another trial has trained.

        Raises:
            RuntimeError: this worker sees another state than the first worker.
        """
        group = self._context.worker_group
        recorded = 0
        if self._is_writer and checkpoints.find_or_inherit_state(self._trial, self._store):
            recorded = len(self._store.tables.trial_rows("epochs", self._trial.key))
        # all workers wait here until the first one has written the state
        recorded = group.broadcast(recorded)
        self._latest_state = checkpoints.load_state(trainer, self._storage, self._folder)
        # NFS may show a file late on another machine
        epochs = len(trainer.history)
        first_worker_epochs = group.broadcast(epochs)
        if epochs != first_worker_epochs:
            raise RuntimeError(
                f"this worker sees a state after {epochs} epochs, and the first one after "
                f"{first_worker_epochs}."
            )
        self._trainer = trainer
        self._saved_epochs = epochs
        decided = max(min(recorded, epochs) - 1, 0)
        return trainer.history[decided:]

    def mark_started(self) -> None:
        """Note that training starts now."""
        self._started_at = _utc_now()

    def record_epoch(self, trainer: TrialTrainer) -> None:
        """Write the epochs so far and, if it is due or the trial has ended, the state."""
        self._epoch_seconds += trainer.history[-1].seconds
        if not self._is_writer:
            return
        self._store.require_lock()
        if trainer.has_ended or self._save_schedule.is_due(time.monotonic()):
            self._save_state(trainer)
        # epochs that are trained again, since their state wasn't saved, are already in the table
        if len(trainer.history) >= self._store.earlier_epoch_counts.get(self._trial.key, 0):
            self._store.tables.write("epochs", self._trial.key, self._epoch_rows(trainer))

    def record_completed(self, trainer: TrialTrainer) -> None:
        """Test the trial, and write its model and rows."""
        results = self._measure_test_set(trainer)
        if self._is_writer:
            self._store.require_lock()
            keep = self._store.checkpoints_to_keep
            assert self._latest_state
            unneeded = checkpoints.save_completed(
                trainer, self._storage, self._folder, keep, self._latest_state
            )
            self._record_end("completed", trainer, results, unneeded)

    def record_stopped(self, trainer: TrialTrainer, stop_reason: StopReason) -> None:
        """Write the rows of a trial that was stopped at a rung, as of that rung."""
        if self._is_writer:
            self._store.require_lock()
            unneeded = self._save_at_rung(trainer, stop_reason)
            self._record_end("stopped", trainer, stop_reason._asdict(), unneeded)

    def record_failure(self, error: Exception) -> None:
        """Write the traceback and the row of a failed trial."""
        if not self._is_writer:
            return
        self._store.require_lock()
        trace = "".join(traceback.format_exception(error))
        self._storage.write(f"{self._folder}/error.txt", trace.encode())
        epochs, continued_from = self._known_epochs()
        columns = {"error": _failure_text(error), "continued_from": continued_from}
        self._write_row("failed", epochs, columns)

    def _save_state(self, trainer: TrialTrainer) -> None:
        """Save the state, beside the one that was saved before."""
        started = time.monotonic()
        name = checkpoint_files.next_state_file(self._folder, self._latest_state)
        checkpoints.save_state(trainer, self._storage, name)
        self._latest_state, self._saved_epochs = name, len(trainer.history)
        self._save_schedule.record_save(started, time.monotonic())

    def _known_epochs(self) -> tuple[list[Row], str | None]:
        """Return the epochs of a failed trial, and the key of the shorter trial that it continued.

        The table lacks the shorter trial's epochs until this trial has trained one of its own. The
        state may lack the table's last ones, and a trainer those that it was to train again.
        """
        if self._trainer:
            epochs = self._epoch_rows(self._trainer)
            continued_from = self._trainer.continued_from
        else:
            history, continued_from = checkpoints.load_history(self._storage, self._folder)
            epochs = [{"key": self._trial.key, **epoch} for epoch in history]
        recorded = self._store.tables.trial_rows("epochs", self._trial.key)
        return max(epochs, recorded, key=len), continued_from

    def _save_at_rung(self, trainer: TrialTrainer, stop_reason: StopReason) -> list[str]:
        """Shorten the history to the rung. Return the states that aren't kept.

        If the rung is among the epochs of a shorter trial, there is no state of it; the shorter
        trial has a later one.
        """
        trained = len(trainer.history)
        trainer.history = trainer.history[: stop_reason.stopped_at_rung]
        if len(trainer.history) < trained:
            return checkpoint_files.state_files(self._folder)
        if self._saved_epochs < trained:
            self._save_state(trainer)
        assert self._latest_state
        keep = self._store.checkpoints_to_keep
        return checkpoints.save_stopped(
            trainer, self._storage, self._folder, keep, self._latest_state
        )

    def _measure_test_set(self, trainer: TrialTrainer) -> Row:
        """Measure the test set once, at the best epoch."""
        split = trainer.split
        trainer.restore_best()
        val_logits = trainer.predict_logits(split.val)
        test_logits = trainer.predict_logits(split.test)
        if self._is_writer:
            rows = [
                *_prediction_rows(trainer, "val", split.val, val_logits),
                *_prediction_rows(trainer, "test", split.test, test_logits),
            ]
            self._store.tables.write("predictions", self._trial.key, rows)
        labels = trainer.images.labels[split.test]
        predictions = test_logits.argmax(1).cpu().numpy()
        return {
            "test_accuracy": measure_score(labels, predictions, "accuracy"),
            "test_score": measure_score(labels, predictions, trainer.score_used),
            "balanced_accuracy": measure_score(labels, predictions, "balanced_accuracy"),
            "macro_f1": measure_macro_f1(labels, predictions),
        }

    def _epoch_rows(self, trainer: TrialTrainer) -> list[Row]:
        return [{"key": self._trial.key, **dataclasses.asdict(epoch)} for epoch in trainer.history]

    def _record_end(
        self, status: TrialStatus, trainer: TrialTrainer, outcome: Row, unneeded: list[str]
    ) -> None:
        """Write the rows of an ended trial, then delete the files that it doesn't need any more."""
        columns = {**_training_columns(trainer), **outcome}
        self._write_row(status, self._epoch_rows(trainer), columns, unneeded)
        for name in unneeded:
            self._storage.delete(name)

    def _write_row(
        self, status: TrialStatus, epochs: list[Row], columns: Row, unneeded: Collection[str] = ()
    ) -> None:
        """Write the trial's row and epochs. Files that will be deleted don't count in `bytes`."""
        sizes = self._storage.sizes(self._folder)
        row = {
            "experiment": self._context.experiment_name,
            "key": self._trial.key,
            **dataclasses.asdict(self._trial),
            "data_fingerprint": self._images.fingerprint,
            "synthetic": self._images.synthetic,
            "ignored_files": self._images.ignored_count,
            "unreadable_skipped": self._images.unreadable_skipped,
            "device": _device_name(self._context.device),
            "status": status,
            "score_used": resolve_score(self._trial.score, self._images.class_counts),
            **summarise_epochs(epochs),
            "bytes": sum(size for name, size in sizes.items() if name not in unneeded),
            "wait_seconds": time.perf_counter() - self._created - self._epoch_seconds,
            "started_at": self._started_at,
            "ended_at": _utc_now(),
            **columns,
        }
        row["recipe_seconds"] = row["train_seconds"] + (row.get("features_seconds") or 0.0)
        self._store.tables.write("epochs", self._trial.key, epochs)
        self._store.tables.write("trials", self._trial.key, [row])


def _failure_text(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    if ran_out_of_memory(error):
        text += (
            " Lower `batch_size` or `image_size`, freeze more, or use a device with more memory."
        )
    return text


def _training_columns(trainer: TrialTrainer) -> Row:
    trial, classifier = trainer.trial, trainer.classifier
    trained = [p for p in trainer.trained_module.parameters() if p.requires_grad]
    origin = find_model_source(trial.model).weights_origin(trial.weights)
    all_parameters = _count_parameters(classifier.model)
    return {
        "train_images": len(trainer.split.train),
        "val_images": len(trainer.split.val),
        "test_images": len(trainer.split.test),
        "split_fingerprint": trainer.split.fingerprint,
        "split_leaks_groups": trainer.split.leaks_groups,
        "likely_group_pattern": trainer.split.leaked_pattern,
        "duplicate_images_across_splits": trainer.split.duplicate_count,
        "look_alike_images_across_splits": trainer.split.look_alike_count,
        "weights_digest": trainer.weights_digest,
        "weights_source": origin.source or None,
        "weights_licence": origin.licence or None,
        "weights_interpolation": origin.interpolation or None,
        "backbone_parameters": all_parameters - _count_parameters(classifier.head),
        "precision_used": precision.dtype_name(trainer.dtype),
        "skipped_steps": trainer.loss_scaler.skipped_steps,
        "batch_norm": batch_norm_scope(trainer),
        "features": _features_origin(trainer),
        "head_epochs": _count_head_epochs(trainer),
        "features_seconds": trainer.features_seconds,
        "continued_from": trainer.continued_from,
        "out_of_patience": trainer.out_of_patience,
        "trained_parameters": sum(parameter.numel() for parameter in trained),
    }


def _count_head_epochs(trainer: TrialTrainer) -> int:
    trial = trainer.trial
    return sum(trial.trains_head_alone(epoch.epoch) for epoch in trainer.history)


def _features_origin(trainer: TrialTrainer) -> str:
    head_epochs = _count_head_epochs(trainer)
    if not head_epochs:
        return "computed"
    return "cached" if head_epochs == len(trainer.history) else "cached, then computed"


def _count_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def batch_norm_scope(trainer: TrialTrainer) -> str | None:
    """Return what BatchNorm's statistics are taken over in training; None if none is trained."""
    trainer.set_train_mode()
    modules = trainer.trained_module.modules()
    if not any(isinstance(module, _BatchNorm) and module.training for module in modules):
        return None
    if trainer.worker_group.size == 1 or trainer.device.type == "cuda":
        return "whole batch"
    return "each worker's share"


def _prediction_rows(
    trainer: TrialTrainer, subset: str, indices: np.ndarray, logits: torch.Tensor
) -> list[Row]:
    images = trainer.images
    rows = []
    for index, probabilities in zip(indices, logits.double().softmax(1).cpu().numpy(), strict=True):
        row = {
            "key": trainer.trial.key,
            "subset": subset,
            "image": images.paths[index],
            "group": images.groups[index] if images.groups else None,
            "label": int(images.labels[index]),
            "prediction": int(probabilities.argmax()),
            "probabilities": probabilities,
        }
        rows.append(row)
    return rows


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
