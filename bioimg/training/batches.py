"""Batches on the device: which images, seen how, and their pixels.

Order and views of an epoch are drawn for the whole batch from (seed, epoch) alone. So they are the same for any number of
workers, and a resumed trial needs no random state.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils.class_weight import compute_sample_weight

from bioimg.config import TrialConfig
from bioimg.data.pixels import PixelArray
from bioimg.model.weights import Normalisation
from bioimg.training.distributed import Group

VIEWS = {"none": 1, "dihedral": 8}
"""In how many ways an augmentation can show an image; view 0 is the image as it is."""


class Batch(NamedTuple):
    """This worker's share of a batch: int64 [B] indices of images, and int64 [B] of the view in which each is seen."""

    indices: np.ndarray
    views: np.ndarray


class Step(NamedTuple):
    """A worker's share and what its summed loss is multiplied by, so that DDP's average is the mean over the whole batch."""

    batch: Batch
    weight: float


def steps(trial: TrialConfig, indices: np.ndarray, labels: np.ndarray, epoch: int, group: Group) -> Iterator[Step]:
    """One epoch of the images at `indices` as this worker sees it: over all workers, every image once.

    With balanced sampling as many are drawn with replacement, each class as often as any other. `labels` is int64 [N].
    """
    draw = np.random.default_rng((trial.seed, epoch))
    if trial.sampling == "balanced":
        rarity = compute_sample_weight("balanced", labels[indices])
        order = draw.choice(indices, len(indices), p=rarity / rarity.sum())
    else:
        order = draw.permutation(indices)
    views = draw.integers(VIEWS[trial.augmentation], size=len(order))
    for start, stop in boundaries(len(order), trial.batch_size):
        mine = group.share(np.arange(start, stop))
        if len(mine):
            yield Step(Batch(order[mine], views[mine]), group.size / (stop - start))
        else:  # DDP needs a backward pass of every worker: one that counts for nothing
            yield Step(Batch(order[start : start + 1], views[start : start + 1]), 0.0)


def boundaries(images: int, batch_size: int) -> list[tuple[int, int]]:
    """Where the batches of an epoch start and stop; the last one may be smaller.

    A last batch of a single image joins the one before it, since BatchNorm can't take it.
    """
    starts = list(range(0, images, batch_size))
    if len(starts) > 1 and images - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], images], strict=True))


class Pixels:
    """Images on the device, normalised and turned when they are asked for."""

    def __init__(self, pixels: PixelArray, normalisation: Normalisation, device: torch.device) -> None:
        self._pixels, self._device = pixels, device
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in normalisation)
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def __call__(self, batch: Batch) -> torch.Tensor:
        """float32 [B, 3, H, W], channels last in memory."""
        images = torch.from_numpy(self._pixels[batch.indices]).to(self._device).permute(0, 3, 1, 2)
        return dihedral(images, batch.views) * self._scale + self._shift


def dihedral(images: torch.Tensor, views: np.ndarray) -> torch.Tensor:
    """Turn image b of [B, C, S, S] by `views[b] % 4` quarters and mirror it if `views[b] >= 4`."""
    if not views.any():
        return images
    turned = torch.empty_like(images)
    for view in np.unique(views):
        chosen = torch.from_numpy(np.flatnonzero(views == view)).to(images.device)
        image = torch.rot90(images[chosen], int(view) % 4, (2, 3))
        turned[chosen] = image.flip(3) if view >= 4 else image
    return turned
