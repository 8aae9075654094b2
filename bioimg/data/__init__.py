"""From the value of `data` to one array of pixels, and the split into train, val and test."""

from bioimg.data.image_set import SUBSETS, TEST, TRAIN, VAL, ImageSet, Split
from bioimg.data.load import load_image_set, load_images_per_trial, pixel_settings
from bioimg.data.sources import list_dataset
from bioimg.data.splitting import split_images, split_warnings

__all__ = [
    "SUBSETS",
    "TEST",
    "TRAIN",
    "VAL",
    "ImageSet",
    "Split",
    "list_dataset",
    "load_image_set",
    "load_images_per_trial",
    "pixel_settings",
    "split_images",
    "split_warnings",
]
