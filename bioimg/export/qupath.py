"""A model for the WSInfer extension of QuPath: config.json and torchscript_model.pt.

The configuration is that of WSInfer's model zoo (wsinfer_zoo/schemas/model-config.schema.json in
https://github.com/SBU-BMI/wsinfer-zoo). The extension resizes and normalises tiles, and applies
softmax to the outputs (https://github.com/qupath/qupath-extension-wsinfer).
"""

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.jit._trace import TracerWarning

from bioimg.errors import UserError
from bioimg.export.trained_model import CheckImages, TrainedModel, shorten_path

CONFIG_FILE, MODEL_FILE = "config.json", "torchscript_model.pt"
WAY_OUT = "Leave qupath out of --to, or train on images as QuPath reads them."


def check_usable(model: TrainedModel, images: CheckImages, um_per_pixel: float | None) -> None:
    """Check that QuPath can give the model images like those that it was trained on.

    Raises:
        UserError: it can't, or `um_per_pixel` isn't given.
    """
    trial = model.trial
    if um_per_pixel is None:
        raise UserError(
            "the value of `um_per_pixel` isn't given, but QuPath needs the size of a pixel of the "
            "training images, in micrometres, before any resizing. Add it, as in "
            "--um-per-pixel 0.5."
        )
    if not 0 < um_per_pixel < math.inf:
        raise UserError(
            f"the value of `um_per_pixel` is {um_per_pixel}, but must be `um_per_pixel > 0`."
        )
    if trial.resize != "resize":
        raise UserError(
            f"the value of `resize` of this trial is {trial.resize!r}, but must be 'resize': "
            f"QuPath stretches each tile to the size of the model. {WAY_OUT}"
        )
    if trial.channels is not None:
        raise UserError(
            f"the value of `channels` of this trial is {trial.channels!r}, but must not be set: "
            f"QuPath gives the red, green and blue of a slide. {WAY_OUT}"
        )
    if model.scaling_limits is not None:
        raise UserError(
            "the images of this trial have more than 8 bits, but must have 8: QuPath doesn't "
            f"scale intensities as bioimg did for this model. {WAY_OUT}"
        )
    sizes = sorted(images.stored_sizes)
    if len(sizes) > 1 or sizes[0][0] != sizes[0][1]:
        shown = ", ".join(f"{width} x {height}" for width, height in sizes[:3])
        raise UserError(
            f"the images of this trial have {shown} pixels, but must be square and of one size, as "
            f"QuPath's tiles are. {WAY_OUT}"
        )


def write_files(
    model: TrainedModel, images: CheckImages, um_per_pixel: float, folder: Path
) -> None:
    """Write config.json and torchscript_model.pt."""
    ((side, _),) = images.stored_sizes
    mean, std = model.normalisation
    config = {
        "spec_version": "1.0",
        "architecture": shorten_path(model.trial.model),
        "num_classes": len(model.classes),
        "patch_size_pixels": side,
        "spacing_um_px": um_per_pixel,
        "class_names": model.classes,
        "transform": [
            {"name": "Resize", "arguments": {"size": model.trial.image_size}},
            {"name": "ToTensor"},
            {"name": "Normalize", "arguments": {"mean": list(mean), "std": list(std)}},
        ],
    }
    folder.mkdir(parents=True)
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    with _allow_torchscript(), torch.inference_mode():
        traced = torch.jit.trace(model.classifier.model, model.blank_images())
        torch.jit.save(traced, folder / MODEL_FILE)


@torch.inference_mode()
def predict_probabilities(folder: Path, images: torch.Tensor) -> torch.Tensor:
    """Return class probabilities [N, C] as QuPath computes them, for resized images from 0 to 1."""
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    normalise = config["transform"][-1]["arguments"]
    mean = torch.tensor(normalise["mean"]).view(3, 1, 1)
    std = torch.tensor(normalise["std"]).view(3, 1, 1)
    with _allow_torchscript():
        traced = torch.jit.load(folder / MODEL_FILE)
        return traced((images - mean) / std).softmax(1)


@contextmanager
def _allow_torchscript() -> Iterator[None]:
    """Hide that TorchScript is deprecated, and that sizes are fixed: QuPath reads nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=FutureWarning)
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=TracerWarning)
        yield
