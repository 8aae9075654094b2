"""Apply a trained model to other images."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from bioimg.config import TrialConfig
from bioimg.data.external_images import select_images
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
from bioimg.training.typicality import TypicalityScale, choose_reference_rows, measure_distances

BatchMeasure = Callable[[torch.Tensor], torch.Tensor]
"""Compute outputs [B, W] for a batch of images or features."""


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
    classifier = _move_classifier(saved, trial, device)
    forward = _make_forward(classifier, dtype, frozen=trial.freeze == "features")
    classes = len(saved.metadata["classes"])
    logits = _run_over_images(forward, classes, saved, trial, images, dtype, device)
    return logits.double().softmax(1).float().cpu().numpy()


def rate_typicality(
    saved: SavedModel,
    trial: TrialConfig,
    known: ImageSet,
    subsets: Sequence[str | None],
    images: ImageSet,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[np.ndarray, TypicalityScale]:
    """Return how typical images are of those that a trial was trained on, [N], and the scale.

    known: the images of the experiment.
    subsets: the subset that each of these was in.
    """
    classifier = _move_classifier(saved, trial, device)
    use_cpu_kernels(classifier.model, dtype)

    def run(measure: BatchMeasure, width: int, over: ImageSet) -> torch.Tensor:
        def forward(batch: torch.Tensor) -> torch.Tensor:
            return measure(classifier.compute_features(batch))

        return _run_over_images(forward, width, saved, trial, over, dtype, device)

    names = np.array([name or "" for name in subsets])
    training, val = (
        select_images(known, choose_reference_rows(names == name)) for name in ("train", "val")
    )
    width = classifier.head.in_features
    training_features = run(lambda features: F.normalize(features.float()), width, training)

    def measure(features: torch.Tensor) -> torch.Tensor:
        return measure_distances(features, training_features)

    scale = TypicalityScale(training_features, run(measure, 1, val).cpu().numpy()[:, 0])
    return scale.rate(run(measure, 1, images).cpu().numpy()[:, 0]), scale


def _move_classifier(saved: SavedModel, trial: TrialConfig, device: torch.device) -> Classifier:
    precision.allow_tf32(trial.tf32)
    classifier = load_classifier(saved, trial)
    classifier.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return classifier


def _run_over_images(
    forward: BatchMeasure,
    width: int,
    saved: SavedModel,
    trial: TrialConfig,
    images: ImageSet,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Return float32 [N, width], what `forward` gives for normalised images [B, 3, S, S]."""
    normalisation = Normalisation(*saved.metadata["normalisation"])
    source = ImageBatches(images, trial.dataset_config, normalisation, device)

    def compute(batch: Batch) -> torch.Tensor:
        with precision.autocast(device, dtype):
            return forward(source.load_batch(batch))

    every_image = np.arange(len(images))
    return gather_outputs(
        compute, every_image, image_size=trial.image_size, width=width, device=device
    )


def _make_forward(
    classifier: Classifier, dtype: torch.dtype, *, frozen: bool
) -> Callable[[torch.Tensor], torch.Tensor]:
    if not frozen:
        use_cpu_kernels(classifier.model, dtype)
        return classifier.model
    extract = make_feature_extractor(classifier, dtype)
    return lambda images: classifier.head(extract(images).to(dtype))
