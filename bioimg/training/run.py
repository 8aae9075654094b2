"""A trial in this process: its model, its data on the device, and its progress."""

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bioimg.config import TrialConfig
from bioimg.data import cache
from bioimg.data.imageset import ImageSet, Split
from bioimg.model.build import build
from bioimg.model.convolutions import quicken
from bioimg.model.extract import digest, extractor
from bioimg.model.weights import normalisation, require_same
from bioimg.results.row import best
from bioimg.training import precision
from bioimg.training.batches import VIEWS, Batch, Pixels, pixel_key
from bioimg.training.distributed import ALONE, Group
from bioimg.training.evaluate import Score, outputs, score
from bioimg.training.features import VERSION, Compute, Features, forget, held


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """The results of one epoch. Losses are means per image; training figures are measured while the weights change."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float


class Run:
    """The state of a trial, which `train` advances one epoch at a time.

    `learner` is what the optimizer changes: the whole model, or only its head if the rest is frozen, and then `inputs` are
    features that were computed once. `continued_from` is the key of the shorter trial that trained the first epochs.
    `weights_digest` identifies the tensors behind the name of the weights; None for random ones.
    """

    def __init__(
        self, trial: TrialConfig, images: ImageSet, split: Split, *, device: torch.device, group: Group = ALONE
    ) -> None:
        self.trial, self.images, self.split, self.device, self.group = trial, images, split, device, group
        self.dtype = precision.resolve(trial.precision, device)
        precision.allow_tf32(trial.tf32)
        # a frozen backbone's BatchNorm is folded into the convolution before it, which takes a plain one
        synchronise = group.size > 1 and device.type == "cuda" and trial.freeze != "features"
        self.classifier = build(trial, len(images.classes), synchronise_batch_norm=synchronise)
        self.weights_digest = group.broadcast(digest(self.classifier)) if trial.weights != "none" else None
        self.classifier.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.learner: nn.Module = self.classifier.model
        self.normalisation = normalisation(trial.model, trial.weights)
        self.inputs: Pixels | Features
        self.features_seconds: float | None = None
        if trial.freeze == "features":
            self._freeze_features()
        else:
            forget()
            self.inputs = self._pixels()
            quicken(self.learner, self.dtype)
        wrapped = group.wrap(self.learner, device)  # before compiling, so that the graph breaks at DDP's buckets
        self._forward = torch.compile(wrapped) if trial.compile else wrapped
        self.class_weights = self._class_weights()
        self.optimizer = _optimizer(trial, [p for p in self.learner.parameters() if p.requires_grad])
        self.history: list[Epoch] = []
        self.best: dict[str, torch.Tensor] = {}
        self.continued_from: str | None = None

    @property
    def batch_norm(self) -> str | None:
        """What BatchNorm's statistics are taken over in training; None if no BatchNorm is trained."""
        self.classifier.train()
        if not any(isinstance(module, _BatchNorm) and module.training for module in self.learner.modules()):
            return None
        return "whole batch" if self.group.size == 1 or self.device.type == "cuda" else "each worker's share"

    @property
    def best_epoch(self) -> int:
        """The epoch that selection would choose so far; 0 before the first."""
        return best([epoch.val_loss for epoch in self.history])

    @property
    def out_of_patience(self) -> bool:
        """Whether the validation loss hasn't fallen for `patience` epochs."""
        return 0 < self.trial.patience <= len(self.history) - self.best_epoch

    def begin(self, epoch: int) -> None:
        """Prepare an epoch: dropout's random state, the learning rate, train mode."""
        seed = np.random.SeedSequence((self.trial.seed, epoch, self.group.rank)).generate_state(1)[0]
        torch.manual_seed(int(seed))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.trial, epoch)
        if self.learner is self.classifier.model:
            self.classifier.train()
        else:
            self.learner.train()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits float32 [B, C], with gradients that DDP averages."""
        with precision.autocast(self.device, self.dtype):
            return self._forward(self.inputs(batch)).float()

    def evaluate(self, indices: np.ndarray) -> torch.Tensor:
        """Logits float32 [N, C] of images without augmentation, the same on every worker."""
        self.learner.eval()
        self.group.synchronise_buffers(self.learner)
        return outputs(
            self._predict,
            indices,
            image_size=self.trial.image_size,
            width=len(self.images.classes),
            device=self.device,
            group=self.group,
        )

    def score(self, indices: np.ndarray) -> Score:
        """Loss and accuracy on some images."""
        return score(self.evaluate(indices), self.images.labels[indices])

    def record(self, epoch: Epoch) -> Epoch:
        """Add an epoch to the history, and keep its weights if it is the best one."""
        self.history.append(epoch)
        if self.best_epoch == epoch.epoch:
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.learner.state_dict().items()}
        return epoch

    def restore_best(self) -> None:
        """Go back to the weights of the best epoch."""
        self.learner.load_state_dict(self.best)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume: tensors, numbers and names only."""
        return {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "history": [dataclasses.asdict(epoch) for epoch in self.history],
            "continued_from": self.continued_from,
            "weights_digest": self.weights_digest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` returned.

        Raises:
            UserError: it was trained from other weights of the same name.
        """
        if self.weights_digest:
            require_same(self.trial.weights, self.weights_digest, state["weights_digest"])
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = state["best"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.continued_from = state["continued_from"]

    def _class_weights(self) -> torch.Tensor | None:
        """float32 [C]: the weight of each class in the training loss, 1 on average over the training images."""
        if self.trial.class_weights == "none":
            return None
        present = self.images.labels[self.split.train]
        weights = compute_class_weight("balanced", classes=np.arange(len(self.images.classes)), y=present)
        return torch.tensor(weights, dtype=torch.float32, device=self.device)

    def _freeze_features(self) -> None:
        started = time.perf_counter()
        features = held(self._features_key(), VIEWS[self.trial.augmentation], self._features)
        features.prepare(self._backbone, self._wanted())
        self.features_seconds = time.perf_counter() - started
        self.learner, self.inputs = self.classifier.head, features

    def _pixels(self) -> Pixels:
        return Pixels(self.trial, self.images, self.normalisation, self.device)

    def _features(self, key: str) -> Features:
        trial, images = self.trial, self.images
        return Features(
            key,
            shape=(VIEWS[trial.augmentation], len(images), self.classifier.head.in_features),
            dtype=self.dtype,
            image_size=trial.image_size,
            device=self.device,
            about=f"{trial.model} {trial.weights}, {images.name} at {trial.image_size} px, {precision.name(self.dtype)}",
        )

    def _features_key(self) -> str:
        """A hash of everything that features depend on, including the order of the images and the values of the weights."""
        trial = self.trial
        model = (trial.model, digest(self.classifier), self.normalisation)
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return cache.key(VERSION, pixel_key(trial, self.images), model, (device, torch.__version__, self.dtype, trial.tf32))

    def _wanted(self) -> dict[int, np.ndarray]:
        """Images whose features are needed in each view. With folds, each image trains in some trial."""
        every = np.arange(len(self.images))
        trained = every if self.trial.folds else self.split.train
        return {view: trained if view else every for view in range(VIEWS[self.trial.augmentation])}

    def _backbone(self) -> Compute:
        pixels, extract = self._pixels(), extractor(self.classifier, self.dtype)

        def compute(batch: Batch) -> torch.Tensor:
            with precision.autocast(self.device, self.dtype):
                return extract(pixels(batch))

        return compute

    def _predict(self, batch: Batch) -> torch.Tensor:
        with precision.autocast(self.device, self.dtype):
            return self.learner(self.inputs(batch))


def learning_rate(trial: TrialConfig, epoch: int) -> float:
    """The learning rate of an epoch (the first is 1): constant, or half a cosine from `learning_rate` towards 0."""
    if trial.schedule == "constant":
        return trial.learning_rate
    return trial.learning_rate * (1 + math.cos(math.pi * (epoch - 1) / trial.epochs)) / 2


def _optimizer(trial: TrialConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if trial.optimizer == "sgd":
        decay = trial.weight_decay
        return torch.optim.SGD(parameters, trial.learning_rate, momentum=0.9, weight_decay=decay, fused=True)
    return torch.optim.AdamW(parameters, trial.learning_rate, weight_decay=trial.weight_decay, fused=True)
