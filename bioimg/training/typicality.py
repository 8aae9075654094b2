"""How typical images are of those that a model was trained on, by its own features.

An image's distance is that to its k-th nearest training image, in features of length one (Sun et
al. 2022, Out-of-distribution detection with deep nearest neighbors, ICML). Validation images, which
the model wasn't trained on, say how far is far: the conformal p-value of Bates et al. 2023, Testing
for outliers with conformal p-values, Ann. Stat. 51.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

NEIGHBOURS = 5
REFERENCE_IMAGES = 2000
"""The most training images, and the most validation images, that images are compared with."""
UNLIKE_LEVEL = 0.05
"""The typicality below which an image is called unlike the training images."""


@dataclass(frozen=True, eq=False)
class TypicalityScale:
    """What a new image is compared with."""

    training_features: torch.Tensor
    """float32 [M, F], each of length one."""
    val_distances: np.ndarray
    """float32 [V], the distances of validation images."""

    @property
    def can_tell_unlike(self) -> bool:
        """Whether there are enough validation images for a typicality below UNLIKE_LEVEL."""
        return 1 / (len(self.val_distances) + 1) < UNLIKE_LEVEL

    def rate(self, distances: np.ndarray) -> np.ndarray:
        """Return the typicality of images with these distances, [N], above 0 and at most 1.

        It is the share of images at least as far, among the validation images and the image
        itself. To call all images with at most this typicality unlike is a false alarm for that
        share of images of the same source, if validation images are like them.
        """
        ordered = np.sort(self.val_distances)
        farther = len(ordered) - np.searchsorted(ordered, distances, side="left")
        return (1 + farther) / (len(ordered) + 1)


def measure_distances(features: torch.Tensor, training_features: torch.Tensor) -> torch.Tensor:
    """Return the distance of each image to its k-th nearest training image, [N, 1].

    Args:
        features: [N, F], of any length.
        training_features: float32 [M, F], each of length one.
    """
    distances = torch.cdist(F.normalize(features.float()), training_features)
    neighbours = min(NEIGHBOURS, len(training_features))
    return distances.kthvalue(neighbours, dim=1, keepdim=True).values


def choose_reference_rows(is_chosen: np.ndarray) -> np.ndarray:
    """Return the rows where this is True; if they are many, evenly spaced ones."""
    rows = np.flatnonzero(is_chosen)
    step = -(-len(rows) // REFERENCE_IMAGES) or 1
    return rows[::step]
