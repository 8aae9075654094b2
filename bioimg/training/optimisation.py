"""The optimizer, the course of its learning rate, and the class weights of the loss."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from bioimg.config import TrialConfig
from bioimg.models.model_parts import block_depths

SGD_MOMENTUM = 0.9


def make_optimizer(
    name: str,
    parameters: list[nn.Parameter] | list[dict[str, Any]],
    learning_rate: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Return `sgd` or `adamw` for parameters, or for groups of them as `decayed_groups` returns."""
    if name == "sgd":
        return torch.optim.SGD(
            parameters,
            learning_rate,
            momentum=SGD_MOMENTUM,
            weight_decay=weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(parameters, learning_rate, weight_decay=weight_decay, fused=True)


def decayed_groups(model: nn.Module, head_name: str, layer_decay: float) -> list[dict[str, Any]]:
    """Return groups of a model's trained parameters, with the factor of their learning rate.

    The factor, `rate_factor`, is `layer_decay` to the power of `block_depths` (ELECTRA, Clark et
    al. 2020; for images BEiT, Bao et al. 2022, arXiv:2106.08254).
    """
    depths = block_depths(model, head_name)
    groups: dict[int, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(depths[name], []).append(parameter)
    return [
        {"params": parameters, "rate_factor": layer_decay**depth}
        for depth, parameters in groups.items()
    ]


def scheduled_learning_rate(trial: TrialConfig, epoch: int, epoch_share: float) -> float:
    """Return the learning rate of a step.

    After the warm-up it is constant, or follows half a cosine towards 0, epoch by epoch. Where the
    head is trained first, the schedule starts again when all layers are trained.

    Args:
        trial: the trial that makes the step.
        epoch: the number of the epoch, from 1.
        epoch_share: the share of the epoch's steps that were made, this one included.
    """
    initial = trial.learning_rate
    if trial.trains_head_alone(epoch):
        initial = trial.head_learning_rate
    epochs, warmup = trial.epochs - trial.head_epochs, trial.warmup
    epochs_done = epoch - 1 - trial.head_epochs
    if epochs_done < 0:
        epochs, warmup, epochs_done = trial.head_epochs, 0, epoch - 1
    if epochs_done < warmup:
        return initial * (epochs_done + epoch_share) / warmup
    if trial.schedule == "constant":
        return initial
    progress = (epochs_done - warmup) / (epochs - warmup)
    return initial * (1 + math.cos(math.pi * progress)) / 2


def balanced_class_weights(labels: np.ndarray, classes: int) -> torch.Tensor:
    """Return float32 [C], inversely proportional to the classes' numbers of images.

    They are 1 on average over the images with these labels.
    """
    # imported late: most trials need no weights, and scikit-learn takes a second
    from sklearn.utils.class_weight import compute_class_weight

    weights = compute_class_weight("balanced", classes=np.arange(classes), y=labels)
    return torch.tensor(weights, dtype=torch.float32)
