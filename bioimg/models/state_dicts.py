"""Load state dicts as torchvision does: they hold tensors, and versions of the modules' names.

`torch.load` keeps the versions, while dicts and files of other kinds lose them. Some models, such
as MNASNet and vision transformers, rename tensors by version or refuse those without one.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import nn

from bioimg.errors import UserError
from bioimg.text import join_first

VERSIONS = "_metadata"
"""The attribute of a state dict in which torch keeps the versions."""
EARLIER_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""Names in DenseNet's published files, as `torchvision.models.densenet` renames them."""
LISTED_TENSORS = 5
"""Names of tensors that an error lists of each kind."""


def load_own_state(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load the tensors of a state dict of this very module, whether it has its versions or not."""
    state = OrderedDict(tensors)
    setattr(state, VERSIONS, getattr(module.state_dict(), VERSIONS))
    module.load_state_dict(state)


def load_backbone(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], head_name: str, weights: str
) -> None:
    """Load a state dict of the same model without its head, after checking that it fits exactly.

    Raises:
        UserError: tensors are missing, unexpected or of another shape. It lists them.
    """
    own_state = model.state_dict()
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    reshaped: dict[str, str] = {}
    for given_name, tensor in tensors.items():
        name = EARLIER_DENSENET_NAME.sub(r"\1\2", given_name)
        own = own_state.get(name)
        if _is_in_head(name, head_name):
            continue
        if own is None or own.shape == tensor.shape:
            state[name] = tensor
        else:
            reshaped[name] = f"{name} ({tuple(tensor.shape)} for {tuple(own.shape)})"
    setattr(state, VERSIONS, getattr(tensors, VERSIONS, getattr(own_state, VERSIONS)))
    result = model.load_state_dict(state, strict=False)
    missing = [
        name
        for name in result.missing_keys
        # files from before this counter existed lack it; nothing that is computed depends on it
        if not (name in reshaped or name.endswith("num_batches_tracked"))
        and not _is_in_head(name, head_name)
    ]
    problems = {
        "missing": missing,
        "unexpected": result.unexpected_keys,
        "of another shape": list(reshaped.values()),
    }
    details = "; ".join(
        f"{kind}: {join_first(names, LISTED_TENSORS)}" for kind, names in problems.items() if names
    )
    if details:
        raise UserError(
            f"the value of `weights` is {weights!r}, but its tensors must be those of `model`. "
            f"{details}."
        )


def _is_in_head(name: str, head_name: str) -> bool:
    return name.startswith(f"{head_name}.")
