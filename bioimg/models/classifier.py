"""Build any torchvision classifier by name, with a new head and frozen stages."""

import copy
import functools
from dataclasses import dataclass

import torch
from torch import nn
from torchvision import models

import bioimg.models.resnext_tiny  # noqa: F401  (registers resnext_tiny)
from bioimg.config import ModelConfig
from bioimg.errors import UserError, unknown_value_error
from bioimg.models.pretrained_weights import load_weights, weights_entry
from bioimg.models.state_dicts import load_backbone


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
            a stage of the model.
    """
    # first, since building some models on the meta device draws random numbers
    head_name = find_head_name(config.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.weights == "none":
            model = _new_model(config.model)
        else:
            model = copy.deepcopy(_pretrained_model(config.model, config.weights))
        torch.manual_seed(seed)
        width = _linear_layer(model, head_name).in_features
        model.set_submodule(head_name, nn.Linear(width, classes))
    if synchronise_batch_norm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return Classifier(model, head_name, _freeze_stages(model, head_name, config))


def check_model(config: ModelConfig) -> None:
    """Check quickly, without loading any weights, whether a model can be built and used.

    Raises:
        UserError: as `build_classifier`, except for the contents of weights; or the model can't
            take images of this size.
    """
    model = _meta_model(config.model)
    _freeze_stages(model, find_head_name(config.model), config)
    weights_entry(config.model, config.weights)
    size = config.image_size
    device = next(model.parameters()).device
    try:
        model.eval()(torch.empty(1, 3, size, size, device=device))
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"the value of `image_size` is {size}, but must be one that `model` {config.model!r} "
            f"can take: {error}. Choose another size or model."
        ) from error


def find_head_name(model_name: str) -> str:
    """Return the dotted name of a model's last linear layer (`fc`, `classifier.1`, `heads.head`).

    Raises:
        UserError: the model doesn't exist, or doesn't end in one linear layer.
    """
    model = _meta_model(model_name)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names or getattr(model, "aux_logits", False):
        raise UserError(
            f"the value of `model` is {model_name!r}, but must end in one linear layer. "
            "Choose another, such as resnet50."
        )
    return names[-1]


@functools.cache
def available_models() -> list[str]:
    """List torchvision's classifiers, and all models that others have registered with it."""
    registered = [name for name in models.list_models() if not _is_from_torchvision(name)]
    return [*models.list_models(module=models), *registered]


def stage_names(model: nn.Module, head_name: str) -> list[str]:
    """List what `freeze` can name: the parts of the backbone that have weights, in order of use."""
    head_stage = head_name.split(".")[0]
    stages = [name for name in _children_with_weights(model) if name != head_stage]
    if stages != ["features"]:
        return stages
    # VGG, DenseNet, EfficientNet and others keep their stages one level below
    features = model.get_submodule("features")
    return [f"features.{name}" for name in _children_with_weights(features)]


def _children_with_weights(module: nn.Module) -> list[str]:
    return [
        name for name, child in module.named_children() if any(True for _ in child.parameters())
    ]


def _linear_layer(model: nn.Module, name: str) -> nn.Linear:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


def _is_from_torchvision(model_name: str) -> bool:
    return models.get_model_builder(model_name).__module__.startswith("torchvision.")


@functools.lru_cache(maxsize=4)
def _pretrained_model(model_name: str, weights: str) -> nn.Module:
    """Return a model with its pretrained weights, kept so that a warm lane reads them only once."""
    model = _new_model(model_name)
    load_backbone(model, load_weights(model_name, weights), find_head_name(model_name), weights)
    return model


@functools.lru_cache(maxsize=16)
def _meta_model(model_name: str) -> nn.Module:
    """Return a model without memory for its tensors, to inspect. Building it is quick."""
    try:
        with torch.device("meta"):
            return _new_model(model_name)
    except NotImplementedError:
        # RegNets compute their widths with tensors that need values
        return _new_model(model_name)


def _new_model(model_name: str) -> nn.Module:
    if model_name not in available_models():
        raise unknown_value_error("model", model_name, available_models())
    return models.get_model(model_name, weights=None)


def _freeze_stages(model: nn.Module, head_name: str, config: ModelConfig) -> tuple[nn.Module, ...]:
    """Turn off gradients as `freeze` says. Return the modules that are frozen entirely."""
    if config.freeze in ("none", "head-first"):
        return ()
    if config.freeze == "features":
        return _freeze_backbone(model, head_name)
    stages = stage_names(model, head_name)
    if config.freeze not in stages:
        known = ["none", "features", "head-first", *stages]
        hint = f"(The stages are those of `model` {config.model!r}.)"
        raise unknown_value_error("freeze", config.freeze, known, hint)
    # a parameter outside of all stages, such as a ViT's class token, is used before the first block
    for parameter in model.parameters(recurse=False):
        parameter.requires_grad_(False)
    last = stages.index(config.freeze)
    frozen = tuple(model.get_submodule(name) for name in stages[: last + 1])
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def _freeze_backbone(model: nn.Module, head_name: str) -> tuple[nn.Module, ...]:
    model.requires_grad_(False)
    model.get_submodule(head_name).requires_grad_(True)
    frozen = []
    for name, module in model.named_modules():
        contains_head = not name or f"{head_name}.".startswith(f"{name}.")
        if not contains_head:
            frozen.append(module)
    return tuple(frozen)
