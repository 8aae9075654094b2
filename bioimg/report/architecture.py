"""Table 1 of a paper: the architecture, from the model itself. Nothing else in the report needs torch."""

from typing import TYPE_CHECKING

import pandas as pd

from bioimg.config import ModelConfig
from bioimg.report.notices import make_notice
from bioimg.report.table_model import Column, Table
from bioimg.report.table_notes import results_digest
from bioimg.report.translation import translate
from bioimg.results.result_store import Results

if TYPE_CHECKING:
    from torch import nn


def architecture_table(results: Results, lang: str = "en") -> Table:
    """The stages of the experiment's model: their layers, output shape for one image and number of parameters.

    Raises:
        UserError: this torchvision has no such model.
    """
    base, classes = results.manifest["base"], len(results.manifest["data"]["classes"])
    config = ModelConfig(model=base["model"], weights="none", image_size=base["image_size"])
    values = pd.DataFrame(_stage_rows(config, classes))
    shown = (
        Column(name="stage", identity=True),
        Column(name="layers"),
        Column(name="blocks", kind="count"),
        Column(name="output"),
        Column(name="parameters", kind="count"),
    )
    note = make_notice(
        "note.architecture",
        lang,
        parameters=f"{values['parameters'].sum():,}",
        size=config.image_size,
    )
    caption = translate("caption.architecture", lang, model=config.model, classes=classes)
    identity = results_digest(results)
    return Table(
        name="architecture",
        values=values,
        columns=shown,
        caption=caption,
        notices=(note,),
        results_digest=identity,
        lang=lang,
    )


def _stage_rows(config: ModelConfig, classes: int) -> list[dict[str, object]]:
    import torch

    from bioimg.models.classifier import build_classifier

    model = build_classifier(config, classes).model.eval()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_children():

        def note(_: object, __: object, output: torch.Tensor, name: str = name) -> None:
            shapes[name] = tuple(output.shape[1:])

        module.register_forward_hook(note)
    with torch.inference_mode():
        model(torch.zeros(1, 3, config.image_size, config.image_size))
    return [
        {
            "stage": name,
            "layers": _describe_layers(module),
            "blocks": len(module) if isinstance(module, torch.nn.Sequential) else None,
            "output": " x ".join(map(str, shapes.get(name, ()))),
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
        }
        for name, module in model.named_children()
    ]


def _describe_layers(module: "nn.Module") -> str:
    """A layer with its sizes; for a stage, those of its first block."""
    from torch import nn

    match module:
        case nn.Conv2d():
            groups = f", {module.groups} groups" if module.groups > 1 else ""
            return f"{_format_size(module.kernel_size)} conv, {module.out_channels}{_format_stride(module)}{groups}"
        case nn.MaxPool2d():
            return f"{_format_size(module.kernel_size)} max-pool{_format_stride(module)}, padding {_first_dimension(module.padding)}"
        case nn.Linear():
            return f"linear, {module.in_features} to {module.out_features}"
        case nn.Sequential() if len(module):
            return _describe_layers(module[0])
        case _ if any(isinstance(child, nn.Conv2d) for child in module.children()):
            return "; ".join(
                _describe_layers(child)
                for child in module.children()
                if isinstance(child, nn.Conv2d)
            )
        case _:
            return type(module).__name__


def _first_dimension(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]


def _format_size(size: int | tuple[int, ...]) -> str:
    return f"{_first_dimension(size)}x{size if isinstance(size, int) else size[-1]}"


def _format_stride(module: "nn.Conv2d | nn.MaxPool2d") -> str:
    return (
        f", stride {_first_dimension(module.stride)}" if _first_dimension(module.stride) > 1 else ""
    )
