"""Build table 1 of a paper: the architecture, from the model. Only this table needs torch."""

import functools
from typing import TYPE_CHECKING

import pandas as pd

from bioimg.config import ModelConfig
from bioimg.report.analysis import Analysis
from bioimg.report.checks import note
from bioimg.report.table_model import Column, Table
from bioimg.report.translation import translate

if TYPE_CHECKING:
    from torch import nn


def architecture_table(analysis: Analysis, lang: str = "en") -> Table:
    """Build a table of the stages of the experiment's model.

    It shows their layers, the output shape for one image and the number of parameters.

    Raises:
        UserError: this torchvision has no such model.
    """
    base = analysis.manifest["base"]
    classes = len(analysis.manifest["data"]["classes"])
    config = ModelConfig(model=base["model"], weights="none", image_size=base["image_size"])
    values = pd.DataFrame(_stage_rows(config, classes))
    shown = (
        Column(name="stage", identity=True),
        Column(name="layers"),
        Column(name="blocks", kind="count"),
        Column(name="output"),
        Column(name="parameters", kind="count"),
    )
    parameters = f"{values['parameters'].sum():,}"
    caption = translate("caption.architecture", lang, model=config.model, classes=classes)
    return Table(
        name="architecture",
        values=values,
        columns=shown,
        caption=caption,
        checks=(note("architecture", parameters=parameters, size=config.image_size),),
        results_digest=analysis.digest,
        lang=lang,
    )


def _stage_rows(config: ModelConfig, classes: int) -> list[dict[str, object]]:
    """Return one row per stage, with output shapes from a pass of one blank image."""
    import torch

    from bioimg.models.classifier import build_classifier

    model = build_classifier(config, classes).model.eval()
    shapes: dict[str, tuple[int, ...]] = {}

    def record_shape(name: str, module: object, inputs: object, output: torch.Tensor) -> None:
        shapes[name] = tuple(output.shape[1:])

    for name, stage in model.named_children():
        stage.register_forward_hook(functools.partial(record_shape, name))
    with torch.inference_mode():
        model(torch.zeros(1, 3, config.image_size, config.image_size))
    rows = []
    for name, stage in model.named_children():
        rows.append(
            {
                "stage": name,
                "layers": _describe_layers(stage),
                "blocks": len(stage) if isinstance(stage, torch.nn.Sequential) else None,
                "output": " x ".join(map(str, shapes.get(name, ()))),
                "parameters": sum(parameter.numel() for parameter in stage.parameters()),
            }
        )
    return rows


def _describe_layers(module: "nn.Module") -> str:
    """Describe a layer with its sizes. A stage is described by its first block."""
    from torch import nn

    match module:
        case nn.Conv2d():
            groups = f", {module.groups} groups" if module.groups > 1 else ""
            size = _format_size(module.kernel_size)
            return f"{size} conv, {module.out_channels}{_format_stride(module)}{groups}"
        case nn.MaxPool2d():
            size = _format_size(module.kernel_size)
            padding = _first_dimension(module.padding)
            return f"{size} max-pool{_format_stride(module)}, padding {padding}"
        case nn.Linear():
            return f"linear, {module.in_features} to {module.out_features}"
        case nn.Sequential() if len(module):
            return _describe_layers(module[0])
    convolutions = [child for child in module.children() if isinstance(child, nn.Conv2d)]
    return "; ".join(map(_describe_layers, convolutions)) or type(module).__name__


def _format_stride(module: "nn.Conv2d | nn.MaxPool2d") -> str:
    stride = _first_dimension(module.stride)
    return f", stride {stride}" if stride > 1 else ""


def _format_size(size: int | tuple[int, ...]) -> str:
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
    return f"{height}x{width}"


def _first_dimension(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]
