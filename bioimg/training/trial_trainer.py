"""A trial in this process: its model, its data on the device, and its progress."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from bioimg.config import TrialConfig
from bioimg.data.image_set import ImageSet, Split
from bioimg.models.classifier import build_classifier
from bioimg.models.cpu_kernels import use_cpu_kernels
from bioimg.models.feature_extractor import backbone_digest
from bioimg.models.low_rank import add_low_rank_updates
from bioimg.models.model_source import find_model_source
from bioimg.models.pretrained_weights import require_same_weights
from bioimg.models.state_dicts import load_own_state
from bioimg.results.epoch_summary import EpochMetrics, best_epoch
from bioimg.results.score import Score, resolve_score
from bioimg.training import precision
from bioimg.training.batches import Batch, InputSource
from bioimg.training.distributed import SINGLE_WORKER, WorkerGroup
from bioimg.training.evaluation import Evaluation, evaluate_logits, gather_outputs
from bioimg.training.feature_cache import FeatureCache, release_feature_caches
from bioimg.training.frozen_backbone import FrozenBackbone
from bioimg.training.image_batches import ImageBatches
from bioimg.training.optimisation import (
    balanced_class_weights,
    decayed_groups,
    make_optimizer,
    scheduled_learning_rate,
)

MAX_GRAPHS = 256
"""Graphs of one function that a process compiles. A trial that would need more fails."""


class TrialTrainer:
    """The state of a trial, which `train` advances one epoch at a time.

    Attributes:
        score_used: the score that the trial is measured by.
        trained_module: what the optimizer changes: the whole model, or only its head while the
            backbone is frozen. Its inputs are then features that were computed once.
        input_source: where `trained_module` gets its inputs from.
        weights_digest: identifies the tensors behind the name of the weights; None for random ones.
        features_seconds: time in which as many workers compute the features, whichever trial has
            done it; None if the backbone is never frozen.
        best_weights: state of `trained_module` with the weights of the best epoch.
        continued_from: key of the shorter trial that trained the first epochs, if any.
        dtype: the type of its autocast. A trial that continues on other hardware keeps it.
    """

    def __init__(
        self,
        trial: TrialConfig,
        images: ImageSet,
        split: Split,
        *,
        device: torch.device,
        worker_group: WorkerGroup = SINGLE_WORKER,
        on_message: Callable[[str], None] = lambda text: None,
        auto_precision: str = "auto",
    ) -> None:
        """Prepare to train from the first epoch.

        auto_precision: what a `precision` of `auto` means; `auto` for what is fastest here.
        """
        self.trial = trial
        self.images = images
        self.split = split
        self.device = device
        self.worker_group = worker_group
        self._on_message = on_message
        self.score_used: Score = resolve_score(trial.score, images.class_counts)
        precision.allow_tf32(trial.tf32)

        self.class_weights: torch.Tensor | None = None
        if trial.class_weights == "balanced":
            weights = balanced_class_weights(images.labels[split.train], len(images.classes))
            self.class_weights = weights.to(device)
        self.history: list[EpochMetrics] = []
        self.best_weights: dict[str, torch.Tensor] = {}
        self.features_seconds: float | None = None
        self.continued_from: str | None = None

        chosen = auto_precision if trial.precision == "auto" else trial.precision
        self._start_in(precision.resolve_dtype(chosen, device), epoch=1)

    @property
    def best_epoch(self) -> int:
        """The epoch that selection would choose so far; 0 before the first."""
        return best_epoch([epoch.val_loss for epoch in self.history])

    @property
    def out_of_patience(self) -> bool:
        """True if the trial's `patience_metric` hasn't improved for `patience` epochs.

        Epochs that train the head before all layers don't count.
        """
        best = self.best_epoch
        if self.trial.patience_metric == "val_score":
            best = best_epoch([-epoch.val_score for epoch in self.history])
        last_progress = max(best, self.trial.head_epochs)
        return 0 < self.trial.patience <= len(self.history) - last_progress

    @property
    def has_ended(self) -> bool:
        """True after the trial's last epoch, or the last one of its patience."""
        return len(self.history) == self.trial.epochs or self.out_of_patience

    def start_phase(self, epoch: int) -> None:
        """Prepare what an epoch trains, the head or the model, unless the one before trained it."""
        trains_head_alone = self.trial.trains_head_alone(epoch)
        if trains_head_alone == self._trains_head_alone:
            return
        self._trains_head_alone = trains_head_alone
        if trains_head_alone:
            self._prepare_head()
        else:
            self._prepare_model()
        self._wrap_for_training()
        self.optimizer = make_optimizer(
            self.trial.optimizer,
            self._parameter_groups(),
            self.trial.learning_rate,
            self.trial.weight_decay,
        )

    def start_epoch(self, epoch: int) -> None:
        """Prepare an epoch: dropout's random state and train mode."""
        seed = (self.trial.seed, epoch, self.worker_group.rank)
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        self.set_train_mode()

    def set_learning_rate(self, epoch: int, epoch_share: float) -> None:
        """Set the learning rate of a step (see `scheduled_learning_rate`)."""
        learning_rate = scheduled_learning_rate(self.trial, epoch, epoch_share)
        for parameter_group in self.optimizer.param_groups:
            parameter_group["lr"] = learning_rate * parameter_group.get("rate_factor", 1.0)

    def set_train_mode(self) -> None:
        """Put what is trained into train mode; what is frozen stays in eval mode."""
        if self.trained_module is self.classifier.model:
            self.classifier.train()
        else:
            self.trained_module.train()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits, float32 [B, C], with gradients that DDP averages."""
        with precision.autocast(self.device, self.dtype):
            return self._training_module(self.input_source.load_batch(batch)).float()

    def predict_logits(self, indices: np.ndarray) -> torch.Tensor:
        """Return logits, float32 [N, C], of unaugmented images, the same on every worker."""
        self.trained_module.eval()
        self.worker_group.broadcast_buffers(self.trained_module)
        return gather_outputs(
            self._compute_logits,
            indices,
            image_size=self.trial.image_size,
            width=len(self.images.classes),
            device=self.device,
            worker_group=self.worker_group,
        )

    def evaluate(self, indices: np.ndarray) -> Evaluation:
        """Return how good the model is on some images."""
        logits = self.predict_logits(indices)
        return evaluate_logits(logits, self.images.labels[indices], self.score_used)

    def add_epoch(self, epoch: EpochMetrics) -> EpochMetrics:
        """Add an epoch to the history, and keep its weights if it is the best one."""
        self.history.append(epoch)
        if self.best_epoch == epoch.epoch:
            self.best_weights = _copy_tensors(self.trained_module.state_dict())
        return epoch

    def restore_best(self) -> None:
        """Return to the weights of the best epoch."""
        load_own_state(self.trained_module, self.best_weights)

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to resume: tensors, numbers and names only."""
        return {
            "learner": self.trained_module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": precision.dtype_name(self.dtype),
            "loss_scaler": self.loss_scaler.state_dict(),
            "best": self.best_weights,
            "history": [dataclasses.asdict(epoch) for epoch in self.history],
            "features_seconds": self.features_seconds,
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
        epoch = len(state["history"])
        if state.get("precision", own := precision.dtype_name(self.dtype)) != own:
            self._start_in(getattr(torch, state["precision"]), epoch)
        self.start_phase(epoch)
        load_own_state(self.trained_module, state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loss_scaler.load_state_dict(state.get("loss_scaler", {}))
        self.best_weights = state["best"]
        self.history = []
        for epoch in state["history"]:
            # states of earlier versions lack these, and their score was the accuracy
            later_fields = {"val_score": epoch["val_accuracy"], "val_correct": None}
            self.history.append(EpochMetrics(**{**later_fields, **epoch}))
        # a model may have been trained on features that this process hasn't loaded
        self.features_seconds = self.features_seconds or state.get("features_seconds")
        self.continued_from = state["continued_from"]

    def _start_in(self, dtype: torch.dtype, epoch: int) -> None:
        """Prepare the model and what an epoch trains, for autocast to a type."""
        self.dtype = dtype
        self.loss_scaler = precision.LossScaler(self.device, dtype)
        self._build_model()
        self._trains_head_alone: bool | None = None
        self.start_phase(epoch)

    def _build_model(self) -> None:
        trial = self.trial
        # a frozen backbone's BatchNorm is folded into the convolution before it, which needs a
        # plain one
        self.classifier = build_classifier(
            trial.model_config,
            len(self.images.classes),
            seed=trial.seed,
            synchronise_batch_norm=self._has_several_gpus and not trial.trains_head_alone(1),
        )
        self.weights_digest: str | None = None
        if trial.weights != "none":
            self.weights_digest = self.worker_group.broadcast(backbone_digest(self.classifier))
        self.normalisation = find_model_source(trial.model).normalisation(trial.weights)
        self.classifier.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def _has_several_gpus(self) -> bool:
        return self.worker_group.size > 1 and self.device.type == "cuda"

    def _prepare_head(self) -> None:
        self.trained_module: nn.Module = self.classifier.head
        self.input_source: InputSource
        self.input_source, seconds = self._load_features()
        self.features_seconds = seconds / self.worker_group.size

    def _prepare_model(self) -> None:
        """Prepare to train the model through its first layers, after its head if that came first.

        If a head has the best epoch, its weights are completed by the backbone, which hasn't
        changed.
        """
        release_feature_caches()
        model = self.trained_module = self.classifier.model
        add_low_rank_updates(model, self.classifier.head_name, self.trial.freeze, self.trial.seed)
        self.input_source = ImageBatches(
            self.images, self.trial.dataset_config, self.normalisation, self.device
        )
        if self.best_weights:
            head = self.best_weights
            self.best_weights = _copy_tensors(model.state_dict())
            for name, tensor in head.items():
                self.best_weights[f"{self.classifier.head_name}.{name}"] = tensor
        if self._has_several_gpus and self.trial.head_epochs:
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        use_cpu_kernels(model, self.dtype)

    def _parameter_groups(self) -> list[nn.Parameter] | list[dict[str, Any]]:
        """Return what is trained, in groups only where blocks have rates of their own."""
        if self.trial.layer_decay < 1 and self.trained_module is self.classifier.model:
            return decayed_groups(
                self.classifier.model, self.classifier.head_name, self.trial.layer_decay
            )
        parameters = self.trained_module.parameters()
        return [parameter for parameter in parameters if parameter.requires_grad]

    def _load_features(self) -> tuple[FeatureCache, float]:
        backbone = FrozenBackbone(
            trial=self.trial,
            images=self.images,
            classifier=self.classifier,
            normalisation=self.normalisation,
            dtype=self.dtype,
            device=self.device,
            on_message=self._on_message,
        )
        return backbone.load_features(self.split)

    def _wrap_for_training(self) -> None:
        # before compiling, so that the graph breaks at DDP's buckets
        wrapped = self.worker_group.wrap_module(self.trained_module, self.device)
        self._training_module = compile_module(wrapped) if self.trial.compile else wrapped

    def _compute_logits(self, batch: Batch) -> torch.Tensor:
        with precision.autocast(self.device, self.dtype):
            return self.trained_module(self.input_source.load_batch(batch))


def compile_module(module: nn.Module) -> nn.Module:
    """Return the module compiled, also after many others in this process.

    By default, torch runs what would be the ninth graph of one function uncompiled, with a warning.
    """
    # imported late: it takes seconds, and most trials aren't compiled
    import torch._dynamo

    torch._dynamo.config.recompile_limit = MAX_GRAPHS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(module)  # type: ignore[return-value]


def _copy_tensors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return copies on the same device, since most of them are never needed elsewhere."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}
