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
from bioimg.data.imageset import ImageSet
from bioimg.data.split import split
from bioimg.experiment import Stop
from bioimg.results.folder import Unwritable
from bioimg.results.row import summary
from bioimg.results.store import Store
from bioimg.training import checkpoint, precision
from bioimg.training.distributed import ALONE, Group
from bioimg.training.evaluate import score
from bioimg.training.loop import NotFinite, train
from bioimg.training.run import Epoch, Run

Judge = Callable[[Epoch], Stop | None]
"""Called after each epoch by all workers alike. Returns why to stop, or None. After the last epoch, or the last of the
trial's patience, it has no effect."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where trials run and where they leave their rows."""

    experiment: str
    store: Store
    device: torch.device
    group: Group = ALONE


def run_trial(trial: TrialConfig, images: ImageSet, place: Place, judge: Judge) -> str:
    """Train, test and record a trial, from the last epoch that it, or a shorter trial like it, reached. Returns its status.

    An exception becomes a row `failed`. It is raised only if several workers train together and it may have occurred in just
    one of them: the others wait for that worker, so the group has to be made again.

    Raises:
        torch.AcceleratorError: the GPU failed for another reason than lack of memory: this process can't use it any more.
    """
    record = _Record(trial, images, place)
    try:
        run = Run(trial, images, split(images, trial), device=place.device, group=place.group)
        for epoch in record.take_up(run):
            if (stop := judge(epoch)) and not _is_last(epoch, run):
                return record.end("stopped", run, stop)
        record.start()
        for epoch in train(run):
            record.epoch(run)
            if (stop := judge(epoch)) and not _is_last(epoch, run):
                return record.end("stopped", run, stop)
        return record.end("completed", run)
    except (Unwritable, torch.AcceleratorError):  # a row `failed` couldn't be written either, or would blame the trial
        raise
    except Exception as error:
        if place.group.size > 1 and not isinstance(error, NotFinite):  # the loss is the whole group's
            raise
        return record.failed(error)


def _is_last(epoch: Epoch, run: Run) -> bool:
    """Whether an epoch completes the trial, whatever its judgement: the last one, or the last of the trial's patience."""
    return epoch.epoch == run.trial.epochs or (epoch is run.history[-1] and run.out_of_patience)


def is_complete(trial: TrialConfig, place: Place) -> bool:
    """Whether a process has recorded the trial as completed before it was killed. Every worker calls."""
    rows = place.store.tables.rows("trials", trial.key) if place.group.rank == 0 else []
    return place.group.broadcast(any(row["status"] == "completed" for row in rows))


def give_up(trial: TrialConfig, images: ImageSet, place: Place, reason: Exception) -> str:
    """Record the failure of a trial that isn't tried again."""
    return _Record(trial, images, place).failed(reason)


