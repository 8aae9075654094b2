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
from bioimg.data.image_set import ImageSet, Split
from bioimg.models.classifier import build_classifier
from bioimg.models.cpu_kernels import use_cpu_kernels
from bioimg.models.feature_extractor import backbone_digest, make_feature_extractor
from bioimg.models.pretrained_weights import require_same_weights, weights_normalisation
from bioimg.results.epoch_summary import best_epoch
from bioimg.storage import disk_cache
from bioimg.training import precision
from bioimg.training.batches import VIEW_COUNTS, Batch, ImageBatches, pixel_key
from bioimg.training.distributed import SINGLE_WORKER, WorkerGroup
from bioimg.training.evaluation import Score, gather_outputs, score_logits
from bioimg.training.feature_cache import (
    FEATURES_VERSION,
    BatchFunction,
    FeatureCache,
    get_feature_cache,
    release_feature_caches,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochMetrics:
    """The results of one epoch. Losses are means per image; training figures are measured while the weights change."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float


class TrialTrainer:
    """The state of a trial, which `train` advances one epoch at a time.

    `learner` is what the optimizer changes: the whole model, or only its head if the rest is frozen, and then `inputs` are
    features that were computed once. `continued_from` is the key of the shorter trial that trained the first epochs.
    `weights_digest` identifies the tensors behind the name of the weights; None for random ones.
    """

    def __init__(
        self,
        trial: TrialConfig,
        images: ImageSet,
        split: Split,
        *,
        device: torch.device,
        group: WorkerGroup = SINGLE_WORKER,
    ) -> None:
        self.trial, self.images, self.split, self.device, self.worker_group = (
            trial,
            images,
            split,
            device,
            group,
        )
        self.dtype = precision.resolve_dtype(trial.precision, device)
        precision.allow_tf32(trial.tf32)
        # a frozen backbone's BatchNorm is folded into the convolution before it, which takes a plain one
        synchronise = group.size > 1 and device.type == "cuda" and trial.freeze != "features"
        self.classifier = build_classifier(
            trial, len(images.classes), synchronise_batch_norm=synchronise
        )
        self.weights_digest = (
            group.broadcast(backbone_digest(self.classifier)) if trial.weights != "none" else None
        )
        self.classifier.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trained_module: nn.Module = self.classifier.model
        self.normalisation = weights_normalisation(trial.model, trial.weights)
        self.input_source: ImageBatches | FeatureCache
        self.features_seconds: float | None = None
        if trial.freeze == "features":
            self._use_cached_features()
        else:
            release_feature_caches()
            self.input_source = self._make_image_batches()
            use_cpu_kernels(self.trained_module, self.dtype)
        wrapped = group.wrap_module(
            self.trained_module, device
        )  # before compiling, so that the graph breaks at DDP's buckets
        self._training_module = torch.compile(wrapped) if trial.compile else wrapped
        self.class_weights = self._balanced_class_weights()
        self.optimizer = _make_optimizer(
            trial, [p for p in self.trained_module.parameters() if p.requires_grad]
        )
        self.history: list[EpochMetrics] = []
        self.best_weights: dict[str, torch.Tensor] = {}
        self.continued_from: str | None = None

    @property
    def batch_norm_scope(self) -> str | None:
        """What BatchNorm's statistics are taken over in training; None if no BatchNorm is trained."""
        self.classifier.train()
        if not any(
            isinstance(module, _BatchNorm) and module.training
            for module in self.trained_module.modules()
        ):
            return None
        return (
            "whole batch"
            if self.worker_group.size == 1 or self.device.type == "cuda"
            else "each worker's share"
        )

    @property
    def best_epoch(self) -> int:
        """The epoch that selection would choose so far; 0 before the first."""
        return best_epoch([epoch.val_loss for epoch in self.history])

    @property
    def out_of_patience(self) -> bool:
        """Whether the validation loss hasn't fallen for `patience` epochs."""
        return 0 < self.trial.patience <= len(self.history) - self.best_epoch

    def start_epoch(self, epoch: int) -> None:
        """Prepare an epoch: dropout's random state, the learning rate, train mode."""
        seed = np.random.SeedSequence(
            (self.trial.seed, epoch, self.worker_group.rank)
        ).generate_state(1)[0]
        torch.manual_seed(int(seed))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.trial, epoch)
        if self.trained_module is self.classifier.model:
            self.classifier.train()
        else:
            self.trained_module.train()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits float32 [B, C], with gradients that DDP averages."""
        with precision.autocast(self.device, self.dtype):
            return self._training_module(self.input_source(batch)).float()

    def predict_logits(self, indices: np.ndarray) -> torch.Tensor:
        """Logits float32 [N, C] of images without augmentation, the same on every worker."""
        self.trained_module.eval()
        self.worker_group.broadcast_buffers(self.trained_module)
        return gather_outputs(
            self._compute_logits,
            indices,
            image_size=self.trial.image_size,
            width=len(self.images.classes),
            device=self.device,
            group=self.worker_group,
        )

    def score_images(self, indices: np.ndarray) -> Score:
        """Loss and accuracy on some images."""
        return score_logits(self.predict_logits(indices), self.images.labels[indices])

    def add_epoch(self, epoch: EpochMetrics) -> EpochMetrics:
        """Add an epoch to the history, and keep its weights if it is the best one."""
        self.history.append(epoch)
        if self.best_epoch == epoch.epoch:
            self.best_weights = {
                name: tensor.detach().cpu().clone()
                for name, tensor in self.trained_module.state_dict().items()
            }
        return epoch

    def restore_best(self) -> None:
        """Go back to the weights of the best epoch."""
        self.trained_module.load_state_dict(self.best_weights)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume: tensors, numbers and names only."""
        return {
            "learner": self.trained_module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best_weights,
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
            require_same_weights(self.trial.weights, self.weights_digest, state["weights_digest"])
        self.trained_module.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_weights = state["best"]
        self.history = [EpochMetrics(**epoch) for epoch in state["history"]]
        self.continued_from = state["continued_from"]

    def _balanced_class_weights(self) -> torch.Tensor | None:
        """float32 [C]: the weight of each class in the training loss, 1 on average over the training images."""
        if self.trial.class_weights == "none":
            return None
        present = self.images.labels[self.split.train]
        weights = compute_class_weight(
            "balanced", classes=np.arange(len(self.images.classes)), y=present
        )
        return torch.tensor(weights, dtype=torch.float32, device=self.device)

    def _use_cached_features(self) -> None:
        started = time.perf_counter()
        features = get_feature_cache(
            self._feature_cache_key(),
            VIEW_COUNTS[self.trial.augmentation],
            self._make_feature_cache,
        )
        features.compute_missing(self._make_backbone_function, self._images_per_view())
        self.features_seconds = time.perf_counter() - started
        self.trained_module, self.input_source = self.classifier.head, features

    def _make_image_batches(self) -> ImageBatches:
        return ImageBatches(self.trial, self.images, self.normalisation, self.device)

    def _make_feature_cache(self, key: str) -> FeatureCache:
        trial, images = self.trial, self.images
        return FeatureCache(
            key,
            shape=(VIEW_COUNTS[trial.augmentation], len(images), self.classifier.head.in_features),
            dtype=self.dtype,
            image_size=trial.image_size,
            device=self.device,
            about=f"{trial.model} {trial.weights}, {images.name} at {trial.image_size} px, {precision.dtype_name(self.dtype)}",
        )

    def _feature_cache_key(self) -> str:
        """A hash of everything that features depend on, including the order of the images and the values of the weights."""
        trial = self.trial
        model = (trial.model, backbone_digest(self.classifier), self.normalisation)
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return disk_cache.cache_key(
            FEATURES_VERSION,
            pixel_key(trial, self.images),
            model,
            (device, torch.__version__, self.dtype, trial.tf32),
        )

    def _images_per_view(self) -> dict[int, np.ndarray]:
        """Images whose features are needed in each view. With folds, each image trains in some trial."""
        every = np.arange(len(self.images))
        trained = every if self.trial.folds else self.split.train
        return {
            view: trained if view else every for view in range(VIEW_COUNTS[self.trial.augmentation])
        }

    def _make_backbone_function(self) -> BatchFunction:
        pixels, extract = (
            self._make_image_batches(),
            make_feature_extractor(self.classifier, self.dtype),
        )

        def compute(batch: Batch) -> torch.Tensor:
            with precision.autocast(self.device, self.dtype):
                return extract(pixels(batch))

        return compute

    def _compute_logits(self, batch: Batch) -> torch.Tensor:
        with precision.autocast(self.device, self.dtype):
            return self.trained_module(self.input_source(batch))


def learning_rate(trial: TrialConfig, epoch: int) -> float:
    """The learning rate of an epoch (the first is 1): constant, or half a cosine from `learning_rate` towards 0."""
    if trial.schedule == "constant":
        return trial.learning_rate
    return trial.learning_rate * (1 + math.cos(math.pi * (epoch - 1) / trial.epochs)) / 2


def _make_optimizer(trial: TrialConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if trial.optimizer == "sgd":
        decay = trial.weight_decay
        return torch.optim.SGD(
            parameters, trial.learning_rate, momentum=0.9, weight_decay=decay, fused=True
        )
    return torch.optim.AdamW(
        parameters, trial.learning_rate, weight_decay=trial.weight_decay, fused=True
    )
