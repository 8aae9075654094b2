"""The features that a trial with a frozen backbone trains its head on."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from bioimg.config import TrialConfig
from bioimg.data.image_set import ImageSet, Split
from bioimg.models.classifier import Classifier
from bioimg.models.feature_extractor import backbone_digest, make_feature_extractor
from bioimg.models.pretrained_weights import Normalisation
from bioimg.storage import disk_cache
from bioimg.training import precision
from bioimg.training.batches import VIEW_COUNTS, Batch, InputSource
from bioimg.training.evaluation import BatchFunction
from bioimg.training.feature_cache import FEATURES_VERSION, FeatureCache, get_feature_cache
from bioimg.training.image_batches import ImageBatches, pixel_key

SHORT_WAIT_S = 60.0
"""Seconds of computing features that aren't worth a message."""


@dataclass(frozen=True, kw_only=True)
class FrozenBackbone:
    """A trial's backbone, and the images that it turns into features."""

    trial: TrialConfig
    images: ImageSet
    classifier: Classifier
    normalisation: Normalisation
    dtype: torch.dtype
    device: torch.device
    on_message: Callable[[str], None] = lambda text: None
    """Take what a user who waits for features should know."""

    def load_features(self, split: Split) -> tuple[FeatureCache, float]:
        """Load the features of all images that the trial uses, after computing missing ones.

        Return them, and the seconds that their computation has taken, now or earlier.

        Raises:
            UserError: the cache can't be written.
        """
        key = self.feature_key()
        images_by_view = self.images_by_view(split)
        cache = get_feature_cache(key, self._views, lambda: self._open_cache(key))
        cache.compute_missing(self.make_batch_function, images_by_view, self._report_progress)
        return cache, cache.compute_seconds(images_by_view)

    def feature_key(self) -> str:
        """Return a hash of everything that features depend on.

        It includes the order of the images and the values of the weights.
        """
        trial = self.trial
        model = (trial.model, backbone_digest(self.classifier), self.normalisation)
        device = "cpu"
        if self.device.type == "cuda":
            device = torch.cuda.get_device_name(self.device)
        return disk_cache.cache_key(
            FEATURES_VERSION,
            pixel_key(trial.dataset_config, self.images),
            model,
            (device, torch.__version__, self.dtype, trial.tf32),
        )

    def images_by_view(self, split: Split) -> dict[int, np.ndarray]:
        """Return the images whose features are needed in each view.

        All are evaluated in view 0 and those for training appear in any. With folds, each image is
        for training in some trial.
        """
        all_images = np.arange(len(self.images))
        training_images = all_images if self.trial.folds else split.train
        augmented = dict.fromkeys(range(1, self._views), training_images)
        return {0: all_images, **augmented}

    def make_batch_function(self) -> BatchFunction:
        """Return the function that computes the features of a batch."""
        images = self.make_image_batches()
        extract = make_feature_extractor(self.classifier, self.dtype)

        def compute(batch: Batch) -> torch.Tensor:
            with precision.autocast(self.device, self.dtype):
                return extract(images.load_batch(batch))

        return compute

    def make_image_batches(self) -> InputSource:
        """Return the source of the images that features are computed from."""
        return ImageBatches(self.images, self.trial.dataset_config, self.normalisation, self.device)

    def _report_progress(self, share: float, seconds_left: float) -> None:
        if seconds_left < SHORT_WAIT_S:
            return
        time_left = datetime.timedelta(seconds=round(seconds_left))
        text = f"Features of {self.trial.model}: {100 * share:.0f} %, about {time_left} left."
        if self._views > 1:
            text += f" (With --augmentation none, 1 of {self._views} views would do.)"
        self.on_message(text)

    @property
    def _views(self) -> int:
        return VIEW_COUNTS[self.trial.augmentation]

    def _open_cache(self, key: str) -> FeatureCache:
        trial, images = self.trial, self.images
        description = (
            f"{trial.model} {trial.weights}, {images.name} at {trial.image_size} px, "
            f"{precision.dtype_name(self.dtype)}"
        )
        return FeatureCache(
            key,
            shape=(self._views, len(images), self.classifier.head.in_features),
            dtype=self.dtype,
            image_size=trial.image_size,
            device=self.device,
            description=description,
        )
