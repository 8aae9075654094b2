"""Convolutions in the form that is fastest on a CPU.

Their results and their state dicts stay the same.
"""

import torch
from torch import nn
from torch.nn import functional as F

AMX_CHANNELS = 32
"""Channels that one AMX instruction multiplies and accumulates in bfloat16."""
NARROW_GROUP_CHANNELS = (2, 4, 8)
"""Channels per group that leave most of such an instruction unused."""
ONEDNN_DILATION = (2, 2)
"""Changes nothing of a kernel of one pixel, but lets torch choose oneDNN for few images, too.

With one thread and less than 16 images, torch 2.14 otherwise computes 1x1 convolutions in float32
in a form that takes up to twice the time (`use_mkldnn` in aten/src/ATen/native/Convolution.cpp).
"""
CONVOLUTION_ARGUMENTS = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
)


def use_cpu_kernels(model: nn.Module, dtype: torch.dtype) -> None:
    """Give convolutions their fastest form under autocast to `dtype`. Parameters stay."""
    if any(parameter.device.type != "cpu" for parameter in model.parameters()):
        return
    for name, module in list(model.named_modules()):
        # classes derived from it may compute something else
        if type(module) is not nn.Conv2d:
            continue
        if dtype == torch.bfloat16:
            if faster := _faster_convolution(module):
                model.set_submodule(name, faster)
        elif _is_pointwise(module) and torch.backends.mkldnn.is_available():
            module.dilation = ONEDNN_DILATION


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution computed as a matrix product, for which oneDNN has faster kernels."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        channels_last = input.permute(0, 2, 3, 1)
        output = F.linear(channels_last, self.weight.flatten(1), self.bias)
        return output.permute(0, 3, 1, 2)


class WideGroupConv2d(nn.Conv2d):
    """A convolution whose narrow groups are merged into fewer, wider ones with zeros in between.

    Each weight is multiplied with the same inputs as before. Multiplying the zeros costs less than
    the part of the hardware that a group of 4 channels leaves idle.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        groups = self.in_channels // AMX_CHANNELS
        return F.conv2d(
            input,
            self._widened_weight(groups),
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            groups,
        )

    def _widened_weight(self, groups: int) -> torch.Tensor:
        """Return weights [O, AMX_CHANNELS, k, k]: zero except for the channels of the own group."""
        outputs, channels_per_group, *kernel = self.weight.shape
        outputs_per_group = outputs // self.groups
        merged = self.groups // groups
        narrow = self.weight.view(groups, merged, outputs_per_group, channels_per_group, *kernel)
        wide = self.weight.new_zeros(
            groups, merged, outputs_per_group, merged, channels_per_group, *kernel
        )
        # each narrow group's weights go onto the diagonal of its wide group's blocks
        diagonal = torch.arange(merged)
        wide[:, diagonal, :, diagonal] = narrow.transpose(0, 1)
        return wide.view(outputs, AMX_CHANNELS, *kernel)


def _faster_convolution(convolution: nn.Conv2d) -> nn.Conv2d | None:
    if _is_pointwise(convolution):
        return _convert_convolution(PointwiseConv2d, convolution)
    if _has_narrow_groups(convolution):
        return _convert_convolution(WideGroupConv2d, convolution)
    return None


def _is_pointwise(convolution: nn.Conv2d) -> bool:
    unpadded = convolution.padding in ((0, 0), "valid", "same")
    single_pixel = convolution.kernel_size == convolution.stride == (1, 1)
    return convolution.groups == 1 and unpadded and single_pixel


def _has_narrow_groups(convolution: nn.Conv2d) -> bool:
    """Return True for narrow groups. oneDNN has its own kernels for depthwise convolutions."""
    return (
        convolution.in_channels // convolution.groups in NARROW_GROUP_CHANNELS
        and convolution.in_channels % AMX_CHANNELS == 0
        and convolution.padding_mode == "zeros"
    )


def _convert_convolution(kind: type[nn.Conv2d], convolution: nn.Conv2d) -> nn.Conv2d:
    arguments = {name: getattr(convolution, name) for name in CONVOLUTION_ARGUMENTS}
    converted = kind(**arguments, device="meta")
    converted.weight = convolution.weight
    converted.bias = convolution.bias
    return converted
