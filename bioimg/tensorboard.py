"""TensorBoard files of every trial, beside its tables: `tensorboard --logdir results/NAME/tensorboard`."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tensorboardX import SummaryWriter

from bioimg.config import TrialConfig

CURVES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


class TensorBoard:
    """Watches an experiment and writes the curves of each trial as they grow, one run per trial, named by its cell."""

    def __init__(self, folder: str, trials: Iterable[TrialConfig], axes: Iterable[str]) -> None:
        axes = list(axes)
        self._folder = folder
        self._names = {trial.key: _name(trial, axes) for trial in trials}
        self._writers: dict[str, SummaryWriter] = {}

    def epoch(self, key: str, epoch: Mapping[str, Any]) -> None:
        if key not in self._writers:
            self._writers[key] = SummaryWriter(f"{self._folder}/{self._names[key]}", flush_secs=10)
        for name in CURVES:
            self._writers[key].add_scalar(name, epoch[name], epoch["epoch"])

    def end(self, key: str, status: str) -> None:
        if writer := self._writers.pop(key, None):
            writer.close()

    def say(self, text: str) -> None:
        """Nothing: there are only curves."""


def _name(trial: TrialConfig, axes: list[str]) -> str:
    """A folder's name that a person can read, and of which there is one for each trial."""
    return f"{re.sub(r'[^A-Za-z0-9=_.,-]+', '_', trial.describe(axes))}-{trial.key}".lstrip("-")
