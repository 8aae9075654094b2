"""Small things to test with: a model, a set of images, an experiment. They are real, not mocks."""

import os
import signal
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torchvision.models._api import WeightsEnum, register_model

from bioimg.config import TrialConfig
from bioimg.data.image_set import Dataset, ImageSet
from bioimg.data.splitting import split_images
from bioimg.errors import UserError
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
    """There are none."""


@register_model()
def toy(*, weights: ToyWeights | None = None, progress: bool = True, **kwargs: int) -> Toy:
    return Toy(**kwargs)


def images(per_class: int = 25, classes: int = 3, size: int = 16) -> ImageSet:
    """Noise around a different colour for each class."""
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), per_class)
    colours = draw.integers(60, 200, (classes, 1, 1, 3))
    pixels = (
        (colours[labels] + draw.normal(0, 40, (len(labels), size, size, 3)))
        .clip(0, 255)
        .astype(np.uint8)
    )
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
    """A quick trial of the toy model."""
    few = {
        "model": "toy",
        "weights": "none",
        "image_size": 16,
        "epochs": 3,
        "batch_size": 12,
        "learning_rate": 0.01,
    }
    return TrialConfig(**{**few, "precision": "float32", **fields})  # type: ignore[arg-type]


def dataset(config: TrialConfig, of: ImageSet | None = None) -> Dataset:
    """The images, split as a trial says."""
    of = of or images()
    return Dataset(images=of, split=split_images(of, config.split_config))


def run(
    config: TrialConfig,
    of: ImageSet | None = None,
    group: WorkerGroup = SINGLE_WORKER,
    device: str = "cpu",
) -> TrialTrainer:
    """A run of a trial."""
    data = dataset(config, of)
    return TrialTrainer(
        config, data.images, data.split, device=torch.device(device), worker_group=group
    )


class Deadly(Toy):
    """Kills its process at a batch of more than 12 images, as Linux does when memory runs out."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and len(images) > 12:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


class Greedy(Toy):
    """Runs out of a GPU's memory at a batch of more than 6 images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and len(images) > 6:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {os.getpid()} MiB."
            )
        return super().forward(images)


FIRST, SECOND = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
"""Where control groups of version 1 are, that limit memory, and those of version 2."""
CAGE = (FIRST if FIRST.exists() else SECOND) / "bioimg-tests"
"""A control group with little memory, where a test has made one."""
LIMITS = (
    {"memory.limit_in_bytes": 200 * 2**20}
    if FIRST.exists()
    else {"memory.max": 200 * 2**20, "memory.swap.max": 0}
)
KILLS = "memory.oom_control" if FIRST.exists() else "memory.events"
"""Names of its files: of those that limit it, and of the one that tells how many processes were killed."""


class Hungry(Toy):
    """Takes more memory than that group has at a batch of more than 12 images, so that Linux kills it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and len(images) > 12:
            (CAGE / "cgroup.procs").write_text(str(os.getpid()))
            torch.ones(10**9, dtype=torch.uint8)
        return super().forward(images)


class Lonely(Toy):
    """Can't be made by the second of two workers, at the first time: as where a file is missing on one machine."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__(num_classes)
        if dist.is_initialized() and dist.get_rank() == 1 and not (told := Path("told")).exists():
            told.touch()
            raise UserError(
                "the value of `weights` is 'w.pth', but must be a file, and there is none on this machine."
            )


class Name(str):
    """An experiment's name that brings this module, and so its models, into the processes that it goes to."""


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
