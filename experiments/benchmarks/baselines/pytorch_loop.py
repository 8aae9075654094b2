"""What a user would write: a loop over configurations, each trained from first to last epoch.

`sequential` is ImageFolder, DataLoader and float32. `torchvision` is torchvision's reference recipe
(references/classification there) as run with --amp: its transforms, autocast (bfloat16 on a CPU),
and the default memory format, since it has no flag for another. In both, a frozen backbone is run
again in each epoch.
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
    run_baseline_program,
)

LOADER_PROCESSES = 1
"""Decoding and rotating tiles takes a hundredth of the time of training: one process hides it."""
SUBSETS = ("train", "val", "test")


class TrainingSetup(NamedTuple):
    """The transforms for training and for evaluation, and the type that autocast computes in."""

    train_transform: v2.Transform
    eval_transform: v2.Transform
    autocast_dtype: torch.dtype

    def autocast(self) -> torch.autocast:
        """Return autocast to the type, which does nothing for float32."""
        enabled = self.autocast_dtype != torch.float32
        return torch.autocast("cpu", self.autocast_dtype, enabled=enabled)


class Score(NamedTuple):
    """Mean cross-entropy per image, and the fraction of images classified correctly."""

    loss: float
    accuracy: float


def sequential_setup(size: int) -> TrainingSetup:
    """Use all 8 flips and quarter turns with equal probability, as bioimg does."""
    resize = v2.Resize((size, size))
    train = v2.Compose(
        [
            v2.PILToTensor(),
            resize,
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomApply([v2.RandomRotation((90, 90))], p=0.5),
            *_normalisation_steps(),
        ]
    )
    evaluation = v2.Compose([v2.PILToTensor(), resize, *_normalisation_steps()])
    return TrainingSetup(train, evaluation, torch.float32)


def torchvision_setup(size: int) -> TrainingSetup:
    """Use the presets of torchvision's reference recipe."""
    train = v2.Compose(
        [
            v2.RandomResizedCrop(size),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            *_normalisation_steps(),
        ]
    )
    evaluation = v2.Compose(
        [v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor(), *_normalisation_steps()]
    )
    return TrainingSetup(train, evaluation, torch.bfloat16)


def train_configuration(
    task: Task, configuration: Configuration, setup: TrainingSetup
) -> Iterator[dict[str, Any]]:
    """Train a configuration. Yield the fields of `ConfigurationResult` as of each epoch.

    Only the last epoch has a test accuracy.
    """
    torch.manual_seed(task.seed)
    loaders = {subset: make_loader(task, configuration, setup, subset) for subset in SUBSETS}
    images = {subset: ImageFolder(str(Path(task.folder) / subset)) for subset in SUBSETS}
    counts = {f"{subset}_images": len(folder) for subset, folder in images.items()}
    model = build_model(task, configuration, len(images["train"].classes))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, task.learning_rate, weight_decay=task.weight_decay)
    best = Score(float("inf"), 0.0)
    best_state: dict[str, Any] = {}
    for epoch in range(1, task.epochs + 1):
        model.train(configuration.freeze == "none")
        for inputs, labels in loaders["train"]:
            with setup.autocast():
                loss = F.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        score = evaluate_model(model, loaders["val"], setup)
        if score.loss < best.loss:
            best = score
            best_state = copy.deepcopy(model.state_dict())
        row = {
            "epochs": epoch,
            **counts,
            "val_accuracy": best.accuracy,
            "epoch_val_accuracy": score.accuracy,
        }
        if epoch == task.epochs:
            model.load_state_dict(best_state)
            row["test_accuracy"] = evaluate_model(model, loaders["test"], setup).accuracy
        yield row


def build_model(task: Task, configuration: Configuration, classes: int) -> nn.Module:
    """Build the model with its weights and a new head; freeze the rest if that is configured."""
    model = torchvision.models.get_model(task.model, weights=None)
    tensors = torch.load(configuration.weights, weights_only=True)
    backbone = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
    model.load_state_dict(backbone, strict=False)
    model.requires_grad_(configuration.freeze == "none")
    model.fc = nn.Linear(model.get_submodule("fc").in_features, classes)  # type: ignore[arg-type]
    return model


@torch.inference_mode()
def evaluate_model(model: nn.Module, loader: DataLoader, setup: TrainingSetup) -> Score:
    """Score the model on all images of a loader."""
    model.eval()
    loss = 0.0
    correct = count = 0
    for images, labels in loader:
        with setup.autocast():
            logits = model(images).float()
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    return Score(loss / count, correct / count)


def configuration_result(
    configuration: Configuration, last_row: dict[str, Any]
) -> ConfigurationResult:
    """Return the last row that `train_configuration` yielded as the result of its configuration."""
    _, *names = ConfigurationResult._fields
    values: dict[str, Any] = {name: last_row.get(name) for name in names}
    return ConfigurationResult(configuration, **values)


def run_task(task: Task, setup: TrainingSetup) -> Iterator[ConfigurationResult]:
    """Train one configuration after another, on all cores."""
    for configuration in task.configurations():
        *_, last_row = train_configuration(task, configuration, setup)
        yield configuration_result(configuration, last_row)


def make_loader(
    task: Task, configuration: Configuration, setup: TrainingSetup, subset: str
) -> DataLoader:
    """Load the images of a subset, in a new order each time if it is for training."""
    training = subset == "train"
    transform = setup.train_transform if training else setup.eval_transform
    return DataLoader(
        ImageFolder(str(Path(task.folder) / subset), transform),
        configuration.batch_size,
        shuffle=training,
        num_workers=LOADER_PROCESSES,
        persistent_workers=LOADER_PROCESSES > 0,
    )


def _normalisation_steps() -> list[v2.Transform]:
    return [
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]


if __name__ == "__main__":
    run_baseline_program(
        {
            "sequential": lambda task, folder: run_task(task, sequential_setup(task.image_size)),
            "torchvision": lambda task, folder: run_task(task, torchvision_setup(task.image_size)),
        }
    )
