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

from bioimg.data.planes import Planes, check_pixels, rgb, turned
from bioimg.data.tiff import STARTS, decode_tiff

PNG_START = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 274
WIDE = {"I;16": np.uint16, "I;16L": np.uint16, "I;16B": np.uint16, "I": np.float32, "F": np.float32}
"""Pillow's modes of more than 8 bits."""


class Decoded(NamedTuple):
    """pixels [height, width, 3] in RGB, uint8, uint16 or float32; `stored` is how the file stores them, as in "16-bit grey"."""

    pixels: np.ndarray
    stored: str


def decode(path: Path, channels: tuple[int, ...] = (), max_pixels: int | None = None) -> Decoded:
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
        planes = decode_tiff(file, max_pixels) if start[:4] in STARTS else _pillow(file, start, max_pixels)
    return Decoded(np.ascontiguousarray(rgb(planes, channels)), planes.stored)


@contextmanager
def quiet_decoders() -> Iterator[None]:
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


def _pillow(file: BinaryIO, start: bytes, max_pixels: int | None) -> Planes:
    with Image.open(file) as image:
        check_pixels(image.width, image.height, max_pixels)
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # in MPO the first one is the image
            raise ValueError(f"{getattr(image, 'n_frames', 1)} frames, where one image is expected")
        image.load()
        pixels, stored = _wide_png(file) if _is_wide_png(start) else _pixels(image)
        return Planes(turned(pixels, image.getexif().get(ORIENTATION, 1)), colour=pixels.ndim == 3, stored=stored)


def _pixels(image: Image.Image) -> tuple[np.ndarray, str]:
    if image.mode in WIDE:
        pixels = np.asarray(image).astype(WIDE[image.mode])
        return pixels, f"{pixels.dtype.itemsize * 8}-bit grey"
    grey = image.mode in ("1", "L", "LA", "La")
    mode = "L" if grey else "RGB"
    plain = image if image.mode == mode else image.convert(mode)
    return np.asarray(plain), f"8-bit {'grey' if grey else image.mode}"


def _is_wide_png(start: bytes) -> bool:
    """Whether it is a 16-bit PNG with more than one band: Pillow would keep only the upper 8 bits."""
    return start[:8] == PNG_START and start[24] == 16 and start[25] != 0


def _wide_png(file: BinaryIO) -> tuple[np.ndarray, str]:
    file.seek(0)
    pixels = imagecodecs.png_decode(file.read())
    return (pixels[..., :3], "16-bit RGB") if pixels.shape[2] > 2 else (pixels[..., 0], "16-bit grey")
