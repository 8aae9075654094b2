"""Scale 16-bit and float images to 8 bits, by one rule for the whole set, so that images stay comparable."""

import json
from pathlib import Path

import numpy as np

from bioimg.data.file_array import PixelArray, open_array
from bioimg.data.pixel_cache import DecodedSet
from bioimg.storage import disk_cache

LIMIT_PERCENTILES = (0.1, 99.9)
MAX_SAMPLE_PIXELS = 10_000_000
"""Pixels per channel from which percentiles are computed: all if there are fewer, else every k-th."""
CHUNK_IMAGES = 64
CACHE_DESCRIPTION = "images of more than 8 bits, scaled to 8"

ScalingLimits = tuple[tuple[float, float], ...]
"""The values that become 0 and 255, for red, green and blue."""


def scale_to_8bit(
    decoding: DecodedSet, rule: str, train: np.ndarray
) -> tuple[PixelArray, ScalingLimits | None]:
    """uint8 pixels, and the limits between which they were scaled. Values beyond them are clipped, NaN becomes 0.

    Pixels that are uint8 already stay as they are and have no limits.

    With the rule `percentiles`, the limits are those of the images in `train`, as resized: test images don't count.
    """
    if decoding.pixels.dtype == np.uint8:
        return decoding.pixels, None
    key = disk_cache.cache_key(
        decoding.cache_key,
        rule,
        LIMIT_PERCENTILES,
        train.tobytes() if rule == "percentiles" else b"",
    )
    folder = disk_cache.get_or_create(
        f"scaled/{key}",
        lambda folder: _write_8bit(
            decoding.pixels, _compute_limits(decoding.pixels, rule, train), folder
        ),
        CACHE_DESCRIPTION,
    )
    limits = tuple((low, high) for low, high in json.loads((folder / "limits.json").read_text()))
    return open_array(folder / "pixels", decoding.pixels.shape, "uint8"), limits


def apply_limits(decoding: DecodedSet, limits: ScalingLimits) -> PixelArray:
    """uint8 pixels of other images, scaled between the limits of those that a model was trained on."""
    key = disk_cache.cache_key(decoding.cache_key, limits)
    folder = disk_cache.get_or_create(
        f"scaled/{key}",
        lambda folder: _write_8bit(decoding.pixels, limits, folder),
        CACHE_DESCRIPTION,
    )
    return open_array(folder / "pixels", decoding.pixels.shape, "uint8")


def _compute_limits(pixels: PixelArray, rule: str, train: np.ndarray) -> ScalingLimits:
    if rule == "range":
        return ((0.0, 65535.0 if pixels.dtype == np.uint16 else 1.0),) * 3
    step = max(1, len(train) * int(np.prod(pixels.shape[1:3])) // MAX_SAMPLE_PIXELS)
    sample = np.concatenate(
        [pixels[chunk].reshape(-1, 3)[::step] for chunk in _index_chunks(train)]
    )
    finite = np.where(np.isfinite(sample), sample, np.nan) if sample.dtype.kind == "f" else sample
    low, high = np.nanpercentile(finite, LIMIT_PERCENTILES, axis=0)
    return tuple(zip(low.tolist(), high.tolist(), strict=True))


def _write_8bit(pixels: PixelArray, limits: ScalingLimits, folder: Path) -> None:
    low, high = np.array(limits, np.float32).T
    width = np.where(high > low, high - low, 1)
    with (folder / "pixels").open("wb") as file:
        for chunk in _index_chunks(np.arange(len(pixels))):
            share = np.nan_to_num(
                (pixels[chunk].astype(np.float32) - low) / width, nan=0, posinf=1, neginf=0
            )
            file.write(np.rint(share.clip(0, 1) * 255).astype(np.uint8).data)
    (folder / "limits.json").write_text(json.dumps(limits))


def _index_chunks(indices: np.ndarray) -> list[np.ndarray]:
    return [indices[start : start + CHUNK_IMAGES] for start in range(0, len(indices), CHUNK_IMAGES)]
