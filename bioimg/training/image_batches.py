"""Batches of images on the device: normalised, and in their views."""

import functools
from collections.abc import Callable

import numpy as np
import torch

from bioimg.config import DatasetConfig
from bioimg.data.file_array import PixelArray
from bioimg.data.image_set import ImageSet
from bioimg.models.pretrained_weights import Normalisation
from bioimg.training.batches import Batch
from bioimg.training.device_memory import fits_on_device, to_device

COPY_CHUNK_IMAGES = 1024
QUARTER_TURNS = 4
"""Views below this number are turned only; the others are mirrored afterwards, too."""


def pixel_key(config: DatasetConfig, images: ImageSet) -> tuple[object, ...]:
    """Return everything that determines the pixels that a trial sees, in the images' order.

    Digests alone don't, since they are taken before resizing.
    """
    return (
        config.image_size,
        config.resize,
        config.channels,
        images.scaling_limits,
        images.digests,
    )


class ImageBatches:
    """The input source of models that are trained through their first layers."""

    def __init__(
        self,
        images: ImageSet,
        config: DatasetConfig,
        normalisation: Normalisation,
        device: torch.device,
    ) -> None:
        self._load_images = make_image_loader(images.pixels, pixel_key(config, images), device)
        mean = torch.tensor(normalisation.mean, device=device).view(1, 3, 1, 1)
        std = torch.tensor(normalisation.std, device=device).view(1, 3, 1, 1)
        # (pixels / 255 - mean) / std, as one multiplication and addition
        self._scale = 1 / (255 * std)
        self._shift = -mean / std

    def load_batch(self, batch: Batch) -> torch.Tensor:
        """Return float32 [B, 3, H, W], channels last in memory."""
        images = self._load_images(batch).permute(0, 3, 1, 2)
        return torch.addcmul(self._shift, images.float(), self._scale)


def make_image_loader(
    pixels: PixelArray, key: object, device: torch.device
) -> Callable[[Batch], torch.Tensor]:
    """Return a function that loads a batch on the device: uint8 [B, H, W, 3], in its views.

    On a GPU all images stay there if they fit. Otherwise each batch is copied from pinned memory
    while the GPU computes. `key` identifies the images.
    """
    if device.type == "cuda" and fits_on_device(pixels.nbytes, device):
        resident = resident_images(pixels, key, device)
        return lambda batch: select_views(resident, batch)

    def load(batch: Batch) -> torch.Tensor:
        images = to_device(pixels[batch.indices], device)
        rows = torch.arange(len(images), device=device)
        return turn_images(images, rows, batch) if batch.views.any() else images

    return load


_resident_by_key: dict[object, torch.Tensor] = {}


def resident_images(pixels: PixelArray, key: object, device: torch.device) -> torch.Tensor:
    """Return all images on the device. They stay from trial to trial, until others are needed."""
    if (key, device) not in _resident_by_key:
        _resident_by_key.clear()
        _resident_by_key[key, device] = copy_in_chunks(pixels, device)
    return _resident_by_key[key, device]


def copy_in_chunks(pixels: PixelArray, device: torch.device) -> torch.Tensor:
    """Return all images on the device, read in chunks: there is never a second full copy."""
    copied = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(pixels), COPY_CHUNK_IMAGES):
        stop = min(start + COPY_CHUNK_IMAGES, len(pixels))
        copied[start:stop] = torch.from_numpy(pixels[np.arange(start, stop)])
    return copied


def select_views(images: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return some of the square images, uint8 [N, S, S, 3], each in its view: [B, S, S, 3].

    Image b is rotated by `views[b] % 4` quarter turns, and mirrored if `views[b] >= 4`.
    """
    rows, _ = batch.on_device(images.device)
    if not batch.views.any():
        return images.index_select(0, rows)
    return turn_images(images, rows, batch)


def turn_images(images: torch.Tensor, rows: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return rows of the images, int64 [B], each in its view of the batch.

    Pixels are only moved, so row and view are one gather, with equal bits.
    """
    side = images.shape[1]
    _, views = batch.on_device(images.device)
    pixels = view_pixels(side, images.device)[views]
    selected = images.flatten(1, 2)[rows.unsqueeze(1), pixels]
    return selected.unflatten(1, (side, side))


@functools.lru_cache(maxsize=4)
def view_pixels(side: int, device: torch.device) -> torch.Tensor:
    """Return which pixel of an image is where in each view: int64 [8, side * side]."""
    numbers = torch.arange(side**2, device=device).view(side, side)
    turned = [torch.rot90(numbers, turns) for turns in range(QUARTER_TURNS)]
    mirrored = [pixels.flip(1) for pixels in turned]
    return torch.stack([*turned, *mirrored]).flatten(1)
