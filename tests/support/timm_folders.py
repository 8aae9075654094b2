"""Save models of timm with random weights, as timm does."""

import json
from pathlib import Path

import timm
import torch
from timm.models import save_for_hf

FAMILY_SIZES = {
    "vit_tiny_patch16_224": 64,
    "resnet18": 64,
    "convnext_atto": 64,
    "tf_efficientnet_lite0": 64,
    "mobilenetv3_small_050": 64,
    "vit_small_patch14_dinov2": 56,
    "vit_small_patch14_reg4_dinov2": 56,
    "eva02_tiny_patch14_224": 56,
    "vit_small_patch16_dinov3": 224,
    "deit_tiny_patch16_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "regnety_002": 224,
    "densenet121": 224,
    "inception_v3": 224,
    "mixer_s32_224": 224,
    "coatnet_pico_rw_224": 224,
    "poolformer_s12": 224,
    "hiera_tiny_224": 224,
    "efficientformerv2_s0": 224,
    "vgg11": 224,
}
"""Twenty architectures of many families, with an image size that each can take."""


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
