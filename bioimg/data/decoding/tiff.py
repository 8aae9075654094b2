"""TIFF as microscopes and scanners write it: any compression, depth and order of planes."""

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image

from bioimg.data.decoding.channels import RawChannels, apply_orientation, check_pixel_count

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
UPRIGHT_ORIENTATION = 1


def decode_tiff(file: BinaryIO, max_pixels: int | None = None) -> RawChannels:
    """The planes of the one image in a file; reduced copies (thumbnails, pyramids) are skipped.

    Raises:
        ValueError: it holds several images, or colours that can't be converted to RGB without a profile.
    """
    with tifffile.TiffFile(file) as tiff:
        image = tiff.pages[0] if len(tiff.pages) == 1 else _single_series(tiff)
        page: Any = tiff.pages[0] if len(tiff.pages) == 1 else image.keyframe
        check_pixel_count(page.imagewidth, page.imagelength, max_pixels)
        _check_not_truncated(tiff, [page] if image is page else image.pages or ())
        pixels = _channels_last(image.asarray(maxworkers=1), image.axes)
        tag = page.tags.get("Orientation")
        return _to_channels(
            apply_orientation(pixels, int(tag.value) if tag else UPRIGHT_ORIENTATION), page
        )


def _check_not_truncated(tiff: tifffile.TiffFile, pages: Sequence[Any]) -> None:
    """Refuse a truncated file: some codecs silently fill in what is missing."""
    for page in pages:
        segments = (
            zip(page.dataoffsets, page.databytecounts, strict=True) if page is not None else ()
        )
        if any(offset + size > tiff.filehandle.size for offset, size in segments):
            raise ValueError("the file is truncated")


def _single_series(tiff: tifffile.TiffFile) -> Any:
    series = [one for one in tiff.series if not one.keyframe.is_reduced]
    if not series:
        raise ValueError("it contains no image")
    if len(series) > 1:
        shapes = " and ".join(str(one.shape) for one in series[:3])
        raise ValueError(
            f"{len(series)} images of shapes {shapes}, where one is expected (a whole slide? cut it into tiles)"
        )
    return series[0]


def _channels_last(pixels: np.ndarray, axes: str) -> np.ndarray:
    """[height, width] or [height, width, planes], from axes such as YX, YXS, CYX or TZCYX."""
    pixels = np.moveaxis(pixels, [axes.index("Y"), axes.index("X")], [0, 1])
    height, width = pixels.shape[:2]
    return (
        pixels.reshape(height, width)
        if pixels.size == height * width
        else pixels.reshape(height, width, -1)
    )


def _to_channels(pixels: np.ndarray, page: Any) -> RawChannels:
    kind, depth = page.photometric.name, page.bitspersample
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    if kind in ("MINISBLACK", "MINISWHITE"):
        if samples == 2 and page.extrasamples:  # the second one is transparency
            pixels = pixels[..., 0]
        return RawChannels(
            _expand_low_depth(pixels, depth, kind == "MINISWHITE"),
            False,
            f"{depth}-bit {_grey_type_text(pixels)}",
        )
    if kind == "PALETTE":
        return RawChannels(_apply_palette(pixels, page.colormap), True, f"{depth}-bit palette")
    if kind == "SEPARATED" and samples == 4 and pixels.dtype == np.uint8:
        inks = Image.fromarray(np.ascontiguousarray(pixels), "CMYK")
        return RawChannels(np.asarray(inks.convert("RGB")), True, f"{depth}-bit CMYK")
    if kind == "RGB" or (
        kind == "YCBCR" and page.compression.name in ("JPEG", "OJPEG")
    ):  # decoded to RGB
        return RawChannels(
            pixels[..., :3] if samples == 4 else pixels, samples in (3, 4), f"{depth}-bit RGB"
        )
    raise ValueError(f"{depth}-bit {kind} colours, which can't be read; save it as RGB")


def _grey_type_text(pixels: np.ndarray) -> str:
    return "grey" if pixels.ndim == 2 else f"planes x {pixels.shape[2]}"


def _expand_low_depth(pixels: np.ndarray, depth: int, white_is_zero: bool) -> np.ndarray:
    """Spread depths of less than 8 bits over 0 to 255; make black zero."""
    if depth < 8:
        pixels = (pixels.astype(np.uint16) * 255 // (2**depth - 1)).astype(np.uint8)
    return (
        np.iinfo(pixels.dtype).max - pixels
        if white_is_zero and pixels.dtype.kind == "u"
        else pixels
    )


def _apply_palette(pixels: np.ndarray, colormap: np.ndarray) -> np.ndarray:
    """Colours of 8 bits from a map [3, 2 ** depth] of 16 bits; some programs write it with 8."""
    colours = colormap if colormap.max() < 256 else colormap >> 8
    return np.moveaxis(colours.astype(np.uint8)[:, pixels], 0, -1)