class _Record:
    """Writes the results of a trial. Every worker calls, rank 0 writes."""

    def __init__(self, trial: TrialConfig, images: ImageSet, place: Place) -> None:
        self._trial, self._images, self._place = trial, images, place
        self._idle_since = time.perf_counter()
        self._started_at: datetime.datetime | None = None
        self._run: Run | None = None
        self._writes = place.group.rank == 0
        self._files, self._folder = place.store.files, place.store.checkpoint(trial.key)

    def take_up(self, run: Run) -> list[Epoch]:
        """Resume where the trial, or a shorter one, left off. Returns the epochs whose judgement isn't on record.

        That is the last one, whose judgement may have been lost, or every epoch that another trial has trained.
        """
        recorded = 0
        if self._writes and checkpoint.prepare(self._trial, self._place.store):
            recorded = len(self._place.store.tables.rows("epochs", self._trial.key))
        recorded = self._place.group.broadcast(recorded)  # now the state is there for all workers
        checkpoint.load(run, self._files, self._folder)
        if len(run.history) != (known := self._place.group.broadcast(len(run.history))):  # NFS may show a file late elsewhere
            raise RuntimeError(f"this worker sees a state after {len(run.history)} epochs, and the first one after {known}.")
        self._run = run
        return run.history[max(min(recorded, len(run.history)) - 1, 0) :]

    def start(self) -> None:
        self._started_at = _now()

    def epoch(self, run: Run) -> None:
        self._idle_since += run.history[-1].seconds
        if self._writes:
            self._place.store.require_held()
            checkpoint.save(run, self._files, self._folder)
            if len(run.history) >= self._place.store.earlier_epochs.get(self._trial.key, 0):  # else they are trained again
                self._place.store.tables.write("epochs", self._trial.key, self._epochs(run))

    def end(self, status: str, run: Run, stop: Stop | None = None) -> str:
        outcome = stop._asdict() if stop else self._test(run)
        if self._writes:
            self._place.store.require_held()
            keep = self._place.store.keep
            spent = self._stop(run, stop, keep) if stop else checkpoint.finish(run, self._files, self._folder, keep)
            self._row(status, self._epochs(run), {**_about(run), **outcome}, spent)
            for name in spent:
                self._files.delete(name)
        return status

    def failed(self, error: Exception) -> str:
        if self._writes:
            self._place.store.require_held()
            self._files.write(f"{self._folder}/error.txt", "".join(traceback.format_exception(error)).encode())
            epochs, origin = self._past()
            self._row("failed", epochs, {"error": _reason(error), "continued_from": origin})
        return "failed"

    def _past(self) -> tuple[list[dict[str, Any]], str | None]:
        """The epochs of a failed trial, including those of a shorter one, which aren't on record before it has its own."""
        if self._run:
            return self._epochs(self._run), self._run.continued_from
        epochs, origin = checkpoint.past(self._files, self._folder)
        return [{"key": self._trial.key, **epoch} for epoch in epochs], origin

    def _stop(self, run: Run, stop: Stop, keep: str) -> list[str]:
        """End at the rung. Returns the states that aren't kept.

        For a rung among the epochs of a shorter trial there is no state, and that trial has a later one.
        """
        trained, run.history = len(run.history), run.history[: stop.stopped_at_rung]
        if len(run.history) < trained:
            return checkpoint.states(self._folder)
        return checkpoint.stop(run, self._files, self._folder, keep)

    def _test(self, run: Run) -> dict[str, Any]:
        """Measure the test set twice: as the last epoch left the model and, once, at the best epoch."""
        parts = {"val": run.split.val, "test": run.split.test}
        final = run.score(run.split.test)
        run.restore_best()
        logits = {part: run.evaluate(indices) for part, indices in parts.items()}
        if self._writes:
            rows = [row for part, indices in parts.items() for row in _predictions(run, part, indices, logits[part])]
            self._place.store.tables.write("predictions", self._trial.key, rows)
        labels, predicted = run.images.labels[run.split.test], logits["test"].argmax(1).cpu().numpy()
        return {
            "test_accuracy": score(logits["test"], labels).accuracy,
            "final_test_accuracy": final.accuracy,
            "balanced_accuracy": balanced_accuracy_score(labels, predicted),
            "macro_f1": f1_score(labels, predicted, average="macro", labels=np.unique(labels)),
        }

    def _epochs(self, run: Run) -> list[dict[str, Any]]:
        return [{"key": self._trial.key, **dataclasses.asdict(epoch)} for epoch in run.history]

    def _row(self, status: str, epochs: list[dict[str, Any]], more: dict[str, Any], spent: Collection[str] = ()) -> None:
        """Write the row; `spent` are files that will be deleted."""
        row = {
            "experiment": self._place.experiment,
            "key": self._trial.key,
            **dataclasses.asdict(self._trial),
            "data_fingerprint": self._images.fingerprint,
            "synthetic": self._images.synthetic,
            "unreadable_skipped": self._images.unreadable_skipped,
            "device": _device(self._place.device),
            "status": status,
            **summary(epochs),
            "bytes": sum(size for name, size in self._files.sizes(self._folder).items() if name not in spent),
            "wait_seconds": time.perf_counter() - self._idle_since,
            "started_at": self._started_at,
            "ended_at": _now(),
            **more,
        }
        self._place.store.tables.write("epochs", self._trial.key, epochs)
        self._place.store.tables.write("trials", self._trial.key, [row])


def _reason(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:  # the latter on a CPU
        text += " Lower `batch_size` or `image_size`, freeze more, or use a device with more memory."
    return text


def _about(run: Run) -> dict[str, Any]:
    return {
        "train_images": len(run.split.train),
        "val_images": len(run.split.val),
        "test_images": len(run.split.test),
        "split_fingerprint": run.split.fingerprint,
        "split_leaks_groups": run.split.leaks_groups,
        "duplicate_images_across_splits": run.split.duplicates,
        "weights_digest": run.weights_digest,
        "precision_used": precision.name(run.dtype),
        "batch_norm": run.batch_norm,
        "features": "computed" if run.features_seconds is None else "cached",
        "features_seconds": run.features_seconds,
        "continued_from": run.continued_from,
        "out_of_patience": run.out_of_patience,
        "trained_parameters": sum(p.numel() for p in run.learner.parameters() if p.requires_grad),
    }


def _predictions(run: Run, part: str, indices: np.ndarray, logits: torch.Tensor) -> list[dict[str, Any]]:
    probabilities = logits.double().softmax(1).cpu().numpy()
    groups = run.images.groups
    return [
        {
            "key": run.trial.key,
            "split": part,
            "image": run.images.paths[index],
            "group": groups[index] if groups else None,
            "label": int(run.images.labels[index]),
            "prediction": int(chances.argmax()),
            "probabilities": chances,
        }
        for index, chances in zip(indices, probabilities, strict=True)
    ]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
