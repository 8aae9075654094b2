"""Apply a trained model to other images."""

import dataclasses
import functools
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


class TrialPredictor:
    """A trained model that predicts images as it did for the results of its trial.

    It computes in `dtype`, with a frozen backbone folded.
    """

    def __init__(
        self, saved: SavedModel, trial: TrialConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        classifier = _move_classifier(saved, trial, device)
        forward = _make_forward(classifier, dtype, frozen=trial.freeze == "features")
        classes = len(saved.metadata["classes"])
        self._compute = functools.partial(
            _run_over_images, forward, classes, saved, trial, dtype, device
        )

    def predict(self, images: ImageSet) -> np.ndarray:
        """Return class probabilities, float32 [N, C], of images without augmentation."""
        return self._compute(images).double().softmax(1).float().cpu().numpy()


class TypicalityRater:
    """A trained model that says how typical images are of those that it was trained on."""

    def __init__(
        self,
        saved: SavedModel,
        trial: TrialConfig,
        known: ImageSet,
        subsets: Sequence[str | None],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Compute the features of training images, and the distances of validation images.

        known: the images of the experiment.
        subsets: the subset that each of these was in.
        """
        classifier = _move_classifier(saved, trial, device)
        use_cpu_kernels(classifier.model, dtype)

        def run(measure: BatchMeasure, width: int, images: ImageSet) -> torch.Tensor:
            def forward(batch: torch.Tensor) -> torch.Tensor:
                return measure(classifier.compute_features(batch))

            return _run_over_images(forward, width, saved, trial, dtype, device, images)

        self._run = run
        names = np.array([name or "" for name in subsets])
        training, val = (
            select_images(known, choose_reference_rows(names == name)) for name in ("train", "val")
        )
        width = classifier.head.in_features
        self._training_features = run(
            lambda features: F.normalize(features.float()), width, training
        )
        self.scale = TypicalityScale(self._training_features, self._measure(val))

    def rate(self, images: ImageSet) -> np.ndarray:
        """Return the typicality of images, [N]."""
        return self.scale.rate(self._measure(images))

    def _measure(self, images: ImageSet) -> np.ndarray:
        """Return the distances of images from training images, [N]."""

        def measure(features: torch.Tensor) -> torch.Tensor:
            return measure_distances(features, self._training_features)

        return self._run(measure, 1, images).cpu().numpy()[:, 0]


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
    dtype: torch.dtype,
    device: torch.device,
    images: ImageSet,
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
