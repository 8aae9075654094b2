"""TIFF as microscopes and scanners write it: any compression, depth and order of channels."""

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image

from bioimg.data.decoding.channels import RawChannels, apply_orientation, check_pixel_count

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
UPRIGHT = 1
GREY_KINDS = ("MINISBLACK", "MINISWHITE")
JPEG_COMPRESSIONS = ("JPEG", "OJPEG")


def decode_tiff(file: BinaryIO, max_pixels: int | None = None) -> RawChannels:
    """Return the channels of the one image in a file.

    Reduced copies (thumbnails, pyramids) are skipped.

    Raises:
        ValueError: it holds several images, or colours that can't be converted to RGB without a
            profile.
    """
    with tifffile.TiffFile(file) as tiff:
        image: Any
        data_pages: Sequence[Any]
        if len(tiff.pages) == 1:
            image = tiff.pages[0]
            page = image
            data_pages = [page]
        else:
            image = _single_series(tiff)
            page = image.keyframe
            data_pages = image.pages or ()
        check_pixel_count(page.imagewidth, page.imagelength, max_pixels)
        _check_not_truncated(tiff, data_pages)
        pixels = _channels_last(image.asarray(maxworkers=1), image.axes)
        tag = page.tags.get("Orientation")
        orientation = int(tag.value) if tag else UPRIGHT
        upright = apply_orientation(pixels, orientation)
        return _to_channels(upright, page)


def _check_not_truncated(tiff: tifffile.TiffFile, pages: Sequence[Any]) -> None:
    """Refuse a truncated file: some codecs silently fill in what is missing."""
    for page in pages:
        if page is None:
            continue
        segments = zip(page.dataoffsets, page.databytecounts, strict=True)
        for offset, byte_count in segments:
            if offset + byte_count > tiff.filehandle.size:
                raise ValueError("the file is truncated")


def _single_series(tiff: tifffile.TiffFile) -> Any:
    images = [series for series in tiff.series if not series.keyframe.is_reduced]
    if not images:
        raise ValueError("it contains no image")
    if len(images) > 1:
        shapes = " and ".join(str(series.shape) for series in images[:3])
        raise ValueError(
            f"{len(images)} images of shapes {shapes}, where one is expected (a whole slide? cut "
            "it into tiles)"
        )
    return images[0]


def _channels_last(pixels: np.ndarray, axes: str) -> np.ndarray:
    """Return [height, width] or [height, width, channels] from axes such as YX, CYX or TZCYX."""
    image_axes = [axes.index("Y"), axes.index("X")]
    pixels = np.moveaxis(pixels, image_axes, [0, 1])
    height, width = pixels.shape[:2]
    if pixels.size == height * width:
        return pixels.reshape(height, width)
    return pixels.reshape(height, width, -1)


def _to_channels(pixels: np.ndarray, page: Any) -> RawChannels:
    kind = page.photometric.name
    depth = page.bitspersample
    count = pixels.shape[2] if pixels.ndim == 3 else 1
    if kind in GREY_KINDS:
        # of grey and transparency, only grey is used
        if count == 2 and page.extrasamples:
            pixels = pixels[..., 0]
        grey = _expand_low_depth(pixels, depth, white_is_zero=kind == "MINISWHITE")
        content = "grey" if pixels.ndim == 2 else f"planes x {count}"
        return RawChannels(grey, False, f"{depth}-bit {content}")
    if kind == "PALETTE":
        colours = _apply_palette(pixels, page.colormap)
        return RawChannels(colours, True, f"{depth}-bit palette")
    if kind == "SEPARATED" and count == 4 and pixels.dtype == np.uint8:
        inks = Image.fromarray(np.ascontiguousarray(pixels), "CMYK")
        colours = np.asarray(inks.convert("RGB"))
        return RawChannels(colours, True, f"{depth}-bit CMYK")
    # tifffile decodes the colours of JPEG to RGB
    is_jpeg = kind == "YCBCR" and page.compression.name in JPEG_COMPRESSIONS
    if kind == "RGB" or is_jpeg:
        # the fourth channel is transparency
        colours = pixels[..., :3] if count == 4 else pixels
        return RawChannels(colours, count in (3, 4), f"{depth}-bit RGB")
    raise ValueError(f"{depth}-bit {kind} colours, which can't be read; save it as RGB")


def _expand_low_depth(pixels: np.ndarray, depth: int, *, white_is_zero: bool) -> np.ndarray:
    """Spread depths of less than 8 bits over 0 to 255 and make black zero."""
    if depth < 8:
        largest = 2**depth - 1
        spread = pixels.astype(np.uint16) * 255 // largest
        pixels = spread.astype(np.uint8)
    if white_is_zero and pixels.dtype.kind == "u":
        return np.iinfo(pixels.dtype).max - pixels
    return pixels


def _apply_palette(pixels: np.ndarray, colormap: np.ndarray) -> np.ndarray:
    """Return colours of 8 bits from a map [3, 2 ** depth] of 16 bits or, in some files, of 8."""
    colours = colormap if colormap.max() < 256 else colormap >> 8
    channels_first = colours.astype(np.uint8)[:, pixels]
    return np.moveaxis(channels_first, 0, -1)
