"""Batches on the device: which images, in which views, and their pixels.

The order and views of an epoch are drawn for whole batches from (seed, epoch) alone, so they are the same for any number of
workers, and a resumed trial needs no random state.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils.class_weight import compute_sample_weight

from bioimg.config import TrialConfig
from bioimg.data.imageset import ImageSet
from bioimg.data.pixels import SHARE, PixelArray
from bioimg.model.weights import Normalisation
from bioimg.training.distributed import Group

VIEWS = {"none": 1, "dihedral": 8}
"""Number of views of an image that each augmentation has; view 0 is the unchanged image."""

CHUNK = 1024


class Batch(NamedTuple):
    """This worker's share of a batch: int64 [B] indices of images, and int64 [B] of the view of each."""

    indices: np.ndarray
    views: np.ndarray


class Step(NamedTuple):
    """A worker's share and the factor of its summed loss that makes DDP's average the mean over the whole batch."""

    batch: Batch
    weight: float


def steps(trial: TrialConfig, indices: np.ndarray, labels: np.ndarray, epoch: int, group: Group) -> Iterator[Step]:
    """One epoch of the images at `indices` as this worker sees it: over all workers, every image once.

    With balanced sampling, as many are drawn with replacement, each class equally often. `labels` is int64 [N].
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
        else:  # DDP needs a backward pass from every worker: this one has no weight
            yield Step(Batch(order[start : start + 1], views[start : start + 1]), 0.0)


def boundaries(images: int, batch_size: int) -> list[tuple[int, int]]:
    """Where the batches of an epoch start and stop; the last one may be smaller.

    A last batch of a single image joins the one before it, since BatchNorm can't take it.
    """
    starts = list(range(0, images, batch_size))
    if len(starts) > 1 and images - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], images], strict=True))


def pixel_key(trial: TrialConfig, images: ImageSet) -> tuple[object, ...]:
    """What decides every pixel that a trial sees, in the images' order. Digests alone don't: they come before resizing."""
    return trial.image_size, trial.resize, trial.channels, images.scaling, images.digests


class Pixels:
    """Batches of images on the device, normalised, in their views."""

    def __init__(self, trial: TrialConfig, images: ImageSet, normalisation: Normalisation, device: torch.device) -> None:
        self._gather = gatherer(images.pixels, pixel_key(trial, images), device)
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in normalisation)
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def __call__(self, batch: Batch) -> torch.Tensor:
        """float32 [B, 3, H, W], channels last in memory."""
        images = self._gather(batch.indices).permute(0, 3, 1, 2)
        return torch.addcmul(self._shift, dihedral(images, batch.views).float(), self._scale)


def gatherer(pixels: PixelArray, which: object, device: torch.device) -> Callable[[np.ndarray], torch.Tensor]:
    """A function that returns uint8 [B, H, W, 3] on the device for indices [B].

    On a GPU all images stay there if they fit; else each batch is copied from pinned memory while the GPU computes.
    """
    if device.type == "cuda" and fits(pixels.nbytes, device):
        whole = resident(pixels, which, device)
        return lambda indices: whole.index_select(0, sent(indices, device))
    return lambda indices: sent(pixels[indices], device)


def sent(values: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Values on the device. To a GPU they are copied from pinned memory, while the GPU computes earlier work."""
    tensor = torch.as_tensor(values)
    return tensor if tensor.device.type == device.type else tensor.pin_memory().to(device, non_blocking=True)


def fits(size: int, device: torch.device) -> bool:
    """Whether so many bytes may stay on the device: of a GPU's memory at most a quarter, since models need room."""
    return device.type == "cpu" or size <= SHARE * torch.cuda.mem_get_info(device)[1]


def copied(pixels: PixelArray, device: torch.device) -> torch.Tensor:
    """All images on the device, read in chunks, so that there is never a second full copy."""
    whole = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(pixels), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(pixels)))
        whole[start : start + CHUNK] = torch.from_numpy(pixels[rows])
    return whole


_held: dict[object, torch.Tensor] = {}


def resident(pixels: PixelArray, which: object, device: torch.device) -> torch.Tensor:
    """All images on the device, kept from trial to trial until others are needed; `which` tells them from any others."""
    if (which, device) not in _held:
        _held.clear()
        _held[which, device] = copied(pixels, device)
    return _held[which, device]


def dihedral(images: torch.Tensor, views: np.ndarray) -> torch.Tensor:
    """Rotate image b of [B, C, S, S] by `views[b] % 4` quarter turns and mirror it if `views[b] >= 4`."""
    if not views.any():
        return images
    turned = torch.empty_like(images)
    for view in np.unique(views):
        chosen = sent(np.flatnonzero(views == view), images.device)
        image = torch.rot90(images[chosen], int(view) % 4, (2, 3))
        turned[chosen] = image.flip(3) if view >= 4 else image
    return turned
