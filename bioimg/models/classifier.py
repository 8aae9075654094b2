"""Build any torchvision classifier by name, with a new head and frozen stages."""

import copy
import functools
from dataclasses import dataclass

import torch
from torch import nn
from torchvision import models

import bioimg.models.resnext_tiny  # noqa: F401  (registers resnext_tiny)
from bioimg.config import TrialConfig
from bioimg.errors import UserError, unknown_value_error
from bioimg.models import pretrained_weights as pretrained


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model and its parts. `head` is its last layer, a `Linear` of F inputs; the rest is the backbone."""

    model: nn.Module
    head_name: str
    frozen_modules: tuple[nn.Module, ...]
    """Modules that get no gradient and stay in eval mode, so that their BatchNorm buffers stay as they are."""

    @property
    def head(self) -> nn.Linear:
        """The layer that gives the logits."""
        head = self.model.get_submodule(self.head_name)
        assert isinstance(head, nn.Linear)
        return head

    def train(self) -> None:
        """Train mode for what is trained, eval mode for what is frozen."""
        self.model.train()
        for module in self.frozen_modules:
            module.eval()

    def compute_features(self, images: torch.Tensor) -> torch.Tensor:
        """The inputs of the head, [B, F], for images [B, 3, H, W]."""
        seen: list[torch.Tensor] = []
        with self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
            self.model(images)
        return seen[0]


def build_classifier(
    trial: TrialConfig, classes: int, *, synchronise_batch_norm: bool = False
) -> Classifier:
    """The classifier of a trial, on the CPU. The trial's seed determines every weight that isn't pretrained; the global
    random state isn't changed.

    Raises:
        UserError: no such model or weights; weights that don't fit; `freeze` names no stage of the model.
    """
    name = find_head_name(
        trial.model
    )  # before seeding: the outlines of some models draw random numbers, the first time
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        bare = trial.weights == "none"
        model = (
            _new_model(trial.model)
            if bare
            else copy.deepcopy(_pretrained_model(trial.model, trial.weights))
        )
        torch.manual_seed(trial.seed)
        old = model.get_submodule(name)
        assert isinstance(old, nn.Linear)
        model.set_submodule(name, nn.Linear(old.in_features, classes))
    if synchronise_batch_norm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return Classifier(model, name, _freeze_stages(model, name, trial))


def check_model(trial: TrialConfig) -> None:
    """Check quickly, without loading any weights, whether a trial's model can be built.

    Raises:
        UserError: as `build`, except for the contents of weights.
    """
    head = find_head_name(trial.model)
    outline = _meta_model(trial.model)
    _freeze_stages(outline, head, trial)
    pretrained.weights_entry(trial.model, trial.weights)
    try:
        outline.eval()(
            torch.empty(
                1, 3, trial.image_size, trial.image_size, device=next(outline.parameters()).device
            )
        )
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"the value of `image_size` is {trial.image_size}, but `model` {trial.model!r} can't take such images: {error}"
        ) from error


def find_head_name(model: str) -> str:
    """The dotted name of a model's last linear layer (`fc`, `classifier.1`, `heads.head`).

    Raises:
        UserError: no such model, or one that doesn't end in one linear layer.
    """
    outline = _meta_model(model)
    names = [name for name, module in outline.named_modules() if isinstance(module, nn.Linear)]
    if not names or getattr(outline, "aux_logits", False):
        raise UserError(
            f"the value of `model` is {model!r}, but must end in one linear layer. Choose another, such as resnet50."
        )
    return names[-1]


@functools.cache
def available_models() -> list[str]:
    """Names of torchvision's classifiers, and of all models that other packages have registered with it."""
    own = [
        name
        for name in models.list_models()
        if not models.get_model_builder(name).__module__.startswith("torchvision.")
    ]
    return [*models.list_models(module=models), *own]


def stage_names(model: nn.Module, head: str) -> list[str]:
    """What `freeze` can name: the parts of the backbone that have weights, in the order of their use."""
    top = [
        name
        for name, child in model.named_children()
        if any(True for _ in child.parameters()) and name != head.split(".")[0]
    ]
    if top != ["features"]:
        return top
    inner = model.get_submodule("features").named_children()
    return [f"features.{name}" for name, child in inner if any(True for _ in child.parameters())]


@functools.lru_cache(maxsize=4)
def _pretrained_model(model: str, weights: str) -> nn.Module:
    """A model with its pretrained weights, kept in this process: a warm lane reads them only once."""
    bare, head = _new_model(model), find_head_name(model)
    fitting = pretrained.check_and_strip_head(
        pretrained.load_weights(model, weights), bare, head, weights
    )
    bare.load_state_dict(fitting, strict=False)
    return bare


@functools.lru_cache(maxsize=16)
def _meta_model(model: str) -> nn.Module:
    """A model without memory for its tensors, to inspect: quickly built, whatever its size."""
    try:
        with torch.device("meta"):
            return _new_model(model)
    except NotImplementedError:  # RegNets compute their widths with tensors that need values
        return _new_model(model)


def _new_model(model: str) -> nn.Module:
    if model not in available_models():
        raise unknown_value_error("model", model, available_models())
    return models.get_model(model, weights=None)


def _freeze_stages(model: nn.Module, head: str, trial: TrialConfig) -> tuple[nn.Module, ...]:
    """Turn off gradients as `freeze` says. Returns the modules that are frozen entirely."""
    if trial.freeze == "none":
        return ()
    known = stage_names(model, head)
    if trial.freeze == "features":
        model.requires_grad_(False)
        model.get_submodule(head).requires_grad_(True)
        return tuple(
            module
            for name, module in model.named_modules()
            if name and not f"{head}.".startswith(f"{name}.")
        )
    if trial.freeze not in known:
        raise unknown_value_error(
            "freeze",
            trial.freeze,
            ["none", "features", *known],
            f"(The stages are those of `model` {trial.model!r}.)",
        )
    for token in model.parameters(
        recurse=False
    ):  # a ViT's class token, used before the first block
        token.requires_grad_(False)
    modules = tuple(model.get_submodule(name) for name in known[: known.index(trial.freeze) + 1])
    for module in modules:
        module.requires_grad_(False)
    return modules
