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
ORIENTATION_TAG = 274
HIGH_BIT_MODES = {
    "I;16": np.uint16,
    "I;16L": np.uint16,
    "I;16B": np.uint16,
    "I": np.float32,
    "F": np.float32,
}
"""Pillow's modes of more than 8 bits."""


class DecodedImage(NamedTuple):
    """pixels [height, width, 3] in RGB, uint8, uint16 or float32; `stored` is how the file stores them, as in "16-bit grey"."""

    pixels: np.ndarray
    stored_type: str


def decode_image(
    path: Path, channels: tuple[int, ...] = (), max_pixels: int | None = None
) -> DecodedImage:
    """Decode a file by its content, whatever its name, and apply its orientation tag.

    `channels` are the planes to use as red, green and blue; without them, the file must be grey or colour. Transparency is
    dropped.

    Raises:
        ValueError, OSError or others from decoders: the file is broken, larger than `max_pixels`, or needs `channels`.
    """
    if path.exists() and not path.is_file():  # opening a pipe would block
        raise ValueError("not a file")
    with path.open("rb") as file:
        start = file.read(26)
        if not start:
            raise ValueError("an empty file")
        file.seek(0)
        planes = (
            decode_tiff(file, max_pixels)
            if start[:4] in TIFF_SIGNATURES
            else _decode_with_pillow(file, start, max_pixels)
        )
    return DecodedImage(np.ascontiguousarray(to_rgb(planes, channels)), planes.stored_type)


@contextmanager
def silence_decoders() -> Iterator[None]:
    """Report problems with files by exceptions only: no warnings, no log, no limit but `max_pixels`.

    These are settings of the whole process, so they are restored afterwards.
    """
    log, limit = logging.getLogger("tifffile"), Image.MAX_IMAGE_PIXELS
    level = log.level
    Image.MAX_IMAGE_PIXELS = None
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
        log.setLevel(level)


def _decode_with_pillow(file: BinaryIO, start: bytes, max_pixels: int | None) -> RawChannels:
    with Image.open(file) as image:
        check_pixel_count(image.width, image.height, max_pixels)
        if (
            getattr(image, "n_frames", 1) > 1 and image.format != "MPO"
        ):  # in MPO the first one is the image
            raise ValueError(f"{getattr(image, 'n_frames', 1)} frames, where one image is expected")
        image.load()
        pixels, stored = (
            _decode_high_bit_png(file) if _is_high_bit_png(start) else _pillow_to_array(image)
        )
        return RawChannels(
            apply_orientation(pixels, image.getexif().get(ORIENTATION_TAG, 1)),
            is_rgb=pixels.ndim == 3,
            stored_type=stored,
        )


def _pillow_to_array(image: Image.Image) -> tuple[np.ndarray, str]:
    if image.mode in HIGH_BIT_MODES:
        pixels = np.asarray(image).astype(HIGH_BIT_MODES[image.mode])
        return pixels, f"{pixels.dtype.itemsize * 8}-bit grey"
    grey = image.mode in ("1", "L", "LA", "La")
    mode = "L" if grey else "RGB"
    plain = image if image.mode == mode else image.convert(mode)
    return np.asarray(plain), f"8-bit {'grey' if grey else image.mode}"


def _is_high_bit_png(start: bytes) -> bool:
    """Whether it is a 16-bit PNG with more than one band: Pillow would keep only the upper 8 bits."""
    return start[:8] == PNG_SIGNATURE and start[24] == 16 and start[25] != 0


def _decode_high_bit_png(file: BinaryIO) -> tuple[np.ndarray, str]:
    file.seek(0)
    pixels = imagecodecs.png_decode(file.read())
    return (
        (pixels[..., :3], "16-bit RGB") if pixels.shape[2] > 2 else (pixels[..., 0], "16-bit grey")
    )
