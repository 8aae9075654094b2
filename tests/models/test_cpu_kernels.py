"""Faster convolutions compute the same as the originals, forwards and backwards."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from bioimg.config import ModelConfig
from bioimg.models.classifier import build_classifier
from bioimg.models.cpu_kernels import PointwiseConv2d, WideGroupConv2d, use_cpu_kernels


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


class ScaledConv2d(nn.Conv2d):
    """A convolution with weights of its own making, as some of timm's have."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(input, self.weight / self.weight.norm(), self.bias)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
def test_convolution_of_another_class_stays(dtype, kernel):
    model = nn.Sequential(ScaledConv2d(32, 32, kernel, groups=1 if kernel == 1 else 8))
    use_cpu_kernels(model, dtype)
    assert type(model[0]) is ScaledConv2d
    assert model[0].dilation == (1, 1)


def test_float32_model_keeps_its_classes():
    model = build_classifier(ModelConfig(model="resnext50_32x4d", weights="none"), classes=3).model
    before = list(map(type, model.modules()))
    use_cpu_kernels(model, torch.float32)
    assert list(map(type, model.modules())) == before


@pytest.mark.parametrize("image_count", [2, 16])
def test_float32_convolution_of_one_pixel_has_same_values_and_gradients(image_count):
    convolution = nn.Conv2d(6, 5, 1)
    model = nn.Sequential(copy.deepcopy(convolution))
    use_cpu_kernels(model, torch.float32)
    images = torch.rand(image_count, 6, 9, 9).to(memory_format=torch.channels_last)
    values = zip(gradients(model, images), gradients(convolution, images), strict=True)
    for value, expected in values:
        torch.testing.assert_close(value, expected)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch lacks oneDNN")
def test_few_images_are_convolved_by_onednn_in_one_thread(one_thread):
    model = nn.Sequential(nn.Conv2d(6, 5, 1))
    images = torch.rand(2, 6, 9, 9)

    def backend() -> str:
        convolution = model[0]
        arguments = (convolution.stride, convolution.padding, convolution.dilation)
        parameters = (convolution.weight, convolution.bias)
        return torch._C._select_conv_backend(images, *parameters, *arguments, False, (0, 0), 1).name

    assert backend() != "Mkldnn", "torch chooses oneDNN itself: remove ONEDNN_DILATION"
    use_cpu_kernels(model, torch.float32)
    assert backend() == "Mkldnn"
