"""Faster convolutions compute the same as the originals, forwards and backwards."""

import copy

import pytest
import torch
from torch import nn

from bioimg.config import ModelConfig
from bioimg.models.classifier import build_classifier
from bioimg.models.cpu_kernels import PointwiseConv2d, WideGroupConv2d, use_cpu_kernels


def faster_form(convolution: nn.Conv2d) -> nn.Module:
    model = nn.Sequential(copy.deepcopy(convolution))
    use_cpu_kernels(model, torch.bfloat16)
    return model[0]


def gradients(convolution: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    images = images.clone().requires_grad_()
    output = convolution(images)
    return [
        output,
        *torch.autograd.grad(output.square().sum(), [images, *convolution.parameters()]),
    ]


@pytest.mark.parametrize(
    ("kind", "convolution"),
    [
        (PointwiseConv2d, nn.Conv2d(6, 5, 1)),
        (PointwiseConv2d, nn.Conv2d(6, 5, 1, bias=False)),
        (WideGroupConv2d, nn.Conv2d(128, 128, 3, padding=1, groups=32, bias=False)),
        (WideGroupConv2d, nn.Conv2d(64, 128, 3, padding=1, stride=2, groups=8)),
        (WideGroupConv2d, nn.Conv2d(64, 96, 3, padding=2, dilation=2, groups=32)),
        (WideGroupConv2d, nn.Conv2d(32, 48, (1, 3), groups=4)),
    ],
    ids=str,
)
def test_faster_form_has_same_values_and_gradients(kind, convolution):
    faster = faster_form(convolution)
    assert type(faster) is kind
    images = torch.rand(2, convolution.in_channels, 9, 9).to(memory_format=torch.channels_last)
    for value, expected in zip(
        gradients(faster, images), gradients(convolution, images), strict=True
    ):
        assert torch.allclose(value, expected, rtol=1e-4, atol=1e-4)
    assert faster(images).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(6, 5, 1, stride=2),
        nn.Conv2d(6, 5, 1, padding=1),
        nn.Conv2d(6, 6, 1, groups=2),
        nn.Conv2d(6, 6, 3),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.Conv2d(64, 64, 3, groups=4),
        nn.Conv2d(24, 24, 3, groups=6),
        nn.Conv2d(64, 64, 3, groups=16, padding=1, padding_mode="reflect"),
    ],
    ids=str,
)
def test_convolution_without_faster_form_stays(convolution):
    assert type(faster_form(convolution)) is nn.Conv2d


def test_state_dict_and_parameters_stay():
    model = build_classifier(ModelConfig(model="resnext50_32x4d", weights="none"), classes=3).model
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    parameters = list(map(id, model.parameters()))
    use_cpu_kernels(model, torch.bfloat16)
    assert sum(isinstance(module, PointwiseConv2d) for module in model.modules()) == 33
    assert sum(isinstance(module, WideGroupConv2d) for module in model.modules()) == 7
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == before
    assert list(map(id, model.parameters())) == parameters


def test_float32_model_stays():
    model = build_classifier(ModelConfig(model="resnext50_32x4d", weights="none"), classes=3).model
    use_cpu_kernels(model, torch.float32)
    assert not any(
        isinstance(module, PointwiseConv2d | WideGroupConv2d) for module in model.modules()
    )
