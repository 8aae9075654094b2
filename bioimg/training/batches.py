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


class Pixels:
    """Batches of images on the device, normalised, in their views."""

    def __init__(self, images: ImageSet, normalisation: Normalisation, device: torch.device) -> None:
        self._gather = gatherer(images, device)
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in normalisation)
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def __call__(self, batch: Batch) -> torch.Tensor:
        """float32 [B, 3, H, W], channels last in memory."""
        images = self._gather(batch.indices).permute(0, 3, 1, 2)
        return torch.addcmul(self._shift, dihedral(images, batch.views).float(), self._scale)


def gatherer(images: ImageSet, device: torch.device) -> Callable[[np.ndarray], torch.Tensor]:
    """A function that returns uint8 [B, H, W, 3] on the device for indices [B].

    On a GPU all images stay there if they fit; else each batch is copied from pinned memory while the GPU computes.
    """
    pixels = images.pixels
    if device.type == "cuda" and fits(pixels, device):
        whole = _resident(images, device)
        return lambda indices: whole.index_select(0, sent(indices, device))
    return lambda indices: sent(pixels[indices], device)


def sent(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array on the device. To a GPU it is copied from pinned memory, while the GPU computes earlier work."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def fits(pixels: PixelArray, device: torch.device) -> bool:
    """Whether the images of a set may stay on a GPU: they take at most a quarter of it, since models need room."""
    return pixels.nbytes <= SHARE * torch.cuda.mem_get_info(device)[1]


def copied(pixels: PixelArray, device: torch.device) -> torch.Tensor:
    """All images on the device, read in chunks, so that there is never a second full copy."""
    whole = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(pixels), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(pixels)))
        whole[start : start + CHUNK] = torch.from_numpy(pixels[rows])
    return whole


_on_gpu: dict[object, torch.Tensor] = {}


def _resident(images: ImageSet, device: torch.device) -> torch.Tensor:
    """A set on the GPU, kept from trial to trial until another one is needed."""
    which = (images.digests, images.pixels.shape, images.scaling, device)
    if which not in _on_gpu:
        _on_gpu.clear()
        _on_gpu[which] = copied(images.pixels, device)
    return _on_gpu[which]


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
