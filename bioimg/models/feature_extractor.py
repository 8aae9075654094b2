"""The frozen backbone in its fastest form, and the digest that identifies it.

BatchNorm is folded into the preceding convolution, and weights are already in bfloat16.
"""

import copy
from collections.abc import Callable

import torch
import xxhash
from torch import nn
from torch.fx.experimental.optimization import fuse

from bioimg.models.classifier import Classifier
from bioimg.models.cpu_kernels import use_cpu_kernels


def make_feature_extractor(
    classifier: Classifier, dtype: torch.dtype
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function from images [B, 3, H, W] to the head's inputs [B, F].

    It uses a copy of the model. Call it under autocast to `dtype`.
    """
    model = _fold_batch_norm(classifier.model)
    for module in model.modules():
        # otherwise autocast would convert these weights again for every batch
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)
    use_cpu_kernels(model, dtype)
    for module in model.modules():
        # only these, since torch refuses the five dimensions of constants in a traced Swin
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Classifier(model, classifier.head_name, ()).compute_features


def backbone_digest(classifier: Classifier) -> str:
    """Return a digest (32 hex digits) of all weights and buffers of the backbone."""
    digest = xxhash.xxh3_128()
    for name, tensor in classifier.model.state_dict().items():
        if not name.startswith(f"{classifier.head_name}."):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _fold_batch_norm(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode with BatchNorm folded into convolutions.

    A BatchNorm is folded if it directly follows a convolution and alone uses its output.
    """
    copied = copy.deepcopy(model).eval()
    try:
        return fuse(copied)
    except Exception:
        # torchvision's models can all be traced; others may fail in any way and stay unfolded
        return copied
