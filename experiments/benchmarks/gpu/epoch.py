"""What an epoch costs besides its steps; features of a frozen backbone, and heads on them."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu.workload import make_trainer, make_trial
from benchmarks.harness import Outcome, elapsed_seconds
from benchmarks.step import noise_images, split_in_order
from bioimg.storage.filesystem import Content, LocalStorage, open_storage
from bioimg.training import checkpoints
from bioimg.training.loop import train
from bioimg.training.trial_trainer import TrialTrainer

SUBSETS, SMALL_SUBSETS = (2550, 600, 600), (64, 16, 16)
"""Images to train, validate and test; the former are those of the report of 2023."""
HEAD_EPOCHS, SMALL_HEAD_EPOCHS = 100, 2
REPEATS = 3


class DiscardingStorage(LocalStorage):
    """A folder to which writing takes no time."""

    def write(self, name: str, content: Content, *, flush: bool = True) -> None:
        pass


def measure(small: bool) -> Outcome:
    """Train for two epochs, and repeat what happens at the end of one. Then train heads."""
    trial = make_trial(small, epochs=2)
    subsets = SMALL_SUBSETS if small else SUBSETS
    images, split = noise_images(sum(subsets), trial.image_size), split_in_order(*subsets)
    trainer = make_trainer(trial, images, split)
    *_, epoch = train(trainer)
    rows = [{"work": "an epoch with its validation", "seconds": epoch.seconds}, *end_rows(trainer)]
    for row in rows:
        row["% of an epoch"] = 100 * row["seconds"] / epoch.seconds
    for augmentation in ("none", "dihedral"):
        frozen = dataclasses.replace(
            trial,
            freeze="features",
            augmentation=augmentation,
            epochs=SMALL_HEAD_EPOCHS if small else HEAD_EPOCHS,
        )
        rows += head_rows(make_trainer(frozen, images, split))
    title = f"{trial.model}, {trial.image_size} px, {len(split.train):,} training images"
    return Outcome(title, rows, [])


def end_rows(trainer: TrialTrainer) -> list[dict[str, Any]]:
    """Return the times of what happens at the end of an epoch."""
    first = trainer.history[0]

    def keep_best() -> None:
        trainer.history.clear()
        trainer.add_epoch(first)

    with tempfile.TemporaryDirectory() as folder:
        storage, discarding = open_storage(folder), DiscardingStorage(Path(folder))
        parts = {
            "validation": lambda: trainer.evaluate(trainer.split.val),
            "copy of the best epoch": keep_best,
            "state, packed": lambda: checkpoints.save_state(trainer, discarding, "a"),
            "state, packed and written": lambda: checkpoints.save_state(trainer, storage, "a"),
        }
        rows = []
        for name, work in parts.items():
            seconds = min(elapsed_seconds(work) for _ in range(REPEATS))
            rows.append({"work": name, "seconds": seconds})
    return rows


def head_rows(trainer: TrialTrainer) -> list[dict[str, Any]]:
    """Return the times of a frozen trial's features and of its epochs."""
    trial, split = trainer.trial, trainer.split
    views = 8 if trial.augmentation == "dihedral" else 1
    features = len(trainer.images) + (views - 1) * len(split.train)
    seconds = trainer.features_seconds
    assert seconds
    return [
        {
            "work": f"features, augmentation {trial.augmentation}",
            "seconds": seconds,
            "images/s": features / seconds,
        },
        {
            "work": f"{trial.epochs} epochs of a head on them",
            "seconds": elapsed_seconds(lambda: list(train(trainer))),
        },
    ]
