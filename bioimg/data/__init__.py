"""From the value of `data` to one array of pixels, and the split into train, val and test."""

from bioimg.data.imageset import PARTS, TEST, TRAIN, VAL, ImageSet, Split
from bioimg.data.load import load, load_each, pixel_settings
from bioimg.data.sources import find
from bioimg.data.split import split, warnings

__all__ = [
    "PARTS",
    "TEST",
    "TRAIN",
    "VAL",
    "ImageSet",
    "Split",
    "find",
    "load",
    "load_each",
    "pixel_settings",
    "split",
    "warnings",
]
