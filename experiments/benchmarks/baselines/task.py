"""The work that contenders share, as a file that each reads, and the rows that each writes."""

import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class Configuration(NamedTuple):
    """One configuration of the grid. `weights` is a file; `freeze` is none (all is trained) or features (the head is)."""

    weights: str
    batch_size: int
    freeze: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """A grid on images in FOLDER/{train,val,test}/CLASS. AdamW; the epoch with the lowest validation loss is tested."""

    folder: str
    weights: tuple[str, ...]
    batch_sizes: tuple[int, ...] = (8, 16, 32)
    freezes: tuple[str, ...] = ("none", "features")
    epochs: int = 6
    model: str = "resnext50_32x4d"
    image_size: int = 150
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    seed: int = 0
    grace_period: int = 1
    reduction_factor: int = 2

    def configurations(self) -> list[Configuration]:
        """Every configuration, in the order in which it is submitted."""
        return [
            Configuration(*cell)
            for cell in itertools.product(self.weights, self.batch_sizes, self.freezes)
        ]

    @staticmethod
    def read(file: Path) -> "Task":
        """The task that `write` wrote."""
        fields: dict[str, Any] = json.loads(file.read_text())
        for name, value in fields.items():
            if isinstance(value, list):
                fields[name] = tuple(value)
        return Task(**fields)

    def write(self, file: Path) -> None:
        """As JSON."""
        file.write_text(json.dumps(dataclasses.asdict(self)))


class ConfigurationResult(NamedTuple):
    """The outcome of one configuration. `train_images` is how many an epoch trains on, `val_accuracy` is that of the epoch with
    the lowest validation loss, and `test_accuracy` is missing if training was stopped early."""

    cell: Configuration
    epochs: int
    train_images: int
    val_images: int
    test_images: int
    val_accuracy: float
    test_accuracy: float | None


def run_contender_program(
    contenders: dict[str, Callable[[Task, Path], Iterable[ConfigurationResult]]],
) -> None:
    """The program of a contender: NAME FOLDER reads FOLDER/task.json, works in that folder, and writes FOLDER/rows.json."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    rows = list(contenders[name](Task.read(folder / "task.json"), folder))
    (folder / "rows.json").write_text(json.dumps(rows))


def read_rows(folder: Path) -> list[ConfigurationResult]:
    """The rows that a contender wrote."""
    rows: list[Any] = json.loads((folder / "rows.json").read_text())
    return [ConfigurationResult(Configuration(*cell), *rest) for cell, *rest in rows]
