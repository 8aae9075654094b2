"""Convolutions in the form that is fastest on a CPU in bfloat16. Their results and their state dicts stay the same."""

import torch
from torch import nn
from torch.nn import functional as F

AMX_CHANNELS = 32
"""Channels that one AMX instruction multiplies and accumulates in bfloat16."""


def use_cpu_kernels(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace convolutions by modules with the same parameters where those are faster under autocast to `dtype`."""
    if dtype != torch.bfloat16 or any(
        parameter.device.type != "cpu" for parameter in model.parameters()
    ):
        return
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and (faster := _cpu_replacement(module)):
            model.set_submodule(name, faster)


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution computed as a matrix product, for which oneDNN has faster kernels."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(
            0, 3, 1, 2
        )


class WideGroupConv2d(nn.Conv2d):
    """A convolution whose groups are too narrow for the hardware, computed in fewer, wider groups with zeros in between.

    Each weight is multiplied with the same inputs as before. The zeros cost less than what a group of 4 channels leaves idle.
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
        """Weights [O, ENOUGH, k, k]: for each output, zero except for the channels of its own group."""
        out, each, *kernel = self.weight.shape
        together = self.groups // groups
        joined = self.weight.new_zeros(
            groups, together, out // self.groups, together, each, *kernel
        )
        own = torch.arange(together)
        joined[:, own, :, own] = self.weight.view(
            groups, together, out // self.groups, each, *kernel
        ).transpose(0, 1)
        return joined.view(out, AMX_CHANNELS, *kernel)


def _cpu_replacement(convolution: nn.Conv2d) -> nn.Conv2d | None:
    """The same convolution in a faster form, if there is one."""
    if _is_pointwise(convolution):
        return _convert_convolution(PointwiseConv2d, convolution)
    if _has_narrow_groups(convolution):
        return _convert_convolution(WideGroupConv2d, convolution)
    return None


def _is_pointwise(convolution: nn.Conv2d) -> bool:
    plain = convolution.groups == 1 and convolution.padding in ((0, 0), "valid", "same")
    return plain and convolution.kernel_size == convolution.stride == (1, 1)


def _has_narrow_groups(convolution: nn.Conv2d) -> bool:
    """Depthwise convolutions don't count: oneDNN has special kernels for them."""
    each = convolution.in_channels // convolution.groups
    return (
        each in (2, 4, 8)
        and convolution.in_channels % AMX_CHANNELS == 0
        and convolution.padding_mode == "zeros"
    )


def _convert_convolution(kind: type[nn.Conv2d], convolution: nn.Conv2d) -> nn.Conv2d:
    names = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
    )
    same = kind(**{name: getattr(convolution, name) for name in names}, device="meta")
    same.weight, same.bias = convolution.weight, convolution.bias
    return same
