"""Training against a DataLoader loop as a user would write it, on the same images and model."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import bioimg.models.resnext_tiny  # noqa: F401  (registers resnext_tiny with torchvision)
from benchmarks import images
from benchmarks.baselines.pytorch_loop import loader_processes
from benchmarks.gpu.machine import copy_bandwidth
from benchmarks.gpu.profile import count_step_bytes
from benchmarks.gpu.workload import make_trainer, make_trial, training_rate
from benchmarks.harness import Outcome, Target, elapsed_seconds, local_device
from benchmarks.step import split_in_order
from bioimg.config import DatasetConfig, TrialConfig
from bioimg.data import load_dataset

REPEATED_IMAGES = 4
"""How often an epoch has each of the synthetic images, so that it isn't too short to measure."""


def measure(small: bool) -> Outcome:
    """Train both in bfloat16, on all images of a folder."""
    repeats = 1 if small else REPEATED_IMAGES
    trial = make_trial(small, precision="bfloat16")
    with tempfile.TemporaryDirectory() as name:
        folder = images.given_or_synthetic(None, Path(name), trial.image_size)
        dataset = load_dataset(DatasetConfig(data=str(folder), image_size=trial.image_size))
        split = split_in_order(len(dataset.images) - 2)
        split = dataclasses.replace(split, train=np.tile(split.train, repeats))
        trainer = make_trainer(trial, dataset.images, split)
        ours = training_rate(trainer)
        theirs = loop_rate(trial, folder, repeats)
    bytes_per_image = count_step_bytes(make_trainer(trial, dataset.images, split))
    limit = copy_bandwidth(small) / bytes_per_image
    rows = [
        {"loop": name, "images/s": rate, "share of copy bandwidth": rate / limit}
        for name, rate in (("this project", ours), ("DataLoader", theirs))
    ]
    target = Target("training against a DataLoader loop", ours / theirs, 1.0, "times")
    title = f"{trial.model}, {trial.image_size} px, batches of {trial.batch_size}, bfloat16"
    processes = loader_processes(local_device())
    notes = [f"DataLoader: {processes} processes, ImageFolder, autocast, channels last"]
    return Outcome(title, rows, [target], notes)


def loop_rate(trial: TrialConfig, folder: Path, repeats: int) -> float:
    """Return the images per second of the fastest epoch after the first."""
    device = local_device()
    steps = [
        v2.PILToTensor(),
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
    dataset = ImageFolder(str(folder), v2.Compose(steps))
    loader = DataLoader(
        ConcatDataset([dataset] * repeats),
        trial.batch_size,
        shuffle=True,
        num_workers=loader_processes(device),
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )
    model = torchvision.models.get_model(trial.model, num_classes=len(dataset.classes))
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), trial.learning_rate, fused=True)

    def train_epoch() -> None:
        for inputs, labels in loader:
            inputs = inputs.to(device, non_blocking=True, memory_format=torch.channels_last)
            labels = labels.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16):
                loss = F.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    _, *seconds = [elapsed_seconds(train_epoch) for _ in range(trial.epochs)]
    return repeats * len(dataset) / min(seconds)
