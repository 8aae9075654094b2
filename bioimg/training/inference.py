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
from bioimg.models.state_dicts import load_own_state
from bioimg.training import precision
from bioimg.training.batches import Batch
from bioimg.training.evaluation import gather_outputs
from bioimg.training.image_batches import ImageBatches


def load_classifier(saved: SavedModel, trial: TrialConfig) -> Classifier:
    """Return the model that a trial saved, on the CPU in eval mode."""
    # all tensors come from the saved model
    config = dataclasses.replace(trial.model_config, weights="none")
    classifier = build_classifier(config, len(saved.metadata["classes"]))
    load_own_state(classifier.model, saved.tensors)
    classifier.model.eval()
    return classifier


def predict_probabilities(
    saved: SavedModel,
    trial: TrialConfig,
    images: ImageSet,
    dtype: torch.dtype,
    device: torch.device,
) -> np.ndarray:
    """Return class probabilities, float32 [N, C], of images without augmentation.

    They are computed as for the results of `trial`, which trained the saved model: in `dtype`, with
    a frozen backbone folded.
    """
    precision.allow_tf32(trial.tf32)
    classifier = load_classifier(saved, trial)
    classifier.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalisation = Normalisation(*saved.metadata["normalisation"])
    source = ImageBatches(images, trial.dataset_config, normalisation, device)
    forward = _make_forward(classifier, dtype, frozen=trial.freeze == "features")

    def compute(batch: Batch) -> torch.Tensor:
        with precision.autocast(device, dtype):
            return forward(source.load_batch(batch))

    every_image = np.arange(len(images))
    classes = len(saved.metadata["classes"])
    logits = gather_outputs(
        compute, every_image, image_size=trial.image_size, width=classes, device=device
    )
    return logits.double().softmax(1).float().cpu().numpy()


def _make_forward(
    classifier: Classifier, dtype: torch.dtype, *, frozen: bool
) -> Callable[[torch.Tensor], torch.Tensor]:
    if not frozen:
        use_cpu_kernels(classifier.model, dtype)
        return classifier.model
    extract = make_feature_extractor(classifier, dtype)
    return lambda images: classifier.head(extract(images).to(dtype))
