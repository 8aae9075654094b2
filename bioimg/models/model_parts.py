"""The parts of a model: head, stages and blocks, and which of them `freeze` names."""

from collections.abc import Iterator

from torch import nn

from bioimg.errors import UserError, unknown_value_error

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
LAST_BLOCKS = {"last1": 1, "last2": 2, "last4": 4}
"""Values that train the last blocks and the head, by the number of blocks."""
LOW_RANKS = {"lora4": 4, "lora8": 8, "lora16": 16}
"""Values that train the head and updates of low rank, by the rank."""


def last_linear_layer(model: nn.Module, model_name: str) -> str:
    """Return the dotted name of a model's last linear layer (`fc`, `classifier.1`, `heads.head`).

    Raises:
        UserError: the model doesn't end in one linear layer.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names or getattr(model, "aux_logits", False):
        raise UserError(
            f"the value of `model` is {model_name!r}, but must end in one linear layer. "
            "Choose another, such as resnet50."
        )
    return names[-1]


def freeze_parameters(
    model: nn.Module, head_name: str, freeze: str, model_name: str
) -> tuple[nn.Module, ...]:
    """Turn off gradients as `freeze` says. Return the modules that are frozen entirely.

    Raises:
        UserError: `freeze` isn't a part of the model. It lists the parts.
    """
    if freeze in ("none", "head-first"):
        return ()
    trained_names = _find_trained_parameters(model, head_name, freeze, model_name)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained_names)
    if freeze == "features" or freeze in LOW_RANKS:
        return tuple(_iter_backbone_modules(model, head_name))
    return tuple(module for module in model.modules() if _is_frozen(module))


def stage_names(model: nn.Module, head_name: str) -> list[str]:
    """List what `freeze` can name: the parts of the backbone that have weights, in order of use."""
    head_stage = head_name.split(".")[0]
    stages = [name for name in _children_with_weights(model) if name != head_stage]
    if len(stages) > 1:
        return stages
    # VGG, DenseNet, EfficientNet and timm's models keep their stages one level below
    container = stages[0]
    parts = _children_with_weights(model.get_submodule(container))
    return [f"{container}.{name}" for name in parts]


def block_names(model: nn.Module, head_name: str) -> list[str]:
    """List the residual, attention or other blocks of a backbone, in order of use.

    A block is a module of its own class in a container of modules. A model without any has its
    stages as blocks.
    """
    stages = stage_names(model, head_name)
    names = [block for stage in stages for block in _iter_blocks(stage, model.get_submodule(stage))]
    return names or stages


def block_depths(model: nn.Module, head_name: str) -> dict[str, int]:
    """Return how far each parameter is from the head, by its name, counted in blocks.

    The head, and a norm after the last block, are 0. The last block is 1. What comes before the
    first block, such as a class token, belongs to it.
    """
    blocks = block_names(model, head_name)
    depths = {}
    depth = len(blocks)
    for name, _ in model.named_parameters():
        inside = [block for block in blocks if name.startswith(f"{block}.")]
        if inside:
            depth = len(blocks) - blocks.index(inside[0])
        elif depth == 1:
            depth = 0
        depths[name] = 0 if name.startswith(f"{head_name}.") else depth
    return depths


def _find_trained_parameters(
    model: nn.Module, head_name: str, freeze: str, model_name: str
) -> set[str]:
    """Return the names of the parameters that `freeze` leaves trained.

    They are the head's and, in the order in which a model registers them, all from some one on. So
    a class token, which is registered before the blocks, is frozen with the first of them.
    """
    names = [name for name, _ in model.named_parameters()]
    head = {name for name in names if name.startswith(f"{head_name}.")}
    if freeze == "features" or freeze in LOW_RANKS:
        return head
    if freeze in LAST_BLOCKS:
        first_block = block_names(model, head_name)[-LAST_BLOCKS[freeze] :][0]
        boundary = _positions_within(names, first_block)[0]
        return head.union(names[boundary:])
    stages = stage_names(model, head_name)
    if freeze not in stages:
        known = ["none", "features", "head-first", *LAST_BLOCKS, *LOW_RANKS, *stages]
        hint = f"(The stages are those of `model` {model_name!r}.)"
        raise unknown_value_error("freeze", freeze, known, hint)
    boundary = _positions_within(names, freeze)[-1] + 1
    return head.union(names[boundary:])


def _positions_within(names: list[str], module_name: str) -> list[int]:
    return [position for position, name in enumerate(names) if name.startswith(f"{module_name}.")]


def _iter_blocks(name: str, module: nn.Module) -> Iterator[str]:
    if isinstance(module, CONTAINERS):
        for child_name, child in module.named_children():
            yield from _iter_blocks(f"{name}.{child_name}", child)
        return
    containers = [
        child_name for child_name, child in module.named_children() if _holds_blocks(child)
    ]
    if len(containers) == 1:
        (container,) = containers
        yield from _iter_blocks(f"{name}.{container}", module.get_submodule(container))
    elif _is_block(module):
        yield name


def _holds_blocks(module: nn.Module) -> bool:
    """Return True for a container with several modules of one class of its own."""
    if not isinstance(module, CONTAINERS):
        return False
    classes = [type(child) for child in module.children() if _is_block(child)]
    return len(classes) > len(set(classes))


def _is_block(module: nn.Module) -> bool:
    """Return True for a module with parts that isn't a container and has more than a norm."""
    has_parts = any(True for _ in module.children())
    has_matrix = any(parameter.ndim > 1 for parameter in module.parameters())
    return has_parts and has_matrix and not isinstance(module, CONTAINERS)


def _iter_backbone_modules(model: nn.Module, head_name: str) -> Iterator[nn.Module]:
    """Yield all modules that don't contain the head, also those without weights: dropout is off."""
    for name, module in model.named_modules():
        if name and not f"{head_name}.".startswith(f"{name}."):
            yield module


def _is_frozen(module: nn.Module) -> bool:
    """Return True for a module with weights of which none is trained."""
    gradients = [parameter.requires_grad for parameter in module.parameters()]
    return bool(gradients) and not any(gradients)


def _children_with_weights(module: nn.Module) -> list[str]:
    return [
        name for name, child in module.named_children() if any(True for _ in child.parameters())
    ]
