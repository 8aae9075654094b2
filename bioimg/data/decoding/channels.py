"""From the channels of an image file to red, green and blue."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

MIRRORED_ORIENTATIONS = (2, 4, 5, 7)
QUARTER_TURNS = {3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}
"""Counter-clockwise quarter turns that undo each orientation, after mirroring."""


class RawChannels(NamedTuple):
    """Pixels [height, width] or [height, width, channels] as a file stores them."""

    pixels: np.ndarray
    is_rgb: bool
    """Whether the channels are red, green and blue."""
    stored_type: str


def check_pixel_count(width: int, height: int, max_pixels: int | None) -> None:
    """Refuse a decompression bomb before it is unpacked.

    Raises:
        ValueError: the image is larger than `max_pixels`.
    """
    if max_pixels and width * height > max_pixels:
        raise ValueError(
            f"{width} x {height} pixels are more than the limit of {max_pixels:,}; "
            "BIOIMG_MAX_PIXELS sets another"
        )


def to_rgb(raw: RawChannels, channels: tuple[int, ...] = ()) -> np.ndarray:
    """Return [height, width, 3] of uint8, uint16 or float32.

    `channels` are those to use as red, green and blue. One channel is grey and fills all three.
    With two, blue stays black.

    Raises:
        ValueError: `channels` names one that doesn't exist, or is needed.
    """
    pixels = _to_supported_dtype(raw.pixels)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    count = pixels.shape[2]
    if channels:
        if max(channels) >= count:
            raise ValueError(
                f"{count} channels, numbered from 0, but `channels` names {max(channels)}"
            )
        pixels = pixels[..., list(channels)]
    elif count > 1 and not raw.is_rgb:
        raise ValueError(
            f"{count} channels; choose those for red, green and blue, as in --channels 0,1,2 (or "
            "one, as grey)"
        )
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 2:
        black = np.zeros_like(pixels[..., :1])
        return np.concatenate([pixels, black], axis=2)
    return pixels


def apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image upright, given one of the eight orientations of EXIF and TIFF (tag 274)."""
    if orientation in MIRRORED_ORIENTATIONS:
        pixels = np.fliplr(pixels)
    return np.rot90(pixels, QUARTER_TURNS.get(orientation, 0))


def resize_square(image: np.ndarray, size: int, method: str) -> np.ndarray:
    """Return an image [height, width, 3] at `size` x `size`, bilinear and antialiased.

    Methods: `resize` changes the aspect ratio, `crop` takes the largest square in the middle, and
    `pad` shows the whole image between black bars.
    """
    if image.shape[:2] == (size, size):
        return image
    if image.dtype == np.uint8:
        return np.asarray(_resize_pillow(Image.fromarray(image), size, method))
    # Pillow resizes images of more than 8 bits only one channel at a time
    channels = []
    for channel in range(3):
        single = Image.fromarray(image[..., channel].astype(np.float32))
        channels.append(np.asarray(_resize_pillow(single, size, method)))
    resized = np.stack(channels, axis=-1)
    if image.dtype == np.float32:
        return resized
    return np.rint(resized).astype(image.dtype)


def _resize_pillow(image: Image.Image, size: int, method: str) -> Image.Image:
    square = (size, size)
    match method:
        case "crop":
            return ImageOps.fit(image, square, Image.Resampling.BILINEAR)
        case "pad":
            return ImageOps.pad(image, square, Image.Resampling.BILINEAR)
        case _:
            return image.resize(square, Image.Resampling.BILINEAR)


def _to_supported_dtype(pixels: np.ndarray) -> np.ndarray:
    """Return any depth as uint8, uint16 or, if it is wider or signed, float32."""
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.dtype.kind not in "iuf":
        raise ValueError(f"{pixels.dtype} pixels, which aren't intensities")
    return pixels.astype(np.float32)
