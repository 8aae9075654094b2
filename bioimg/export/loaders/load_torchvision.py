"""Load the model in this folder. It needs torch, torchvision and safetensors."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

FOLDER = Path(__file__).parent


def read_config() -> dict[str, Any]:
    """Return config.json: architecture, classes, mean, std."""
    return json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))


def load_model() -> nn.Module:
    """Return the model in eval mode. It gives logits [N, C] for normalised images [N, 3, S, S]."""
    config = read_config()
    if config["module"]:
        # the file beside this one registers an architecture that torchvision lacks
        sys.path.insert(0, str(FOLDER))
        importlib.import_module(config["module"])
    model = torchvision.models.get_model(config["architecture"], weights=None)
    tensors = load_file(FOLDER / "model.safetensors")
    classes, features = tensors[f"{config['head']}.weight"].shape
    model.set_submodule(config["head"], nn.Linear(features, classes))
    model.load_state_dict(tensors)
    return model.eval()


@torch.inference_mode()
def predict_probabilities(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return class probabilities [N, C] of images [N, 3, S, S], RGB from 0 to 1."""
    config = read_config()
    mean = torch.tensor(config["mean"]).view(3, 1, 1)
    std = torch.tensor(config["std"]).view(3, 1, 1)
    return model((images - mean) / std).softmax(1)
