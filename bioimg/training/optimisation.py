"""The optimizer, the course of its learning rate, and the class weights of the loss."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

SGD_MOMENTUM = 0.9


def make_optimizer(
    name: str, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return `sgd` or `adamw` for the parameters that get a gradient."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if name == "sgd":
        return torch.optim.SGD(
            trained,
            learning_rate,
            momentum=SGD_MOMENTUM,
            weight_decay=weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(trained, learning_rate, weight_decay=weight_decay, fused=True)


def scheduled_learning_rate(initial: float, schedule: str, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch, counted from 1.

    It is constant, or follows half a cosine from the initial rate towards 0.
    """
    if schedule == "constant":
        return initial
    return initial * (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2


def balanced_class_weights(labels: np.ndarray, classes: int) -> torch.Tensor:
    """Return float32 [C], inversely proportional to the classes' numbers of images.

    They are 1 on average over the images with these labels.
    """
    # imported late: most trials need no weights, and scikit-learn takes a second
    from sklearn.utils.class_weight import compute_class_weight

    weights = compute_class_weight("balanced", classes=np.arange(classes), y=labels)
    return torch.tensor(weights, dtype=torch.float32)
