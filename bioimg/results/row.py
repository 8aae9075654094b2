"""What the epochs of a trial come to in its row. The rule of selection is here and nowhere else."""

from collections.abc import Mapping, Sequence
from typing import Any


def summary(epochs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Columns of the trials table from rows of the epochs table, in order.

    The best epoch is the first of those with the lowest validation loss; the test set has no part in it.
    """
    if not epochs:
        return {"epochs_run": 0, "train_seconds": 0.0}
    last, best = epochs[-1], min(epochs, key=lambda epoch: epoch["val_loss"])
    return {
        "epochs_run": len(epochs),
        "final_train_loss": last["train_loss"],
        "best_train_accuracy": max(epoch["train_accuracy"] for epoch in epochs),
        "best_val_loss": best["val_loss"],
        "best_val_loss_epoch": best["epoch"],
        "final_val_accuracy": last["val_accuracy"],
        "best_val_accuracy": max(epoch["val_accuracy"] for epoch in epochs),
        "train_seconds": sum(epoch["seconds"] for epoch in epochs),
    }
