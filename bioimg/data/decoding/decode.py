"""Decode one image file to an array, whatever its format, compression, depth and colours."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import imagecodecs
import numpy as np
from PIL import Image

from bioimg.data.decoding.channels import RawChannels, apply_orientation, check_pixel_count, to_rgb
from bioimg.data.decoding.tiff import TIFF_SIGNATURES, decode_tiff

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_BYTES = 26
"""Bytes at the start of a file that reveal its format and, in a PNG, its depth and colour type."""
ORIENTATION_TAG = 274
UPRIGHT = 1
HIGH_BIT_MODES = {
    "I;16": np.uint16,
    "I;16L": np.uint16,
    "I;16B": np.uint16,
    "I": np.float32,
    "F": np.float32,
}
"""Pillow's modes of more than 8 bits."""
GREY_MODES = ("1", "L", "LA", "La")


class DecodedImage(NamedTuple):
    """An image in RGB."""

    pixels: np.ndarray
    """[height, width, 3] of uint8, uint16 or float32."""
    stored_type: str
    """How the file stores it, as in "16-bit grey"."""


def decode_image(
    path: Path, channels: tuple[int, ...] = (), max_pixels: int | None = None
) -> DecodedImage:
    """Decode a file by its content, whatever its name, and apply its orientation tag.

    `channels` are those to use as red, green and blue. Without them, the file must be grey or
    colour. Transparency is dropped.

    Raises:
        ValueError, OSError or others from decoders: the file is broken, larger than `max_pixels`,
            or needs `channels`.
    """
    # opening a pipe would block
    if path.exists() and not path.is_file():
        raise ValueError("not a file")
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
        if not header:
            raise ValueError("an empty file")
        file.seek(0)
        if header[:4] in TIFF_SIGNATURES:
            raw = decode_tiff(file, max_pixels)
        else:
            raw = _decode_with_pillow(file, header, max_pixels)
    return DecodedImage(np.ascontiguousarray(to_rgb(raw, channels)), raw.stored_type)


@contextmanager
def silence_decoders() -> Iterator[None]:
    """Report problems with files by exceptions only, without warnings, log or Pillow's own limit.

    These are settings of the whole process, so they are restored afterwards.
    """
    logger = logging.getLogger("tifffile")
    level, max_pixels = logger.level, Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = max_pixels
        logger.setLevel(level)


def _decode_with_pillow(file: BinaryIO, header: bytes, max_pixels: int | None) -> RawChannels:
    with Image.open(file) as image:
        check_pixel_count(image.width, image.height, max_pixels)
        frames = getattr(image, "n_frames", 1)
        # in MPO the first frame is the image
        if frames > 1 and image.format != "MPO":
            raise ValueError(f"{frames} frames, where one image is expected")
        image.load()
        orientation = image.getexif().get(ORIENTATION_TAG, UPRIGHT)
        if _is_high_bit_png(header):
            pixels, stored_type = _decode_high_bit_png(file)
        else:
            pixels, stored_type = _pillow_to_array(image)
    return RawChannels(apply_orientation(pixels, orientation), pixels.ndim == 3, stored_type)


def _pillow_to_array(image: Image.Image) -> tuple[np.ndarray, str]:
    if image.mode in HIGH_BIT_MODES:
        pixels = np.asarray(image).astype(HIGH_BIT_MODES[image.mode])
        return pixels, f"{pixels.dtype.itemsize * 8}-bit grey"
    is_grey = image.mode in GREY_MODES
    mode = "L" if is_grey else "RGB"
    converted = image if image.mode == mode else image.convert(mode)
    return np.asarray(converted), f"8-bit {'grey' if is_grey else image.mode}"


def _is_high_bit_png(header: bytes) -> bool:
    """Return True for a 16-bit PNG of several channels. Pillow would keep only 8 bits of it."""
    depth_and_colour = header[24:26]
    return header[:8] == PNG_SIGNATURE and depth_and_colour[0] == 16 and depth_and_colour[1] != 0


def _decode_high_bit_png(file: BinaryIO) -> tuple[np.ndarray, str]:
    file.seek(0)
    pixels = imagecodecs.png_decode(file.read())
    if pixels.shape[2] > 2:
        return pixels[..., :3], "16-bit RGB"
    return pixels[..., 0], "16-bit grey"
