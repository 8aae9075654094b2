"""TensorBoard files of every trial: `tensorboard --logdir results/NAME/tensorboard`."""

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
from bioimg.progress.listener import named_metrics
from bioimg.storage.filesystem import as_storage_error


class TensorBoardListener:
    """Write the curves of each trial as they grow, in one TensorBoard run per trial.

    tensorboardX's `SummaryWriter` isn't used: a full disk ends its thread, and the next write then
    blocks forever.

    Raises:
        StorageError: a file can't be written.
    """

    def __init__(
        self, folder: str, trials: Iterable[TrialConfig], axes: Iterable[str], score_used: str
    ) -> None:
        names = list(axes)
        self._score_used = score_used
        self._folder = Path(folder)
        self._folder_names = {trial.key: _trial_folder_name(trial, names) for trial in trials}
        self._writers: dict[str, EventsWriter] = {}

    def on_epoch(self, key: str, epoch: Mapping[str, Any]) -> None:
        """Write the metrics of an epoch."""
        path = self._folder / self._folder_names[key]
        with as_storage_error(path):
            if key not in self._writers:
                path.mkdir(parents=True, exist_ok=True)
                self._writers[key] = EventsWriter(str(path / "events"))
            writer = self._writers[key]
            for name, value in named_metrics(epoch, self._score_used).items():
                summary = scalar(name, value)
                writer.write_event(
                    Event(summary=summary, step=epoch["epoch"], wall_time=time.time())
                )
            writer.flush()

    def on_trial_end(self, key: str, status: str) -> None:
        """Close the file of a trial."""
        if writer := self._writers.pop(key, None):
            with as_storage_error(self._folder / self._folder_names[key]):
                writer.close()

    def on_message(self, text: str) -> None:
        """Ignore a message, since the files hold only curves."""

    def close(self) -> None:
        """Close the files of trials that haven't ended, after an interruption."""
        for writer in self._writers.values():
            # a full disk has been reported by then
            with contextlib.suppress(OSError):
                writer.close()


def _trial_folder_name(trial: TrialConfig, axes: list[str]) -> str:
    """Return a readable folder name that is unique to a trial."""
    settings = re.sub(r"[^A-Za-z0-9=_.,-]+", "_", trial.format_fields(axes))
    return f"{settings}-{trial.key}".lstrip("-")
