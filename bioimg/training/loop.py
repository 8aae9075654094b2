"""The training loop."""

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F

from bioimg.training import precision
from bioimg.training.batches import batch_bounds, iter_training_steps, to_device
from bioimg.training.trial_trainer import EpochMetrics, TrialTrainer


class NonFiniteLossError(ArithmeticError):
    """A loss that is infinite or not a number."""


def train(run: TrialTrainer) -> Iterator[EpochMetrics]:
    """Train from the current state of `run` to its last epoch or the end of its patience.

    Yields each epoch after its validation. Between two epochs the caller may save `run.state_dict()`, or stop iterating.

    Raises:
        NotFinite: a loss isn't finite; names the epoch and the step.
    """
    trial, group, indices = run.trial, run.worker_group, run.split.train
    labels = run.images.labels
    labels_on_device = torch.from_numpy(labels).to(run.device)
    batch_sizes = np.diff(batch_bounds(len(indices), trial.batch_size)).ravel()

    for epoch in range(len(run.history) + 1, trial.epochs + 1):
        if run.out_of_patience:
            return
        started = time.perf_counter()
        run.start_epoch(epoch)
        losses = []
        correct = torch.zeros((), dtype=torch.int64, device=run.device)

        for batch, weight in iter_training_steps(trial, indices, labels, epoch, group):
            targets = labels_on_device[to_device(batch.indices, run.device)]
            logits = run.forward(batch)
            loss = F.cross_entropy(logits, targets, run.class_weights, reduction="sum") * weight
            loss.backward()
            run.optimizer.step()
            run.optimizer.zero_grad(set_to_none=True)
            losses.append(
                loss.detach()
            )  # stays on the device, so that no step waits for the number
            if weight:
                correct += (logits.argmax(1) == targets).sum()

        batch_losses = group.sum_in_place(torch.stack(losses).double()).cpu().numpy() / group.size
        _check_finite(batch_losses, epoch, run)
        validation = run.score_images(run.split.val)
        _check_finite(np.array([validation.loss]), epoch, run)
        yield run.add_epoch(
            EpochMetrics(
                epoch=epoch,
                train_loss=float(np.average(batch_losses, weights=batch_sizes)),
                train_accuracy=group.sum_in_place(correct).item() / len(indices),
                val_loss=validation.loss,
                val_accuracy=validation.accuracy,
                seconds=time.perf_counter() - started,
            )
        )


def _check_finite(losses: np.ndarray, epoch: int, run: TrialTrainer) -> None:
    if not np.isfinite(losses).all():
        step = int(np.flatnonzero(~np.isfinite(losses))[0]) + 1
        where = f"step {step} of {len(losses)}" if len(losses) > 1 else "its end"
        raise NonFiniteLossError(
            f"the loss is {losses[step - 1]} at epoch {epoch}, {where}. Lower `learning_rate` ({run.trial.learning_rate}), "
            f"or set `precision` to float32 ({precision.dtype_name(run.dtype)} was used)."
        )
