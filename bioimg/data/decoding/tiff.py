"""TIFF as microscopes and scanners write it: any compression, depth and order of channels.

A file of a set, as Micro-Manager and OMERO write them, describes planes that are in other files. No
other file is ever opened: an image is what its own file holds.
"""

from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple
from xml.etree import ElementTree

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
    # tifffile would collect the planes of these two from all files of their folder
    with tifffile.TiffFile(file, is_mmstack=False, is_ndtiff=False) as tiff:
        planes = _find_planes(tiff)
        page = planes.keyframe
        check_pixel_count(page.imagewidth, page.imagelength, max_pixels)
        _check_not_truncated(tiff, planes.pages)
        pixels = _channels_last(planes.read(), planes.axes)
        tag = page.tags.get("Orientation")
        orientation = int(tag.value) if tag else UPRIGHT
        upright = apply_orientation(pixels, orientation)
        channels = _to_channels(upright, page)
        if planes.is_part_of_set:
            return channels._replace(stored_type=f"{channels.stored_type}, file of a set")
        return channels


class _Planes(NamedTuple):
    """The planes of one image."""

    keyframe: Any
    """The page that describes them all."""
    pages: Sequence[Any]
    axes: str
    series: Any = None
    """What reads them, if they aren't simply stacked."""
    is_part_of_set: bool = False

    def read(self) -> np.ndarray:
        if self.series is not None:
            return self.series.asarray(maxworkers=1)
        return np.stack([page.asarray(maxworkers=1) for page in self.pages])


def _find_planes(tiff: tifffile.TiffFile) -> _Planes:
    if tiff.is_ome and _describes_other_files(tiff.ome_metadata or ""):
        return _stack_own_pages(tiff, is_part_of_set=True)
    if len(tiff.pages) == 1:
        return _Planes(tiff.pages[0], [tiff.pages[0]], tiff.pages[0].axes, tiff.pages[0])
    series = _single_series(tiff)
    pages = series.pages or ()
    # tifffile fills planes with zeros that the description promises and the file lacks
    if any(page is None for page in pages):
        return _stack_own_pages(tiff, is_part_of_set=False)
    return _Planes(series.keyframe, pages, series.axes, series)


def _describes_other_files(ome_xml: str) -> bool:
    """Return True if the planes of OME-XML aren't all in the file that holds it."""
    try:
        root = ElementTree.fromstring(ome_xml)
    except ElementTree.ParseError:
        return False
    own_id = root.get("UUID")
    ids = {element.text for element in root.iter() if element.tag.endswith("UUID")}
    if own_id is None:
        return len(ids) > 1
    return bool(ids - {own_id})


def _stack_own_pages(tiff: tifffile.TiffFile, *, is_part_of_set: bool) -> _Planes:
    all_pages: Sequence[Any] = list(tiff.pages)
    pages = [page for page in all_pages if not page.keyframe.is_reduced]
    if not pages:
        raise ValueError("it contains no image")
    shapes = dict.fromkeys(page.shape for page in pages)
    if len(shapes) > 1:
        raise _several_images_error(list(shapes))
    return _Planes(pages[0], pages, f"I{pages[0].axes}", is_part_of_set=is_part_of_set)


def _check_not_truncated(tiff: tifffile.TiffFile, pages: Sequence[Any]) -> None:
    """Refuse a truncated file: some codecs silently fill in what is missing."""
    for page in pages:
        segments = zip(page.dataoffsets, page.databytecounts, strict=True)
        for offset, byte_count in segments:
            if offset + byte_count > tiff.filehandle.size:
                raise ValueError("the file is truncated")


def _single_series(tiff: tifffile.TiffFile) -> Any:
    images = [series for series in tiff.series if not series.keyframe.is_reduced]
    if not images:
        raise ValueError("it contains no image")
    if len(images) > 1:
        raise _several_images_error([series.shape for series in images])
    return images[0]


def _several_images_error(shapes: Sequence[tuple[int, ...]]) -> ValueError:
    first_shapes = " and ".join(map(str, shapes[:3]))
    return ValueError(
        f"{len(shapes)} images of shapes {first_shapes}, where one is expected (a whole slide? cut "
        "it into tiles)"
    )


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
