"""Over-fitting and instability, read from the curves."""

import numpy as np
import pandas as pd

CURVE_COLUMNS = ("key", "epochs", "gap", "last_fall", "rise", "oscillation", "reading")
OVERFIT_MIN_RISE = 0.10
"""A validation loss that ends this share above its minimum while training loss still falls is called over-fitting."""
UNSTABLE_MIN_OSCILLATION = 0.02
"""A validation accuracy that typically moves by more than this from one epoch to the next is called unstable."""


def diagnose_curves(epochs: pd.DataFrame) -> pd.DataFrame:
    """One row per trial, in the order of the table of epochs.

    epochs:      epochs run.
    gap:         training minus validation accuracy in the last epoch.
    last_fall:   epoch after which the validation loss no longer fell below what it had been.
    rise:        how far the validation loss ends above its minimum, as a share of it.
    oscillation: root mean square change of the validation accuracy from epoch to epoch over the second half of the run;
                 null with fewer than 4 epochs.
    reading:     the same in words.
    """
    rows = [
        _diagnose_curve(str(key), curve.sort_values("epoch"))
        for key, curve in epochs.groupby("key", sort=False)
    ]
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def _diagnose_curve(key: str, curve: pd.DataFrame) -> dict[str, object]:
    loss = curve["val_loss"].to_numpy()
    known = not np.isnan(loss).all()
    lowest = int(np.nanargmin(loss)) if known else 0
    row: dict[str, object] = {"key": key, "epochs": len(curve)}
    row["gap"] = float(curve["train_accuracy"].iloc[-1] - curve["val_accuracy"].iloc[-1])
    row["last_fall"] = int(curve["epoch"].iloc[lowest]) if known else None
    row["rise"] = float(loss[-1] / loss[lowest] - 1) if known and loss[lowest] > 0 else float("nan")
    row["oscillation"] = _accuracy_oscillation(curve["val_accuracy"].to_numpy())
    return row | {
        "reading": _diagnosis_text(row, _train_loss_fell(curve["train_loss"].to_numpy(), lowest))
    }


def _accuracy_oscillation(accuracy: np.ndarray) -> float:
    steps = np.diff(accuracy[len(accuracy) // 2 :])
    return float(np.sqrt(np.mean(steps**2))) if len(accuracy) >= 4 else float("nan")


def _train_loss_fell(train_loss: np.ndarray, since: int) -> bool:
    """Whether the training loss ended lower than it was at an epoch."""
    return bool(train_loss[-1] < train_loss[since])


def _diagnosis_text(row: dict, falls: bool) -> str:
    if row["last_fall"] is None:
        return "no validation loss was recorded"
    parts = [f"validation loss fell until epoch {row['last_fall']} of {row['epochs']}"]
    if row["rise"] > OVERFIT_MIN_RISE and falls:
        parts.append(
            f"then rose by {row['rise']:.0%} while training loss fell: over-fitting".replace(
                "%", " %"
            )
        )
    if row["oscillation"] > UNSTABLE_MIN_OSCILLATION:
        parts.append(
            f"validation accuracy moves by {100 * row['oscillation']:.1f} points from epoch to epoch: unstable"
        )
    return "; ".join(parts)
