"""What a user would write: a loop over configurations, each trained from first to last epoch.

`sequential` is ImageFolder and DataLoader: in float32 on a CPU; on a GPU with autocast and images
whose channels are last in memory. `torchvision` is torchvision's reference recipe
(references/classification there) as run with --amp: its transforms, autocast (bfloat16 on a CPU,
float16 on a GPU), and the default memory format, since it has no flag for another. In both, a
frozen backbone is run again in each epoch.
"""

import copy
import functools
import os
import statistics
from collections.abc import Callable, Iterator
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
from benchmarks.harness import local_device

GPU_LOADER_PROCESSES = 8
"""A GPU trains as fast as several processes decode and rotate tiles. Beside training on a CPU, that
takes a hundredth of the time, and one process hides it.
"""
SUBSETS = ("train", "val", "test")


class TrainingSetup(NamedTuple):
    """How images are loaded, and the device and number format that they are trained on.

    autocast_dtype: the type that autocast computes in; float32 for no autocast.
    memory_format: that of images and weights.
    loader_processes: those of each DataLoader; 0 to load in this process.
    """

    train_transform: v2.Transform
    eval_transform: v2.Transform
    device: torch.device
    autocast_dtype: torch.dtype
    memory_format: torch.memory_format
    loader_processes: int

    def autocast(self) -> torch.autocast:
        """Return autocast to the type, which does nothing for float32."""
        enabled = self.autocast_dtype != torch.float32
        return torch.autocast(self.device.type, self.autocast_dtype, enabled=enabled)

    def loss_scaler(self) -> torch.amp.GradScaler:
        """Return what scales losses in float16, and does nothing for other types."""
        return torch.amp.GradScaler(self.device.type, enabled=self.autocast_dtype == torch.float16)

    def iter_batches(self, loader: DataLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the loader's images and labels on the device."""
        for images, labels in loader:
            yield (
                images.to(self.device, memory_format=self.memory_format, non_blocking=True),
                labels.to(self.device, non_blocking=True),
            )


class Evaluation(NamedTuple):
    """The cross-entropy of each image, and whether it was classified correctly."""

    losses: list[float]
    correct: list[bool]

    @property
    def loss(self) -> float:
        """The mean of all images."""
        return statistics.mean(self.losses)

    @property
    def accuracy(self) -> float:
        """The fraction of images that were classified correctly."""
        return sum(self.correct) / len(self.correct)


def loader_processes(device: torch.device) -> int:
    """Return how many processes each DataLoader has."""
    if device.type == "cpu":
        return 1
    return min(GPU_LOADER_PROCESSES, os.cpu_count() or 1)


def sequential_setup(size: int, device: torch.device) -> TrainingSetup:
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
    on_gpu = device.type == "cuda"
    dtype = torch.float32
    if on_gpu:
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = torch.bfloat16 if is_fast else torch.float16
    return TrainingSetup(
        train,
        evaluation,
        device,
        autocast_dtype=dtype,
        memory_format=torch.channels_last if on_gpu else torch.preserve_format,
        loader_processes=loader_processes(device),
    )


def torchvision_setup(size: int, device: torch.device) -> TrainingSetup:
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
    return TrainingSetup(
        train,
        evaluation,
        device,
        autocast_dtype=torch.get_autocast_dtype(device.type),
        memory_format=torch.preserve_format,
        loader_processes=loader_processes(device),
    )


def train_configuration(
    task: Task, configuration: Configuration, setup: TrainingSetup
) -> Iterator[dict[str, Any]]:
    """Train a configuration. Yield the fields of `ConfigurationResult` as of each epoch.

    Only the last epoch is tested.
    """
    torch.manual_seed(task.seed)
    loaders = {subset: make_loader(task, configuration, setup, subset) for subset in SUBSETS}
    images = {subset: ImageFolder(str(Path(task.folder) / subset)) for subset in SUBSETS}
    counts = {f"{subset}_images": len(folder) for subset, folder in images.items()}
    model = build_model(task, configuration, len(images["train"].classes))
    model.to(setup.device, memory_format=setup.memory_format)  # type: ignore[call-overload]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    learning_rate = configuration.learning_rate
    if configuration.freeze == "features":
        learning_rate *= task.head_rate_factor
    optimizer = torch.optim.AdamW(trained, learning_rate, weight_decay=task.weight_decay)
    scaler = setup.loss_scaler()
    best: Evaluation | None = None
    best_state: dict[str, Any] = {}
    for epoch in range(1, task.epochs + 1):
        model.train(configuration.freeze == "none")
        for inputs, labels in setup.iter_batches(loaders["train"]):
            with setup.autocast():
                loss = F.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        validation = evaluate_model(model, loaders["val"], setup)
        if best is None or validation.loss < best.loss:
            best = validation
            best_state = copy.deepcopy(model.state_dict())
        row = {
            "epochs": epoch,
            **counts,
            "val_accuracy": best.accuracy,
            "epoch_val_accuracy": validation.accuracy,
        }
        if epoch == task.epochs:
            model.load_state_dict(best_state)
            test = evaluate_model(model, loaders["test"], setup)
            row |= {
                "test_accuracy": test.accuracy,
                "val_losses": best.losses,
                "test_correct": test.correct,
            }
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
def evaluate_model(model: nn.Module, loader: DataLoader, setup: TrainingSetup) -> Evaluation:
    """Evaluate the model on all images of a loader, in their order."""
    model.eval()
    evaluation = Evaluation([], [])
    for images, labels in setup.iter_batches(loader):
        with setup.autocast():
            logits = model(images).float()
        evaluation.losses.extend(F.cross_entropy(logits, labels, reduction="none").tolist())
        evaluation.correct.extend((logits.argmax(1) == labels).tolist())
    return evaluation


def configuration_result(
    configuration: Configuration, last_row: dict[str, Any]
) -> ConfigurationResult:
    """Return the last row that `train_configuration` yielded as the result of its configuration."""
    _, *names = ConfigurationResult._fields
    values: dict[str, Any] = {name: last_row.get(name) for name in names}
    return ConfigurationResult(configuration, **values)


def run_task(
    make_setup: Callable[[int, torch.device], TrainingSetup], task: Task, folder: Path
) -> Iterator[ConfigurationResult]:
    """Train one configuration after another, on a GPU or on all cores. It needs no `folder`."""
    setup = make_setup(task.image_size, local_device())
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
        num_workers=setup.loader_processes,
        persistent_workers=setup.loader_processes > 0,
        pin_memory=setup.device.type == "cuda",
    )


def _normalisation_steps() -> list[v2.Transform]:
    return [
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]


if __name__ == "__main__":
    run_baseline_program(
        {
            "sequential": functools.partial(run_task, sequential_setup),
            "torchvision": functools.partial(run_task, torchvision_setup),
        }
    )
