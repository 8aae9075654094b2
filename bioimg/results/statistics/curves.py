"""Over-fitting, instability and unfinished training, read from the learning curves."""

from typing import Any

import numpy as np
import pandas as pd

CURVE_COLUMNS = ("key", "epochs", "gap", "last_fall", "rise", "oscillation", "findings")
OVERFIT_MIN_RISE = 0.10
"""How far the validation loss of an over-fitting trial ends above its minimum, as a share of it."""
UNSTABLE_MIN_OSCILLATION = 0.02
"""How far the validation accuracy of an unstable trial moves from epoch to epoch."""
MIN_OSCILLATION_EPOCHS = 4
IMPROVING_MIN_FALL = 2
"""Still improving: over the last tenth of its epochs the validation loss fell by more than this
many times its noise, the standard deviation of its steps in the second half of the run; or the last
epoch has the lowest loss."""


def diagnose_curves(epochs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per trial, in the order of the table of epochs.

    epochs: epochs run.
    gap: training minus validation accuracy in the last epoch.
    last_fall: epoch with the minimum of the validation loss, null if no loss was recorded.
    rise: how far the validation loss ends above its minimum, as a share of it.
    oscillation: root mean square change of the validation accuracy from epoch to epoch over the
        second half of the run; null with fewer than 4 epochs.
    findings: a tuple of codes: no_loss (none was recorded), or still_improving, overfitting and
        unstable where the constants above say so.
    """
    rows = []
    for key, curve in epochs.groupby("key", sort=False):
        rows.append(_diagnose_curve(str(key), curve.sort_values("epoch")))
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def _diagnose_curve(key: str, curve: pd.DataFrame) -> dict[str, Any]:
    row: dict[str, Any] = {
        "key": key,
        "epochs": len(curve),
        "gap": float(curve["train_accuracy"].iloc[-1] - curve["val_accuracy"].iloc[-1]),
        "last_fall": None,
        "rise": float("nan"),
        "oscillation": _accuracy_oscillation(curve["val_accuracy"].to_numpy()),
    }
    loss = curve["val_loss"].to_numpy()
    if np.isnan(loss).all():
        return row | {"findings": ("no_loss",)}
    lowest = int(np.nanargmin(loss))
    row["last_fall"] = int(curve["epoch"].iloc[lowest])
    if loss[lowest] > 0:
        row["rise"] = float(loss[-1] / loss[lowest] - 1)
    train_loss = curve["train_loss"].to_numpy()
    is_still_learning = bool(train_loss[-1] < train_loss[lowest])
    findings = []
    if _is_still_improving(loss):
        findings.append("still_improving")
    if row["rise"] > OVERFIT_MIN_RISE and is_still_learning:
        findings.append("overfitting")
    if row["oscillation"] > UNSTABLE_MIN_OSCILLATION:
        findings.append("unstable")
    return row | {"findings": tuple(findings)}


def _accuracy_oscillation(accuracy: np.ndarray) -> float:
    if len(accuracy) < MIN_OSCILLATION_EPOCHS:
        return float("nan")
    steps = np.diff(accuracy[len(accuracy) // 2 :])
    return float(np.sqrt(np.mean(steps**2)))


def _is_still_improving(loss: np.ndarray) -> bool:
    """Return True if a validation loss, [epochs], was still falling when it ended."""
    if len(loss) < 2 or np.isnan(loss).any():
        return False
    if loss.argmin() == len(loss) - 1:
        return True
    late_steps = np.diff(loss[len(loss) // 2 :])
    if len(late_steps) < 2:
        return False
    last_tenth = max(1, len(loss) // 10)
    fall = loss[-1 - last_tenth] - loss[-1]
    return bool(fall > IMPROVING_MIN_FALL * late_steps.std(ddof=1))
