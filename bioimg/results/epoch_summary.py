"""The results of an epoch, and the columns of a trial's row that come from its epochs.

Only here is the best epoch chosen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochMetrics:
    """The results of one epoch, as in the epochs table.

    Training figures are measured while the weights change.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    val_score: float
    val_correct: bytes | None
    seconds: float


def best_epoch(val_losses: Sequence[float]) -> int:
    """Return the number of the best epoch, counted from 1; 0 if there is no epoch.

    It is the first epoch with the lowest validation loss. The test set isn't used.
    """
    if not val_losses:
        return 0
    return val_losses.index(min(val_losses)) + 1


def has_later_epochs(row: Mapping[str, Any], last_epoch: Mapping[str, Any] | None) -> bool:
    """Check whether a trial has epochs, up to `last_epoch`, that its row doesn't include.

    Such a trial is being trained further, or was until that was interrupted.
    """
    return last_epoch is not None and last_epoch["epoch"] > row["epochs_run"]


def summarise_epochs(epochs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return columns of the trials table, given a trial's rows of the epochs table in order."""
    if not epochs:
        return {"epochs_run": 0, "train_seconds": 0.0}
    last = epochs[-1]
    best = epochs[best_epoch([epoch["val_loss"] for epoch in epochs]) - 1]
    return {
        "epochs_run": len(epochs),
        "final_train_loss": last["train_loss"],
        "best_train_accuracy": max(epoch["train_accuracy"] for epoch in epochs),
        "best_val_loss": best["val_loss"],
        "best_val_loss_epoch": best["epoch"],
        "train_accuracy": best["train_accuracy"],
        "val_accuracy": best["val_accuracy"],
        "val_score": best["val_score"],
        "final_val_accuracy": last["val_accuracy"],
        "best_val_accuracy": max(epoch["val_accuracy"] for epoch in epochs),
        "train_seconds": sum(epoch["seconds"] for epoch in epochs),
    }
