"""Save models of timm with random weights, as timm does."""

import json
from pathlib import Path

import timm
import torch
from timm.models import save_for_hf


def save_timm_folder(
    folder: Path, architecture: str, size: int, licence: str | None = None, **arguments: object
) -> torch.nn.Module:
    """Save a classifier for images of this size. Return it without its head."""
    if timm.get_pretrained_cfg(architecture).fixed_input_size:
        arguments["img_size"] = size
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=5, **arguments)
    save_for_hf(model, folder, model_args=arguments or None, safe_serialization=True)
    if licence:
        file = folder / "config.json"
        config = json.loads(file.read_text())
        config["pretrained_cfg"]["license"] = licence
        file.write_text(json.dumps(config))
    model.reset_classifier(0)
    return model.eval()
