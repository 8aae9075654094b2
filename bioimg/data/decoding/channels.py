"""From the planes of an image file to red, green and blue."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps


class RawChannels(NamedTuple):
    """pixels [height, width] or [height, width, planes]; `colour`: the planes are red, green and blue."""

    pixels: np.ndarray
    is_rgb: bool
    stored_type: str


def check_pixel_count(width: int, height: int, max_pixels: int | None) -> None:
    """Refuse a decompression bomb before it is unpacked."""
    if max_pixels and width * height > max_pixels:
        raise ValueError(
            f"{width} x {height} pixels are more than the limit of {max_pixels:,}; BIOIMG_MAX_PIXELS sets another"
        )


def to_rgb(planes: RawChannels, channels: tuple[int, ...] = ()) -> np.ndarray:
    """[height, width, 3] of uint8, uint16 or float32.

    One plane, or one channel, is grey: it fills all three. With two channels, blue stays black.
    """
    pixels = _to_supported_dtype(planes.pixels)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if not channels and pixels.shape[2] > 1 and not planes.is_rgb:
        raise ValueError(
            f"{pixels.shape[2]} planes; choose those for red, green and blue, as in --channels 0,1,2 (or one, as grey)"
        )
    if channels:
        if max(channels) >= pixels.shape[2]:
            raise ValueError(
                f"{pixels.shape[2]} planes, numbered from 0, but `channels` names {max(channels)}"
            )
        pixels = pixels[..., list(channels)]
    if pixels.shape[2] == 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=2)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo one of the eight orientations of EXIF and TIFF (tag 274): 1 is upright."""
    mirrored = np.fliplr(pixels) if orientation in (2, 4, 5, 7) else pixels
    quarters = {3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}.get(orientation, 0)
    return np.rot90(mirrored, quarters)


def resize_square(image: np.ndarray, size: int, rule: str) -> np.ndarray:
    """An image [height, width, 3] at `size` x `size`, bilinear and antialiased.

    resize: the aspect ratio changes; crop: the largest square in the middle; pad: the whole image between black bars.
    """
    if image.shape[:2] == (size, size):
        return image
    if image.dtype == np.uint8:
        return np.asarray(_resize_band(Image.fromarray(image), size, rule))
    bands = [
        np.asarray(_resize_band(Image.fromarray(image[..., band].astype(np.float32)), size, rule))
        for band in range(3)
    ]
    fit = np.stack(bands, axis=-1)
    return fit if image.dtype == np.float32 else np.rint(fit).astype(image.dtype)


def _resize_band(image: Image.Image, size: int, rule: str) -> Image.Image:
    bilinear = Image.Resampling.BILINEAR
    if rule == "resize":
        return image.resize((size, size), bilinear)
    return (ImageOps.fit if rule == "crop" else ImageOps.pad)(image, (size, size), bilinear)


def _to_supported_dtype(pixels: np.ndarray) -> np.ndarray:
    """Any depth as one of three: uint8, uint16, or float32 for all that is wider or signed."""
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.dtype.kind not in "iuf":
        raise ValueError(f"{pixels.dtype} pixels, which aren't intensities")
    return pixels.astype(np.float32)
