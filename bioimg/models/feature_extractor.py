"""The frozen backbone in its fastest form: BatchNorm folded into the preceding convolution, weights already in bfloat16."""

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
    """A copy of the model, from images [B, 3, H, W] to the head's inputs [B, F]; call it under autocast to `dtype`."""
    model = _fold_batch_norm(classifier.model)
    for module in model.modules():
        if isinstance(
            module, nn.Conv2d | nn.Linear
        ):  # autocast would convert their weights again for every batch
            module.to(dtype)
    use_cpu_kernels(model, dtype)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Classifier(model, classifier.head_name, ()).compute_features


def backbone_digest(classifier: Classifier) -> str:
    """A hash (32 hex digits) of all weights and buffers of the backbone."""
    found = xxhash.xxh3_128()
    for name, tensor in classifier.model.state_dict().items():
        if not name.startswith(f"{classifier.head_name}."):
            found.update(name.encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy in eval mode, where each BatchNorm that alone uses a convolution's output is folded into the convolution."""
    whole = copy.deepcopy(model).eval()
    try:
        return fuse(whole)
    except (
        Exception
    ):  # torchvision's models can all be traced; others may fail in any way, and stay as they are
        return whole
