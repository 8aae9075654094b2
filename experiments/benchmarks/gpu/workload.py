"""What phases train, and how they watch it."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import psutil
import torch

from benchmarks.harness import local_device
from benchmarks.step import noise_images, split_in_order
from bioimg.config import TrialConfig
from bioimg.data.image_set import ImageSet, Split
from bioimg.training import loop
from bioimg.training.batches import TrainingStep
from bioimg.training.loop import train
from bioimg.training.trial_trainer import TrialTrainer

NUMBER_FORMATS: dict[str, dict[str, Any]] = {
    "float32": {"precision": "float32"},
    "TF32": {"precision": "float32", "tf32": True},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
}
"""Fields of a trial."""

SMALL_DEMO_FLAGS = (
    *("--weights", "none"),
    *("--freeze", "none"),
    *("--image-size", "32"),
    *("--batch-size", "32"),
    *("--learning-rate", "5e-4"),
    *("--tune",),
    *("--epochs", "12"),
)
"""Flags that leave one small trial of the demo."""


def make_trial(small: bool, **fields: Any) -> TrialConfig:
    """Return a trial of ResNeXt-50 at 150 px, or a small one."""
    base: dict[str, Any] = {"model": "resnext50_32x4d", "weights": "none", "epochs": 3}
    if small:
        base |= {"model": "resnext_tiny", "image_size": 32, "batch_size": 8, "epochs": 2}
    return TrialConfig(**{**base, **fields})


def make_trainer(trial: TrialConfig, images: ImageSet, split: Split) -> TrialTrainer:
    """Return a trial's trainer on the device that there is."""
    return TrialTrainer(trial, images, split, device=local_device())


def make_noise_trainer(trial: TrialConfig, steps: int) -> TrialTrainer:
    """Return a trainer whose epochs have so many steps, on noise."""
    count = steps * trial.batch_size
    images = noise_images(count + 2, trial.image_size)
    return make_trainer(trial, images, split_in_order(count))


def training_rate(trainer: TrialTrainer) -> float:
    """Return the images per second of the fastest epoch after the first."""
    _, *seconds = [epoch.seconds for epoch in train(trainer)]
    return len(trainer.split.train) / min(seconds)


@contextlib.contextmanager
def within_steps(make_context: Callable[[int], AbstractContextManager]) -> Iterator[None]:
    """Have each step of the training loop run in a context, which is made for its number."""
    iter_training_steps = loop.iter_training_steps

    def watched_steps(*args: Any) -> Iterator[TrainingStep]:
        for number, step in enumerate(iter_training_steps(*args)):
            with make_context(number):
                yield step

    with mock.patch.object(loop, "iter_training_steps", watched_steps):
        yield


def reset_peak_memory() -> None:
    """Start to measure the peak of the GPU's memory anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def used_memory() -> dict[str, float]:
    """Return MiB on the GPU, now and at the peak; without one, those of this process."""
    if torch.cuda.is_available():
        used, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    else:
        used = peak = psutil.Process().memory_info().rss
    return {"MiB": used / 2**20, "peak MiB": peak / 2**20}
