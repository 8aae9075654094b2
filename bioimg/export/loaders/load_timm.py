"""Load the model in this folder. It needs torch, timm and safetensors."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.layers import SwiGLUPacked  # pyright: ignore[reportPrivateImportUsage]
from torch import nn

FOLDER = Path(__file__).parent
LAYERS = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}
"""Layers that the architecture's arguments can name."""


class PooledClassifier(nn.Module):
    """A backbone, the pooling of its tokens, and a linear head."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        arguments = {}
        for name, value in config["arguments"].items():
            arguments[name] = LAYERS[value] if name.endswith("_layer") else value
        self.backbone: Any = timm.create_model(config["architecture"], num_classes=0, **arguments)
        self.pooling = config["pooling"]
        self.head = nn.Linear(config["features"], len(config["classes"]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [N, C] for normalised images [N, 3, S, S]."""
        return self.head(self._pool_features(images))

    def _pool_features(self, images: torch.Tensor) -> torch.Tensor:
        if self.pooling == "model":
            return self.backbone(images)
        tokens = self.backbone.forward_features(images)
        class_token = tokens[:, 0]
        if self.pooling == "class":
            return class_token
        patch_tokens = tokens[:, self.backbone.num_prefix_tokens :]
        return torch.cat([class_token, patch_tokens.mean(1)], dim=1)


def read_config() -> dict[str, Any]:
    """Return config.json: architecture, arguments, pooling, classes, mean, std."""
    return json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))


def load_model() -> nn.Module:
    """Return the model in eval mode. It gives logits [N, C] for normalised images [N, 3, S, S]."""
    model = PooledClassifier(read_config())
    model.load_state_dict(load_file(FOLDER / "model.safetensors"))
    return model.eval()


@torch.inference_mode()
def predict_probabilities(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return class probabilities [N, C] of images [N, 3, S, S], RGB from 0 to 1."""
    config = read_config()
    mean = torch.tensor(config["mean"]).view(3, 1, 1)
    std = torch.tensor(config["std"]).view(3, 1, 1)
    return model((images - mean) / std).softmax(1)
