"""A frozen backbone is run once for each image and view, however many trials, epochs, seeds and folds use it.

Dihedral augmentation has 8 outcomes, so 8 views cover it: the head trains on what it would see anyway.
"""

from collections.abc import Callable

import numpy as np
import torch

from bioimg.training.batches import Batch
from bioimg.training.distributed import Group
from bioimg.training.evaluate import outputs


class Features:
    """What the head sees of each image and view: float32 [views, images, width] on the device, filled as it is needed."""

    def __init__(self, *, views: int, images: int, image_size: int, width: int, device: torch.device) -> None:
        self._image_size = image_size
        self._values = torch.zeros(views, images, width, device=device)
        self._known = np.zeros((views, images), dtype=bool)

    def prepare(self, compute: Callable[[Batch], torch.Tensor], indices: np.ndarray, views: range, group: Group) -> None:
        """Run the backbone for those of the images and views that it hasn't seen yet, shared among the workers."""
        device, width = self._values.device, self._values.shape[2]
        for view in views:
            new = indices[~self._known[view, indices]]
            if len(new):
                size = self._image_size
                rows = outputs(compute, new, view=view, image_size=size, width=width, device=device, group=group)
                self._values[view, torch.from_numpy(new)] = rows
                self._known[view, new] = True

    def __call__(self, batch: Batch) -> torch.Tensor:
        """float32 [B, width]."""
        assert self._known[batch.views, batch.indices].all()
        return self._values[torch.from_numpy(batch.views), torch.from_numpy(batch.indices)]
