"""The columns of a trial's row that come from its epochs. The rule of selection is here and nowhere else."""

from collections.abc import Mapping, Sequence
from typing import Any


def best_epoch(val_losses: Sequence[float]) -> int:
    """The number of the best epoch, counted from 1: the first with the lowest validation loss; 0 if there is none.

    The test set isn't used.
    """
    return min(range(len(val_losses)), key=val_losses.__getitem__, default=-1) + 1


def has_later_epochs(row: Mapping[str, Any], last: Mapping[str, Any] | None) -> bool:
    """Whether a trial has epochs, up to `last`, that its row doesn't include: it is being trained further, or was until that
    was interrupted."""
    return last is not None and last["epoch"] > row["epochs_run"]


def summarise_epochs(epochs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Columns of the trials table from rows of the epochs table, in order."""
    if not epochs:
        return {"epochs_run": 0, "train_seconds": 0.0}
    last, selected = epochs[-1], epochs[best_epoch([epoch["val_loss"] for epoch in epochs]) - 1]
    return {
        "epochs_run": len(epochs),
        "final_train_loss": last["train_loss"],
        "best_train_accuracy": max(epoch["train_accuracy"] for epoch in epochs),
        "best_val_loss": selected["val_loss"],
        "best_val_loss_epoch": selected["epoch"],
        "final_val_accuracy": last["val_accuracy"],
        "best_val_accuracy": max(epoch["val_accuracy"] for epoch in epochs),
        "train_seconds": sum(epoch["seconds"] for epoch in epochs),
    }
