"""Scale 16-bit and float images to 8 bits.

One rule holds for the whole set, so that images stay comparable.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bioimg.data.file_array import PixelArray, open_array
from bioimg.data.image_set import ScalingLimits
from bioimg.data.pixel_cache import DecodedSet
from bioimg.storage import disk_cache

LIMIT_PERCENTILES = (0.1, 99.9)
MAX_SAMPLE_PIXELS = 10_000_000
"""Pixels per channel from which percentiles are computed. Of more pixels, every k-th is used."""
MAX_CLIPPED_SHARE = 0.02
"""The share of values that other images may lose by clipping: of training images, 0.002 are."""
CHUNK_IMAGES = 64
CACHE_DESCRIPTION = "images of more than 8 bits, scaled to 8"
UINT16_RANGE = (0.0, 65535.0)
FLOAT_RANGE = (0.0, 1.0)


def scale_to_8bit(
    decoded: DecodedSet, rule: str, training_rows: np.ndarray
) -> tuple[PixelArray, ScalingLimits | None]:
    """Return uint8 pixels and the limits between which they were scaled.

    Values beyond the limits are clipped and NaN becomes 0. With the rule `percentiles`, the limits
    are those of the training images, as resized: test images don't count. Pixels that are uint8
    already stay as they are and have no limits.
    """
    if decoded.pixels.dtype == np.uint8:
        return decoded.pixels, None
    determining_rows = training_rows.tobytes() if rule == "percentiles" else b""
    key = disk_cache.cache_key(decoded.cache_key, rule, LIMIT_PERCENTILES, determining_rows)

    def write(folder: Path) -> None:
        limits = _compute_limits(decoded.pixels, rule, training_rows)
        _write_8bit(decoded.pixels, limits, folder)

    folder = disk_cache.get_or_create(f"scaled/{key}", write, CACHE_DESCRIPTION)
    stored_limits = json.loads((folder / "limits.json").read_text())
    limits = tuple((low, high) for low, high in stored_limits)
    return open_array(folder / "pixels", decoded.pixels.shape, "uint8"), limits


def apply_limits(decoded: DecodedSet, limits: ScalingLimits) -> PixelArray:
    """Return uint8 pixels, scaled between the limits of the images that a model was trained on."""
    key = disk_cache.cache_key(decoded.cache_key, limits)

    def write(folder: Path) -> None:
        _write_8bit(decoded.pixels, limits, folder)

    folder = disk_cache.get_or_create(f"scaled/{key}", write, CACHE_DESCRIPTION)
    return open_array(folder / "pixels", decoded.pixels.shape, "uint8")


def clipped_shares(pixels: PixelArray, limits: ScalingLimits) -> np.ndarray:
    """Return float64 [N], the share of the values of each image that `apply_limits` clips."""
    low, high = np.array(limits, np.float32).T
    shares = []
    for rows in _iter_chunks(np.arange(len(pixels))):
        values = pixels[rows]
        shares.append(((values < low) | (values > high)).mean(axis=(1, 2, 3)))
    return np.concatenate(shares)


def describe_clipping(share: float) -> str | None:
    """Return what too large a share of clipped values means; None if it isn't too large."""
    if share <= MAX_CLIPPED_SHARE:
        return None
    return (
        f"{100 * share:.0f} % of the intensities of these images lie beyond those of the training "
        "images and are clipped, so that models may fail on them. Images of another scanner or "
        "exposure may need to be brought to the same range before."
    )


def _compute_limits(pixels: PixelArray, rule: str, training_rows: np.ndarray) -> ScalingLimits:
    if rule == "range":
        channel_limits = UINT16_RANGE if pixels.dtype == np.uint16 else FLOAT_RANGE
        return (channel_limits,) * 3
    height, width = pixels.shape[1:3]
    pixel_count = len(training_rows) * height * width
    step = max(1, pixel_count // MAX_SAMPLE_PIXELS)
    samples = []
    for rows in _iter_chunks(training_rows):
        colours = pixels[rows].reshape(-1, 3)
        samples.append(colours[::step])
    sample = np.concatenate(samples)
    # infinite values would become limits
    if sample.dtype.kind == "f":
        sample = np.where(np.isfinite(sample), sample, np.nan)
    low, high = np.nanpercentile(sample, LIMIT_PERCENTILES, axis=0)
    return tuple(zip(low.tolist(), high.tolist(), strict=True))


def _write_8bit(pixels: PixelArray, limits: ScalingLimits, folder: Path) -> None:
    low, high = np.array(limits, np.float32).T
    # a channel of one value has no width to divide by
    width = np.where(high > low, high - low, 1)
    with (folder / "pixels").open("wb") as file:
        for rows in _iter_chunks(np.arange(len(pixels))):
            shares = (pixels[rows].astype(np.float32) - low) / width
            finite = np.nan_to_num(shares, nan=0, posinf=1, neginf=0)
            scaled = np.rint(finite.clip(0, 1) * 255)
            file.write(scaled.astype(np.uint8).data)
    (folder / "limits.json").write_text(json.dumps(limits))


def _iter_chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), CHUNK_IMAGES):
        yield rows[start : start + CHUNK_IMAGES]
