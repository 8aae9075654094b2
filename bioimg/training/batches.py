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
from bioimg.data.file_array import MAX_MEMORY_SHARE, PixelArray
from bioimg.data.image_set import ImageSet
from bioimg.models.pretrained_weights import Normalisation
from bioimg.training.distributed import WorkerGroup

VIEW_COUNTS = {"none": 1, "dihedral": 8}
"""Number of views of an image that each augmentation has; view 0 is the unchanged image."""

COPY_CHUNK_IMAGES = 1024


class Batch(NamedTuple):
    """This worker's share of a batch: int64 [B] indices of images, and int64 [B] of the view of each."""

    indices: np.ndarray
    views: np.ndarray


class TrainingStep(NamedTuple):
    """A worker's share and the factor of its summed loss that makes DDP's average the mean over the whole batch."""

    batch: Batch
    loss_factor: float


def iter_training_steps(
    trial: TrialConfig, indices: np.ndarray, labels: np.ndarray, epoch: int, group: WorkerGroup
) -> Iterator[TrainingStep]:
    """One epoch of the images at `indices` as this worker sees it: over all workers, every image once.

    With balanced sampling, as many are drawn with replacement, each class equally often. `labels` is int64 [N].
    """
    draw = np.random.default_rng((trial.seed, epoch))
    if trial.sampling == "balanced":
        rarity = compute_sample_weight("balanced", labels[indices])
        order = draw.choice(indices, len(indices), p=rarity / rarity.sum())
    else:
        order = draw.permutation(indices)
    views = draw.integers(VIEW_COUNTS[trial.augmentation], size=len(order))
    for start, stop in batch_bounds(len(order), trial.batch_size):
        mine = group.shard(np.arange(start, stop))
        if len(mine):
            yield TrainingStep(Batch(order[mine], views[mine]), group.size / (stop - start))
        else:  # DDP needs a backward pass from every worker: this one has no weight
            yield TrainingStep(Batch(order[start : start + 1], views[start : start + 1]), 0.0)


def batch_bounds(images: int, batch_size: int) -> list[tuple[int, int]]:
    """Where the batches of an epoch start and stop; the last one may be smaller.

    A last batch of a single image joins the one before it, since BatchNorm can't take it.
    """
    starts = list(range(0, images, batch_size))
    if len(starts) > 1 and images - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], images], strict=True))


def pixel_key(trial: TrialConfig, images: ImageSet) -> tuple[object, ...]:
    """What decides every pixel that a trial sees, in the images' order. Digests alone don't: they come before resizing."""
    return trial.image_size, trial.resize, trial.channels, images.scaling_limits, images.digests


class ImageBatches:
    """Batches of images on the device, normalised, in their views."""

    def __init__(
        self,
        trial: TrialConfig,
        images: ImageSet,
        normalisation: Normalisation,
        device: torch.device,
    ) -> None:
        self._load_images = make_image_loader(images.pixels, pixel_key(trial, images), device)
        mean, std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1) for values in normalisation
        )
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def __call__(self, batch: Batch) -> torch.Tensor:
        """float32 [B, 3, H, W], channels last in memory."""
        images = self._load_images(batch.indices).permute(0, 3, 1, 2)
        return torch.addcmul(
            self._shift, apply_dihedral_views(images, batch.views).float(), self._scale
        )


def make_image_loader(
    pixels: PixelArray, which: object, device: torch.device
) -> Callable[[np.ndarray], torch.Tensor]:
    """A function that returns uint8 [B, H, W, 3] on the device for indices [B].

    On a GPU all images stay there if they fit; else each batch is copied from pinned memory while the GPU computes.
    """
    if device.type == "cuda" and fits_on_device(pixels.nbytes, device):
        whole = resident_images(pixels, which, device)
        return lambda indices: whole.index_select(0, to_device(indices, device))
    return lambda indices: to_device(pixels[indices], device)


def to_device(values: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Values on the device. To a GPU they are copied from pinned memory, while the GPU computes earlier work."""
    tensor = torch.as_tensor(values)
    return (
        tensor
        if tensor.device.type == device.type
        else tensor.pin_memory().to(device, non_blocking=True)
    )


def fits_on_device(size: int, device: torch.device) -> bool:
    """Whether so many bytes may stay on the device: of a GPU's memory at most a quarter, since models need room."""
    return device.type == "cpu" or size <= MAX_MEMORY_SHARE * torch.cuda.mem_get_info(device)[1]


def copy_in_chunks(pixels: PixelArray, device: torch.device) -> torch.Tensor:
    """All images on the device, read in chunks, so that there is never a second full copy."""
    whole = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(pixels), COPY_CHUNK_IMAGES):
        rows = np.arange(start, min(start + COPY_CHUNK_IMAGES, len(pixels)))
        whole[start : start + COPY_CHUNK_IMAGES] = torch.from_numpy(pixels[rows])
    return whole


_resident_by_key: dict[object, torch.Tensor] = {}


def resident_images(pixels: PixelArray, which: object, device: torch.device) -> torch.Tensor:
    """All images on the device, kept from trial to trial until others are needed; `which` tells them from any others."""
    if (which, device) not in _resident_by_key:
        _resident_by_key.clear()
        _resident_by_key[which, device] = copy_in_chunks(pixels, device)
    return _resident_by_key[which, device]


def apply_dihedral_views(images: torch.Tensor, views: np.ndarray) -> torch.Tensor:
    """Rotate image b of [B, C, S, S] by `views[b] % 4` quarter turns and mirror it if `views[b] >= 4`."""
    if not views.any():
        return images
    turned = torch.empty_like(images)
    for view in np.unique(views):
        chosen = to_device(np.flatnonzero(views == view), images.device)
        image = torch.rot90(images[chosen], int(view) % 4, (2, 3))
        turned[chosen] = image.flip(3) if view >= 4 else image
    return turned
