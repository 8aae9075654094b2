"""Decode: every image of a listing, once, in parallel, into one uint8 array."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps

from bioimg.config import UserError
from bioimg.data.imageset import ImageSet
from bioimg.data.sources import Listing, listed

Progress = Callable[[int, int], None]
"""Called with the images done and the images in all."""

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read(listing: Listing, image_size: int, progress: Progress | None = None) -> ImageSet:
    """Decode all images and resize each to `image_size` x `image_size` (bilinear, antialiased; the aspect isn't kept).

    Raises:
        UserError: names the images that can't be read.
    """
    pixels = np.empty((len(listing), image_size, image_size, 3), np.uint8)
    digests, unreadable = [""] * len(listing), {}

    def one(position: int) -> None:
        try:
            image = decode(listing.files[position])
        except Exception as error:  # decoders raise whatever they like on broken files
            unreadable[listing.paths[position]] = _reason(error)
            return
        digests[position] = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()[:16]
        pixels[position] = resized(image, image_size)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding and resizing release Python's lock
        for done, _ in enumerate(pool.map(one, range(len(listing))), start=1):
            if progress:
                progress(done, len(listing))
    if unreadable:
        raise UserError(
            f"{len(unreadable)} of {len(listing)} images in `data` can't be read: "
            f"{listed(f'{path} ({unreadable[path]})' for path in sorted(unreadable))}. Mend or remove them."
        )
    return ImageSet(
        name=listing.name,
        pixels=pixels,
        labels=listing.labels,
        classes=listing.classes,
        paths=listing.paths,
        groups=listing.groups,
        parts=listing.parts,
        digests=tuple(digests),
    )


def decode(path: Path) -> np.ndarray:
    """One image file as uint8 [height, width, 3], RGB, turned as its EXIF orientation says."""
    with path.open("rb") as file:
        if file.read(4) in TIFF_STARTS:
            return _tiff(path)
        file.seek(0)
        with Image.open(file) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _tiff(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as tiff:
        pixels = tiff.asarray(maxworkers=1)
    if pixels.dtype != np.uint8:
        raise ValueError(f"{pixels.dtype} pixels, not 8-bit ones")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise ValueError(f"planes of shape {pixels.shape}, neither grey nor RGB")
    return np.ascontiguousarray(pixels[..., :3])


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """An image at `size` x `size`."""
    return (
        image
        if image.shape[:2] == (size, size)
        else np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    )


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0].split(" <")[0] if str(error) else type(error).__name__
