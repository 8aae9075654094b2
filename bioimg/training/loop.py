"""The training loop."""

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F

from bioimg.results.epoch_summary import EpochMetrics
from bioimg.training import precision
from bioimg.training.batches import batch_bounds, draw_epoch, iter_training_steps
from bioimg.training.trial_trainer import TrialTrainer


class NonFiniteLossError(ArithmeticError):
    """A loss, or gradients of it at any loss scale, that are infinite or not numbers."""


def train(trainer: TrialTrainer) -> Iterator[EpochMetrics]:
    """Train from the trainer's current state to the last epoch or the end of the trial's patience.

    Yields each epoch after its validation. Between two epochs the caller may save
    `trainer.state_dict()`, or stop iterating.

    Raises:
        NonFiniteLossError: a loss isn't finite, or its gradients in float16. It names the epoch.
    """
    trial, split, group = trainer.trial, trainer.split, trainer.worker_group
    labels = trainer.images.labels
    labels_on_device = torch.from_numpy(labels).to(trainer.device)
    batch_sizes = np.diff(batch_bounds(len(split.train), trial.batch_size)).ravel()

    for epoch in range(len(trainer.history) + 1, trial.epochs + 1):
        if trainer.out_of_patience:
            return
        trainer.start_phase(epoch)
        started = time.perf_counter()
        trainer.start_epoch(epoch)
        epoch_images = draw_epoch(
            split.train,
            labels,
            seed=trial.seed,
            epoch=epoch,
            sampling=trial.sampling,
            augmentation=trial.augmentation,
        )
        losses = []
        correct = torch.zeros((), dtype=torch.int64, device=trainer.device)

        for step, (batch, loss_factor) in enumerate(
            iter_training_steps(epoch_images, trial.batch_size, group, trainer.device), start=1
        ):
            trainer.set_learning_rate(epoch, step / len(batch_sizes))
            targets = labels_on_device[batch.on_device(trainer.device)[0]]
            logits = trainer.forward(batch)
            loss_sum = F.cross_entropy(logits, targets, trainer.class_weights, reduction="sum")
            loss = loss_sum * loss_factor
            trainer.loss_scaler.scale(loss).backward()
            trainer.loss_scaler.step(trainer.optimizer)
            trainer.loss_scaler.update()
            trainer.optimizer.zero_grad(set_to_none=True)
            # stays on the device, so that no step waits for the number
            losses.append(loss.detach())
            if loss_factor:
                correct += (logits.argmax(1) == targets).sum()

        batch_losses = group.sum_in_place(torch.stack(losses).double()).cpu().numpy() / group.size
        _check_finite(batch_losses, epoch, trainer)
        _check_loss_scale(epoch, epoch * len(batch_sizes), trainer)
        validation = trainer.evaluate(split.val)
        _check_finite(np.array([validation.loss]), epoch, trainer)
        yield trainer.add_epoch(
            EpochMetrics(
                epoch=epoch,
                train_loss=float(np.average(batch_losses, weights=batch_sizes)),
                train_accuracy=group.sum_in_place(correct).item() / len(split.train),
                val_loss=validation.loss,
                val_accuracy=validation.accuracy,
                val_score=validation.score,
                val_correct=np.packbits(validation.correct).tobytes(),
                seconds=time.perf_counter() - started,
            )
        )


def _check_finite(losses: np.ndarray, epoch: int, trainer: TrialTrainer) -> None:
    bad_steps = np.flatnonzero(~np.isfinite(losses))
    if not len(bad_steps):
        return
    loss = losses[bad_steps[0]]
    position = f"step {bad_steps[0] + 1} of {len(losses)}" if len(losses) > 1 else "its end"
    raise NonFiniteLossError(
        f"the loss is {loss} at epoch {epoch}, {position}. Lower `learning_rate` "
        f"({trainer.trial.learning_rate}), or set `precision` to float32 "
        f"({precision.dtype_name(trainer.dtype)} was used)."
    )


def _check_loss_scale(epoch: int, steps: int, trainer: TrialTrainer) -> None:
    """Check that float16 holds gradients, and that some of the steps so far changed the weights.

    A short trial may end, with every step skipped, before its loss scale is too small.
    """
    scale = trainer.loss_scaler.get_scale()
    skipped = trainer.loss_scaler.skipped_steps
    way_out = (
        f"Set `precision` to float32, or lower `learning_rate` ({trainer.trial.learning_rate})."
    )
    if scale < precision.MIN_LOSS_SCALE:
        raise NonFiniteLossError(
            f"the loss scale of float16 is {scale:g} at epoch {epoch}, but must be at least "
            f"{precision.MIN_LOSS_SCALE:g}: gradients overflowed in {skipped} steps. {way_out}"
        )
    if epoch == trainer.trial.epochs and skipped == steps:
        raise NonFiniteLossError(
            f"nothing was trained: gradients overflowed in float16 in all {steps} steps. {way_out}"
        )
