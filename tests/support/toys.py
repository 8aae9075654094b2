"""Small things to test with: models, a set of images, trials. They are real, not mocks."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ray
import torch
import torch.distributed as dist
from torch import nn
from torchvision.models._api import WeightsEnum, register_model

from bioimg.config import TrialConfig
from bioimg.data.image_set import Dataset, ImageSet
from bioimg.data.splitting import split_images
from bioimg.errors import UserError
from bioimg.training import feature_cache, frozen_backbone
from bioimg.training.distributed import SINGLE_WORKER, WorkerGroup
from bioimg.training.trial_trainer import TrialTrainer


class Toy(nn.Module):
    """Two convolutions and a head, without BatchNorm."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.fc = nn.Linear(16, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(self.stem(images)))


class ToyWeights(WeightsEnum):
    """No weights: `weights` is always 'none'."""


@register_model()
def toy(*, weights: ToyWeights | None = None, progress: bool = True, **kwargs: int) -> Toy:
    return Toy(**kwargs)


def images(per_class: int = 25, classes: int = 3, size: int = 16) -> ImageSet:
    """Return noise around a different colour for each class."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), per_class)
    colours = generator.integers(60, 200, (classes, 1, 1, 3))
    noise = generator.normal(0, 40, (len(labels), size, size, 3))
    pixels = (colours[labels] + noise).clip(0, 255).astype(np.uint8)
    names = tuple(f"class-{label}" for label in range(classes))
    return ImageSet(
        name="noise",
        pixels=pixels,
        labels=labels,
        classes=names,
        paths=tuple(f"{names[label]}/{index}.png" for index, label in enumerate(labels)),
        digests=tuple(f"{index:016x}" for index in range(len(labels))),
    )


def trial(**fields: object) -> TrialConfig:
    """Return a quick trial of the toy model."""
    defaults = {
        "model": "toy",
        "weights": "none",
        "image_size": 16,
        "epochs": 3,
        "batch_size": 12,
        "learning_rate": 0.01,
        "split": "stratified",
    }
    return TrialConfig(**{**defaults, "precision": "float32", **fields})  # type: ignore[arg-type]


def dataset(config: TrialConfig, image_set: ImageSet | None = None) -> Dataset:
    """Return the images, divided as a trial says."""
    image_set = image_set or images()
    return Dataset(images=image_set, split=split_images(image_set, config.split_config))


def run(
    config: TrialConfig,
    image_set: ImageSet | None = None,
    group: WorkerGroup = SINGLE_WORKER,
    device: str = "cpu",
    on_message: Callable[[str], None] = print,
) -> TrialTrainer:
    """Return the trainer of a trial."""
    data = dataset(config, image_set)
    return TrialTrainer(
        config,
        data.images,
        data.split,
        device=torch.device(device),
        worker_group=group,
        on_message=on_message,
    )


class Deadly(Toy):
    """Kill the process at a batch of more than 12 images, as Linux does when memory runs out."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and len(images) > 12:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


class Greedy(Toy):
    """Run out of a GPU's memory at a batch of more than 6 images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and len(images) > 6:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {os.getpid()} MiB."
            )
        return super().forward(images)


CGROUPS_V1 = Path("/sys/fs/cgroup/memory")
CGROUPS_V2 = Path("/sys/fs/cgroup")
"""Folders of control groups that limit memory, of version 1 and of version 2."""
CAGE = (CGROUPS_V1 if CGROUPS_V1.exists() else CGROUPS_V2) / "bioimg-tests"
"""A control group with little memory, where a test has made one."""
LIMITS = (
    {"memory.limit_in_bytes": 200 * 2**20}
    if CGROUPS_V1.exists()
    else {"memory.max": 200 * 2**20, "memory.swap.max": 0}
)
KILLS = "memory.oom_control" if CGROUPS_V1.exists() else "memory.events"
"""File of the control group that counts the processes which Linux killed."""


class Hungry(Toy):
    """Take more memory than the control group has at a batch of more than 12 images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and len(images) > 12:
            (CAGE / "cgroup.procs").write_text(str(os.getpid()))
            torch.ones(10**9, dtype=torch.uint8)
        return super().forward(images)


class Lonely(Toy):
    """Fail in the second of two workers, once, as where a file is missing on one machine."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__(num_classes)
        failed = Path("failed-once")
        if dist.is_initialized() and dist.get_rank() == 1 and not failed.exists():
            failed.touch()
            raise UserError("the value of `weights` is 'w.pth', but must be an existing file.")


class Slow(Toy):
    """Take long to compute features, as far as messages go."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__(num_classes)
        # only in a lane, whose workers are actors
        if ray.is_initialized() and ray.get_runtime_context().get_actor_id():
            feature_cache.FIRST_REPORT_S = frozen_backbone.SHORT_WAIT_S = 0


class Name(str):
    """Name an experiment; the name brings this module and its models into each process."""


@register_model()
def deadly(*, weights: ToyWeights | None = None, progress: bool = True, **kwargs: int) -> Deadly:
    return Deadly(**kwargs)


@register_model()
def greedy(*, weights: ToyWeights | None = None, progress: bool = True, **kwargs: int) -> Greedy:
    return Greedy(**kwargs)


@register_model()
def hungry(*, weights: ToyWeights | None = None, progress: bool = True, **kwargs: int) -> Hungry:
    return Hungry(**kwargs)


@register_model()
def lonely(*, weights: ToyWeights | None = None, progress: bool = True, **kwargs: int) -> Lonely:
    return Lonely(**kwargs)


@register_model()
def slow(*, weights: ToyWeights | None = None, progress: bool = True, **kwargs: int) -> Slow:
    return Slow(**kwargs)
