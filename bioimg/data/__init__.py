"""From the value of `data` to one array of pixels, and the split into train, val and test.

The pipeline in five lines:

    list    `list_images`: files, labels and given subsets, from a folder, table, .npz or named set
    group   `add_groups`: the slide or patient of each image, from its path
    split   `assign_subsets`: train, val or test for each image
    decode  `read_images`: each file once, to RGB and then to a square of one size; cached
    scale   `scale_to_8bit`: 16-bit and float images by one rule for the whole set; cached

`list_datasets` takes the first three steps for all trials of an experiment, so that mistakes show
before an image is decoded. `load_datasets` takes the others. The order matters: channels become RGB
before an image is resized, and limits for scaling are measured on training images as resized.
`load_unlabelled_images`, for prediction, decodes in the same way and scales by given limits.
"""

from bioimg.data.image_set import SUBSETS, TEST, TRAIN, VAL, Dataset, ImageSet, Split
from bioimg.data.listing_summary import describe_images
from bioimg.data.load import ListedDataset, list_datasets, load_dataset, load_datasets
from bioimg.data.sources import list_images
from bioimg.data.split_warnings import image_warnings, split_warnings
from bioimg.data.splitting import split_images

__all__ = [
    "SUBSETS",
    "TEST",
    "TRAIN",
    "VAL",
    "Dataset",
    "ImageSet",
    "ListedDataset",
    "Split",
    "describe_images",
    "image_warnings",
    "list_datasets",
    "list_images",
    "load_dataset",
    "load_datasets",
    "split_images",
    "split_warnings",
]
