"""The frozen backbone as fast as it goes: BatchNorm folded into the convolution before it, weights already in bfloat16."""

import copy
from collections.abc import Callable

import torch
import xxhash
from torch import nn
from torch.fx.experimental.optimization import fuse

from bioimg.model.build import Classifier
from bioimg.model.convolutions import quicken


def extractor(classifier: Classifier, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """A copy's way from images [B, 3, H, W] to what the head sees, [B, F], to be called under autocast of `dtype`."""
    model = _folded(classifier.model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):  # autocast would convert their weights again for every batch
            module.to(dtype)
    quicken(model, dtype)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Classifier(model, classifier.head_name, ()).features


def digest(classifier: Classifier) -> str:
    """Thirty-two hex digits of every weight and buffer of the backbone."""
    found = xxhash.xxh3_128()
    for name, tensor in classifier.model.state_dict().items():
        if not name.startswith(f"{classifier.head_name}."):
            found.update(name.encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _folded(model: nn.Module) -> nn.Module:
    """A copy in eval mode, without those BatchNorms that alone take what a convolution gives."""
    whole = copy.deepcopy(model).eval()
    try:
        return fuse(whole)
    except Exception:  # torchvision's can all be traced; of other models any can fail in its own way, and stays as it is
        return whole
