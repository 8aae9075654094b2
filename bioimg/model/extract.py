"""The frozen backbone as fast as it goes: BatchNorm folded into the convolution before it, weights already in bfloat16."""

import copy
from collections.abc import Callable

import torch
import xxhash
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

from bioimg.model.build import Classifier


def extractor(classifier: Classifier, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """A copy's way from images [B, 3, H, W] to what the head sees, [B, F], to be called under autocast of `dtype`."""
    model = _folded(classifier.model)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):  # autocast would convert their weights again for every batch
            module.to(dtype)
        if isinstance(module, nn.Conv2d) and dtype != torch.float32 and _is_pointwise(module):
            model.set_submodule(name, Pointwise(module))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Classifier(model, classifier.head_name, ()).features


class Pointwise(nn.Module):
    """A convolution of 1x1 as the matrix product that it is.

    On a CPU oneDNN takes longer for the convolution in bfloat16, where images are small and channels are many.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.stride = convolution.stride
        self.weight, self.bias = nn.Parameter(convolution.weight.detach().flatten(1)), convolution.bias

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = images[:, :, :: self.stride[0], :: self.stride[1]]
        return F.linear(seen.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


def digest(classifier: Classifier) -> str:
    """Thirty-two hex digits of every weight and buffer of the backbone."""
    found = xxhash.xxh3_128()
    for name, tensor in classifier.model.state_dict().items():
        if not name.startswith(f"{classifier.head_name}."):
            found.update(name.encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _is_pointwise(convolution: nn.Conv2d) -> bool:
    return convolution.kernel_size == (1, 1) and convolution.groups == 1 and convolution.padding in ((0, 0), "valid", "same")


def _folded(model: nn.Module) -> nn.Module:
    """A copy in eval mode, without those BatchNorms that alone take what a convolution gives."""
    whole = copy.deepcopy(model).eval()
    try:
        return fuse(whole)
    except Exception:  # torchvision's can all be traced; of other models any can fail in its own way, and stays as it is
        return whole
