"""Apply a trained model to other images."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from bioimg.config import TrialConfig
from bioimg.data.imageset import ImageSet
from bioimg.model.build import Classifier, build
from bioimg.model.convolutions import quicken
from bioimg.model.extract import extractor
from bioimg.model.saved import Saved
from bioimg.model.weights import Normalisation
from bioimg.training import precision
from bioimg.training.batches import Batch, Pixels
from bioimg.training.evaluate import outputs


def probabilities(saved: Saved, trial: TrialConfig, images: ImageSet, dtype: torch.dtype, device: torch.device) -> np.ndarray:
    """float32 [N, C] of images without augmentation, computed as for the table: in `dtype`, a frozen backbone folded."""
    precision.allow_tf32(trial.tf32)
    classes = len(saved.about["classes"])
    classifier = build(dataclasses.replace(trial, weights="none"), classes)
    classifier.model.load_state_dict(saved.tensors)
    classifier.model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    pixels = Pixels(trial, images, Normalisation(*saved.about["normalisation"]), device)
    forward = _forward(classifier, trial.freeze == "features", dtype)

    def compute(batch: Batch) -> torch.Tensor:
        with precision.autocast(device, dtype):
            return forward(pixels(batch))

    logits = outputs(compute, np.arange(len(images)), image_size=trial.image_size, width=classes, device=device)
    return logits.double().softmax(1).float().cpu().numpy()


def _forward(classifier: Classifier, frozen: bool, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    if not frozen:
        quicken(classifier.model, dtype)
        return classifier.model
    extract = extractor(classifier, dtype)
    return lambda images: classifier.head(extract(images).to(dtype))
