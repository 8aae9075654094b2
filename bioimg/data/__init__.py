"""From the value of `data` to one array of pixels, and the split into train, val and test."""

from bioimg.data.image_set import SUBSETS, TEST, TRAIN, VAL, Dataset, ImageSet, Split
from bioimg.data.load import ListedDataset, list_datasets, load_dataset, load_datasets
from bioimg.data.sources import list_images
from bioimg.data.splitting import split_images, split_warnings

__all__ = [
    "SUBSETS",
    "TEST",
    "TRAIN",
    "VAL",
    "Dataset",
    "ImageSet",
    "ListedDataset",
    "Split",
    "list_datasets",
    "list_images",
    "load_dataset",
    "load_datasets",
    "split_images",
    "split_warnings",
]
