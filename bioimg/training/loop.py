"""The training loop."""

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F

from bioimg.training import precision
from bioimg.training.batches import boundaries, sent, steps
from bioimg.training.run import Epoch, Run


class NotFinite(ArithmeticError):
    """A loss that is infinite or not a number."""


def train(run: Run) -> Iterator[Epoch]:
    """Train from the current state of `run` to its last epoch or the end of its patience.

    Yields each epoch after its validation. Between two epochs the caller may save `run.state_dict()`, or stop iterating.

    Raises:
        NotFinite: a loss isn't finite; names the epoch and the step.
    """
    trial, group, indices = run.trial, run.group, run.split.train
    labels = run.images.labels
    labels_on_device = torch.from_numpy(labels).to(run.device)
    batch_sizes = np.diff(boundaries(len(indices), trial.batch_size)).ravel()

    for epoch in range(len(run.history) + 1, trial.epochs + 1):
        if run.out_of_patience:
            return
        started = time.perf_counter()
        run.begin(epoch)
        losses = []
        correct = torch.zeros((), dtype=torch.int64, device=run.device)

        for batch, weight in steps(trial, indices, labels, epoch, group):
            targets = labels_on_device[sent(batch.indices, run.device)]
            logits = run.forward(batch)
            loss = F.cross_entropy(logits, targets, run.class_weights, reduction="sum") * weight
            loss.backward()
            run.optimizer.step()
            run.optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())  # stays on the device, so that no step waits for the number
            if weight:
                correct += (logits.argmax(1) == targets).sum()

        batch_losses = group.sum(torch.stack(losses).double()).cpu().numpy() / group.size
        _check_finite(batch_losses, epoch, run)
        validation = run.score(run.split.val)
        _check_finite(np.array([validation.loss]), epoch, run)
        yield run.record(
            Epoch(
                epoch=epoch,
                train_loss=float(np.average(batch_losses, weights=batch_sizes)),
                train_accuracy=group.sum(correct).item() / len(indices),
                val_loss=validation.loss,
                val_accuracy=validation.accuracy,
                seconds=time.perf_counter() - started,
            )
        )


def _check_finite(losses: np.ndarray, epoch: int, run: Run) -> None:
    if not np.isfinite(losses).all():
        step = int(np.flatnonzero(~np.isfinite(losses))[0]) + 1
        where = f"step {step} of {len(losses)}" if len(losses) > 1 else "its end"
        raise NotFinite(
            f"the loss is {losses[step - 1]} at epoch {epoch}, {where}. Lower `learning_rate` ({run.trial.learning_rate}), "
            f"or set `precision` to float32 ({precision.name(run.dtype)} was used)."
        )
