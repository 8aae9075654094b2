"""Scale 16-bit and float images to 8 bits, by one rule for the whole set, so that images stay comparable."""

import json
from pathlib import Path

import numpy as np

from bioimg.data import cache
from bioimg.data.pixels import PixelArray, opened
from bioimg.data.read import Decoding

PERCENTILES = (0.1, 99.9)
SAMPLE = 10_000_000
"""Pixels per channel from which percentiles are computed: all if there are fewer, else every k-th."""
CHUNK = 64
ABOUT = "images of more than 8 bits, scaled to 8"

Limits = tuple[tuple[float, float], ...]
"""The values that become 0 and 255, for red, green and blue."""


def scaled(decoding: Decoding, rule: str, train: np.ndarray) -> tuple[PixelArray, Limits]:
    """uint8 pixels, and the limits between which they were scaled. Values beyond them are clipped, NaN becomes 0.

    With the rule `percentiles`, the limits are those of the images in `train`, as resized: test images don't count.
    """
    key = cache.key(decoding.key, rule, PERCENTILES, train.tobytes() if rule == "percentiles" else b"")
    folder = cache.entry(
        f"scaled/{key}", lambda folder: _write(decoding.pixels, _limits(decoding.pixels, rule, train), folder), ABOUT
    )
    limits = tuple((low, high) for low, high in json.loads((folder / "limits.json").read_text()))
    return opened(folder / "pixels", decoding.pixels.shape, "uint8"), limits


def scaled_alike(decoding: Decoding, limits: Limits) -> PixelArray:
    """uint8 pixels of other images, scaled between the limits of those that a model was trained on."""
    key = cache.key(decoding.key, limits)
    folder = cache.entry(f"scaled/{key}", lambda folder: _write(decoding.pixels, limits, folder), ABOUT)
    return opened(folder / "pixels", decoding.pixels.shape, "uint8")


def _limits(pixels: PixelArray, rule: str, train: np.ndarray) -> Limits:
    if rule == "range":
        return ((0.0, 65535.0 if pixels.dtype == np.uint16 else 1.0),) * 3
    step = max(1, len(train) * int(np.prod(pixels.shape[1:3])) // SAMPLE)
    sample = np.concatenate([pixels[chunk].reshape(-1, 3)[::step] for chunk in _chunks(train)])
    finite = np.where(np.isfinite(sample), sample, np.nan) if sample.dtype.kind == "f" else sample
    low, high = np.nanpercentile(finite, PERCENTILES, axis=0)
    return tuple(zip(low.tolist(), high.tolist(), strict=True))


def _write(pixels: PixelArray, limits: Limits, folder: Path) -> None:
    low, high = np.array(limits, np.float32).T
    width = np.where(high > low, high - low, 1)
    with (folder / "pixels").open("wb") as file:
        for chunk in _chunks(np.arange(len(pixels))):
            share = np.nan_to_num((pixels[chunk].astype(np.float32) - low) / width, nan=0, posinf=1, neginf=0)
            file.write(np.rint(share.clip(0, 1) * 255).astype(np.uint8).data)
    (folder / "limits.json").write_text(json.dumps(limits))


def _chunks(indices: np.ndarray) -> list[np.ndarray]:
    return [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]
