"""Build a classifier by the name of its model, with a new head and frozen parts."""

import copy
import functools
from dataclasses import dataclass

import torch
from torch import nn

from bioimg.config import ModelConfig
from bioimg.errors import UserError
from bioimg.models.low_rank import check_low_rank
from bioimg.models.model_parts import freeze_parameters, last_linear_layer
from bioimg.models.model_source import find_model_source


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model and its parts: the head, which is its last layer, and the backbone before it."""

    model: nn.Module
    head_name: str
    frozen_modules: tuple[nn.Module, ...]
    """Modules without gradients. They stay in eval mode, so that BatchNorm buffers don't change."""

    @property
    def head(self) -> nn.Linear:
        """Return the layer that gives the logits, from F inputs."""
        return _linear_layer(self.model, self.head_name)

    def train(self) -> None:
        """Put what is trained into train mode and what is frozen into eval mode."""
        self.model.train()
        for module in self.frozen_modules:
            module.eval()

    def compute_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the inputs of the head, [B, F], for images [B, 3, H, W]."""
        head_inputs: list[torch.Tensor] = []
        with self.head.register_forward_pre_hook(lambda _, inputs: head_inputs.append(inputs[0])):
            self.model(images)
        return head_inputs[0]


def build_classifier(
    config: ModelConfig, classes: int, *, seed: int = 0, synchronise_batch_norm: bool = False
) -> Classifier:
    """Build a classifier on the CPU, with a new head for this many classes.

    The seed determines every weight that isn't pretrained. The global random state isn't changed.

    Raises:
        UserError: the model or the weights don't exist or don't fit each other, or `freeze` isn't
            a part of the model.
    """
    # first, since building some models on the meta device draws random numbers
    head_name = find_head_name(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.weights == "none":
            model = find_model_source(config.model).new_model(config.image_size)
        else:
            model = copy.deepcopy(
                _pretrained_model(config.model, config.weights, config.image_size)
            )
        torch.manual_seed(seed)
        width = _linear_layer(model, head_name).in_features
        model.set_submodule(head_name, nn.Linear(width, classes))
    if synchronise_batch_norm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    frozen = freeze_parameters(model, head_name, config.freeze, config.model)
    return Classifier(model, head_name, frozen)


def check_model(config: ModelConfig) -> None:
    """Check quickly, without loading any weights, whether a model can be built and used.

    Raises:
        UserError: as `build_classifier`, except for the contents of weights; or the model can't
            take images of this size.
    """
    model = _meta_model(config.model, config.image_size)
    head_name = find_head_name(config)
    freeze_parameters(model, head_name, config.freeze, config.model)
    check_low_rank(model, head_name, config.freeze, config.model)
    find_model_source(config.model).check_weights(config.weights)
    size = config.image_size
    device = next(model.parameters()).device
    try:
        model.eval()(torch.empty(1, 3, size, size, device=device))
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"the value of `image_size` is {size}, but must be one that `model` {config.model!r} "
            f"can take: {error}. Choose another size or model."
        ) from error


def count_backbone_parameters(config: ModelConfig) -> tuple[int, int]:
    """Return how many parameters a backbone has, and how many of them `freeze` leaves trained.

    No weights are loaded.

    Raises:
        UserError: as `check_model`, but for its weights.
    """
    model = copy.deepcopy(_meta_model(config.model, config.image_size)).requires_grad_(True)
    head_name = find_head_name(config)
    freeze_parameters(model, head_name, config.freeze, config.model)
    total = trained = 0
    for name, parameter in model.named_parameters():
        if not name.startswith(f"{head_name}."):
            total += parameter.numel()
            trained += parameter.numel() * parameter.requires_grad
    return total, trained


def find_head_name(config: ModelConfig) -> str:
    """Return the dotted name of a model's last linear layer (`fc`, `classifier.1`, `head`).

    Raises:
        UserError: the model doesn't exist, or doesn't end in one linear layer.
    """
    model = _meta_model(config.model, config.image_size)
    return last_linear_layer(model, config.model)


def _linear_layer(model: nn.Module, name: str) -> nn.Linear:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


@functools.lru_cache(maxsize=4)
def _pretrained_model(model: str, weights: str, image_size: int) -> nn.Module:
    """Return a model with its pretrained weights, kept so that a warm lane reads them only once."""
    return find_model_source(model).load_model(weights, image_size)


@functools.lru_cache(maxsize=16)
def _meta_model(model: str, image_size: int) -> nn.Module:
    """Return a model without memory for its tensors, to inspect. Building it is quick."""
    source = find_model_source(model)
    try:
        with torch.device("meta"):
            return source.new_model(image_size)
    except NotImplementedError:
        # RegNets compute their widths with tensors that need values
        return source.new_model(image_size)
