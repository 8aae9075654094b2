"""TensorBoard files of every trial, beside its tables: `tensorboard --logdir results/NAME/tensorboard`."""

import contextlib
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event  # type: ignore[attr-defined]  # created on import
from tensorboardX.summary import scalar

from bioimg.config import TrialConfig
from bioimg.storage.filesystem import as_storage_error

CURVE_METRICS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


class TensorBoardListener:
    """Watches an experiment and writes the curves of each trial as they grow, one run per trial, named by its cell.

    tensorboardX's `SummaryWriter` isn't used: a full disk ends its thread, and the next write then blocks for ever.

    Raises:
        Unwritable: they can't be written.
    """

    def __init__(self, folder: str, trials: Iterable[TrialConfig], axes: Iterable[str]) -> None:
        axes = list(axes)
        self._folder = Path(folder)
        self._folder_names = {trial.key: _trial_folder_name(trial, axes) for trial in trials}
        self._writers: dict[str, EventsWriter] = {}

    def on_epoch(self, key: str, epoch: Mapping[str, Any]) -> None:
        path = self._folder / self._folder_names[key]
        with as_storage_error(path):
            if key not in self._writers:
                path.mkdir(parents=True, exist_ok=True)
                self._writers[key] = EventsWriter(str(path / "events"))
            for name in CURVE_METRICS:
                value = scalar(name, epoch[name])
                self._writers[key].write_event(
                    Event(summary=value, step=epoch["epoch"], wall_time=time.time())
                )
            self._writers[key].flush()

    def on_trial_end(self, key: str, status: str) -> None:
        if writer := self._writers.pop(key, None):
            with as_storage_error(self._folder / self._folder_names[key]):
                writer.close()

    def on_message(self, text: str) -> None:
        """Nothing: there are only curves."""

    def close(self) -> None:
        """Close the files of trials that haven't ended: the run was interrupted."""
        for writer in self._writers.values():
            with contextlib.suppress(OSError):  # of a full disk, which has been reported
                writer.close()


def _trial_folder_name(trial: TrialConfig, axes: list[str]) -> str:
    """A readable folder name that is unique to a trial."""
    return f"{re.sub(r'[^A-Za-z0-9=_.,-]+', '_', trial.format_fields(axes))}-{trial.key}".lstrip(
        "-"
    )
