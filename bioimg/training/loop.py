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
    """Train from where `run` stands to its last epoch or the end of its patience.

    Yields each epoch when it is over, validation included. Whoever drives the generator may save `run.state_dict()` between two
    epochs, or stop asking for more.

    Raises:
        NotFinite: names the epoch and the step.
    """
    trial, group, train_set, known = run.trial, run.group, run.split.train, run.images.labels
    labels, class_weights = torch.from_numpy(known).to(run.device), run.class_weights
    sizes = np.diff(boundaries(len(train_set), trial.batch_size)).ravel()

    for epoch in range(len(run.history) + 1, trial.epochs + 1):
        if run.out_of_patience:
            return
        started = time.perf_counter()
        run.begin(epoch)
        losses, correct = [], torch.zeros((), dtype=torch.int64, device=run.device)

        for batch, weight in steps(trial, train_set, known, epoch, group):
            target = labels[sent(batch.indices, run.device)]
            logits = run.forward(batch)
            loss = F.cross_entropy(logits, target, class_weights, reduction="sum") * weight
            loss.backward()
            run.optimizer.step()
            run.optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())  # stays on the device: no step waits for the number
            if weight:
                correct += (logits.argmax(1) == target).sum()

        batch_losses = group.sum(torch.stack(losses).double()).cpu().numpy() / group.size
        _check_finite(batch_losses, epoch, run)
        validation = run.score(run.split.val)
        _check_finite(np.array([validation.loss]), epoch, run)
        yield run.record(
            Epoch(
                epoch=epoch,
                train_loss=float(np.average(batch_losses, weights=sizes)),
                train_accuracy=group.sum(correct).item() / len(train_set),
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
