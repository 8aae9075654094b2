"""What a user would write: a loop over configurations, each trained from the first epoch to the last, one after another.

`sequential` is ImageFolder, DataLoader and float32. `torchvision` is torchvision's reference recipe (references/classification
there) as run with --amp: its transforms, autocast (bfloat16 on a CPU), and the default memory format, since it has no flag
for another. In both a frozen backbone is run again in each epoch.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import bioimg.models.resnext_tiny  # noqa: F401  (registers resnext_tiny, for trials of this program)
from benchmarks.baselines.task import (
    Configuration,
    ConfigurationResult,
    Task,
    run_contender_program,
)

LOADER_PROCESSES = 1
"""Decoding and rotating tiles takes a hundredth of the time of training on them; one process hides it."""


class TrainingSetup(NamedTuple):
    """The transforms for training and for evaluation, and the type that autocast computes in."""

    train_transform: v2.Transform
    eval_transform: v2.Transform
    autocast_dtype: torch.dtype


class Score(NamedTuple):
    """Mean cross-entropy per image, and the fraction of images classified correctly."""

    loss: float
    accuracy: float


def sequential_setup(size: int) -> TrainingSetup:
    """All 8 flips and quarter turns with equal probability, as in bioimg."""
    turn = v2.RandomApply([v2.RandomRotation((90, 90))], p=0.5)
    resize, end = v2.Resize((size, size)), _normalisation_steps()
    train = v2.Compose(
        [v2.PILToTensor(), resize, v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), turn, *end]
    )
    return TrainingSetup(train, v2.Compose([v2.PILToTensor(), resize, *end]), torch.float32)


def torchvision_setup(size: int) -> TrainingSetup:
    """The presets of torchvision's reference recipe."""
    train = v2.Compose(
        [
            v2.RandomResizedCrop(size),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            *_normalisation_steps(),
        ]
    )
    still = v2.Compose(
        [v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor(), *_normalisation_steps()]
    )
    return TrainingSetup(train, still, torch.bfloat16)


def train_configuration(
    task: Task, cell: Configuration, recipe: TrainingSetup
) -> Iterator[dict[str, Any]]:
    """Train a configuration; yields the fields of `Trained` as of each epoch. Only the last one has a test accuracy."""
    torch.manual_seed(task.seed)
    loaders = {part: make_loader(task, cell, recipe, part) for part in ("train", "val", "test")}
    counts = {f"{part}_images": len(loader.dataset) for part, loader in loaders.items()}  # type: ignore[arg-type]
    model = build_model(task, cell, len(loaders["train"].dataset.classes))  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        task.learning_rate,
        weight_decay=task.weight_decay,
    )
    best, best_state = Score(float("inf"), 0.0), {}
    for epoch in range(1, task.epochs + 1):
        model.train(cell.freeze == "none")
        for images, labels in loaders["train"]:
            with torch.autocast(
                "cpu", recipe.autocast_dtype, enabled=recipe.autocast_dtype != torch.float32
            ):
                loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        score = evaluate_model(model, loaders["val"], recipe)
        if score.loss < best.loss:
            best, best_state = score, copy.deepcopy(model.state_dict())
        row = {
            "epochs": epoch,
            **counts,
            "val_accuracy": best.accuracy,
            "epoch_val_accuracy": score.accuracy,
        }
        if epoch == task.epochs:
            model.load_state_dict(best_state)
            row["test_accuracy"] = evaluate_model(model, loaders["test"], recipe).accuracy
        yield row


def build_model(task: Task, cell: Configuration, classes: int) -> nn.Module:
    """The model with its weights and a new head; all but the head frozen if the cell says so."""
    model = torchvision.models.get_model(task.model, weights=None)
    tensors = torch.load(cell.weights, weights_only=True)
    model.load_state_dict(
        {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")},
        strict=False,
    )
    model.requires_grad_(cell.freeze == "none")
    model.fc = nn.Linear(model.get_submodule("fc").in_features, classes)  # type: ignore[arg-type]
    return model


@torch.inference_mode()
def evaluate_model(model: nn.Module, loader: DataLoader, recipe: TrainingSetup) -> Score:
    """Over all images of a loader."""
    model.eval()
    loss, right, count = 0.0, 0, 0
    for images, labels in loader:
        with torch.autocast(
            "cpu", recipe.autocast_dtype, enabled=recipe.autocast_dtype != torch.float32
        ):
            logits = model(images).float()
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        right, count = right + int((logits.argmax(1) == labels).sum()), count + len(labels)
    return Score(loss / count, right / count)


def configuration_result(cell: Configuration, row: dict[str, Any]) -> ConfigurationResult:
    """The last that `fit` yielded, as the row of its configuration."""
    measured: dict[str, Any] = {name: row.get(name) for name in ConfigurationResult._fields[1:]}
    return ConfigurationResult(cell, **measured)


def run_task(task: Task, recipe: TrainingSetup) -> Iterator[ConfigurationResult]:
    """One configuration after another, on all cores."""
    for cell in task.configurations():
        *_, last = train_configuration(task, cell, recipe)
        yield configuration_result(cell, last)


def make_loader(task: Task, cell: Configuration, recipe: TrainingSetup, part: str) -> DataLoader:
    """Images of a part, in a new order each time if it is the training part."""
    images = ImageFolder(
        str(Path(task.folder) / part),
        recipe.train_transform if part == "train" else recipe.eval_transform,
    )
    return DataLoader(
        images,
        cell.batch_size,
        shuffle=part == "train",
        num_workers=LOADER_PROCESSES,
        persistent_workers=LOADER_PROCESSES > 0,
    )


def _normalisation_steps() -> list[v2.Transform]:
    return [
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]


if __name__ == "__main__":
    run_contender_program(
        {
            "sequential": lambda task, folder: run_task(task, sequential_setup(task.image_size)),
            "torchvision": lambda task, folder: run_task(task, torchvision_setup(task.image_size)),
        }
    )
