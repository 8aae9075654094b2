"""The work that all baselines do, as a file that each reads, and the rows that each writes."""

import dataclasses
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class Configuration(NamedTuple):
    """One configuration of the grid.

    `weights` is a file. `freeze` is `none` (all is trained) or `features` (only the head is).
    """

    weights: str
    batch_size: int
    freeze: str
    learning_rate: float

    @property
    def recipe(self) -> tuple[str, int, str]:
        """What is compared where each recipe has its own best learning rate."""
        return self.weights, self.batch_size, self.freeze


class ConfigurationResult(NamedTuple):
    """The outcome of one configuration.

    `train_images` is how many an epoch trains on. `val_accuracy` is that of the epoch with the
    lowest validation loss, which is tested: `val_losses` and `test_correct` have a value for each
    image, by class and name. What is tested is None if training was stopped early.
    """

    configuration: Configuration
    epochs: int
    train_images: int
    val_images: int
    test_images: int
    val_accuracy: float
    test_accuracy: float | None
    val_losses: list[float] | None
    test_correct: list[bool] | None

    @property
    def is_tested(self) -> bool:
        """True if it was trained in full."""
        return self.test_correct is not None

    @property
    def val_loss(self) -> float:
        """The lowest validation loss of what was trained in full."""
        assert self.val_losses
        return statistics.mean(self.val_losses)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A grid on images in FOLDER/{train,val,test}/CLASS.

    The optimizer is AdamW, at constant rates: a head on a frozen backbone learns at
    `head_rate_factor` times the learning rate. The epoch with the lowest validation loss is tested.
    If there are several learning rates, each recipe has the one with the lowest validation loss.
    """

    folder: str
    weights: tuple[str, ...]
    batch_sizes: tuple[int, ...] = (8, 16, 32)
    freezes: tuple[str, ...] = ("none", "features")
    epochs: int = 6
    model: str = "resnext50_32x4d"
    image_size: int = 150
    learning_rates: tuple[float, ...] = (1e-4,)
    head_rate_factor: float = 1.0
    weight_decay: float = 0.01
    seed: int = 0
    grace_period: int = 1
    reduction_factor: int = 2

    def configurations(self) -> list[Configuration]:
        """List every configuration, in the order in which it is submitted."""
        combinations = itertools.product(
            self.weights, self.batch_sizes, self.freezes, self.learning_rates
        )
        return [Configuration(*values) for values in combinations]

    @staticmethod
    def read(file: Path) -> "Task":
        """Read the task that `write` wrote."""
        fields: dict[str, Any] = json.loads(file.read_text())
        for name, value in fields.items():
            if isinstance(value, list):
                fields[name] = tuple(value)
        return Task(**fields)

    def write(self, file: Path) -> None:
        """Write the task as JSON."""
        file.write_text(json.dumps(dataclasses.asdict(self)))


def run_baseline_program(
    baselines: dict[str, Callable[[Task, Path], Iterable[ConfigurationResult]]],
) -> None:
    """Run a baseline as a program with the arguments NAME FOLDER.

    It reads FOLDER/task.json, works in that folder, and writes FOLDER/rows.json.
    """
    name, folder = sys.argv[1], Path(sys.argv[2])
    rows = list(baselines[name](Task.read(folder / "task.json"), folder))
    (folder / "rows.json").write_text(json.dumps(rows))


def read_rows(folder: Path) -> list[ConfigurationResult]:
    """Read the rows that a baseline wrote."""
    rows: list[Any] = json.loads((folder / "rows.json").read_text())
    return [ConfigurationResult(Configuration(*values), *rest) for values, *rest in rows]
