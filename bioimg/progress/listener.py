"""What follows an experiment while it runs: progress table, TensorBoard, trackers."""

from collections.abc import Mapping
from typing import Any, Protocol


def named_metrics(epoch: Mapping[str, Any], score_used: str) -> dict[str, float]:
    """Return the metrics of an epoch by their names; that of the score is the score's own."""
    metrics = dict(epoch)
    for name in ("epoch", "val_correct"):
        metrics.pop(name, None)
    metrics[f"val_{score_used}"] = metrics.pop("val_score")
    return metrics


class ProgressListener(Protocol):
    """Follow the progress of trials. `key` is the key of the trial."""

    def on_epoch(self, key: str, epoch: Mapping[str, Any]) -> None:
        """Take the row of an epoch that a trial has finished."""

    def on_trial_end(self, key: str, status: str) -> None:
        """Take the status of a trial that has ended."""

    def on_message(self, text: str) -> None:
        """Take a message that isn't about one trial."""


class CombinedListener:
    """Pass everything on to several listeners."""

    def __init__(self, *listeners: ProgressListener) -> None:
        self._listeners = listeners

    def on_epoch(self, key: str, epoch: Mapping[str, Any]) -> None:
        for listener in self._listeners:
            listener.on_epoch(key, epoch)

    def on_trial_end(self, key: str, status: str) -> None:
        for listener in self._listeners:
            listener.on_trial_end(key, status)

    def on_message(self, text: str) -> None:
        for listener in self._listeners:
            listener.on_message(text)
