"""Apply a trained model to other images."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from bioimg.config import TrialConfig
from bioimg.data.image_set import ImageSet
from bioimg.models.checked_safetensors import SavedModel
from bioimg.models.classifier import Classifier, build_classifier
from bioimg.models.cpu_kernels import use_cpu_kernels
from bioimg.models.feature_extractor import make_feature_extractor
from bioimg.models.pretrained_weights import Normalisation
from bioimg.training import precision
from bioimg.training.batches import Batch, ImageBatches
from bioimg.training.evaluation import gather_outputs


def predict_probabilities(
    saved: SavedModel,
    trial: TrialConfig,
    images: ImageSet,
    dtype: torch.dtype,
    device: torch.device,
) -> np.ndarray:
    """float32 [N, C] of images without augmentation, computed as for the table: in `dtype`, a frozen backbone folded."""
    precision.allow_tf32(trial.tf32)
    classes = len(saved.metadata["classes"])
    classifier = build_classifier(dataclasses.replace(trial, weights="none"), classes)
    classifier.model.load_state_dict(saved.tensors)
    classifier.model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    pixels = ImageBatches(trial, images, Normalisation(*saved.metadata["normalisation"]), device)
    forward = _make_forward(classifier, trial.freeze == "features", dtype)

    def compute(batch: Batch) -> torch.Tensor:
        with precision.autocast(device, dtype):
            return forward(pixels(batch))

    logits = gather_outputs(
        compute, np.arange(len(images)), image_size=trial.image_size, width=classes, device=device
    )
    return logits.double().softmax(1).float().cpu().numpy()


def _make_forward(
    classifier: Classifier, frozen: bool, dtype: torch.dtype
) -> Callable[[torch.Tensor], torch.Tensor]:
    if not frozen:
        use_cpu_kernels(classifier.model, dtype)
        return classifier.model
    extract = make_feature_extractor(classifier, dtype)
    return lambda images: classifier.head(extract(images).to(dtype))
