"""The images that baselines train on: a few of each class, in the same subsets for all of them."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from bioimg.config import DatasetConfig
from bioimg.data import load_dataset
from bioimg.data.image_set import PixelsByPath

SUBSET_SHARES = {"train": 2, "val": 1, "test": 2}
"""Shares of each class."""


def given_or_synthetic(folder: Path | None, scratch: Path, size: int) -> Path:
    """Return the given folder; without one, write the synthetic images to `scratch`."""
    if folder:
        return folder
    synthetic = load_dataset(DatasetConfig(data="phantom", image_size=size)).images
    for path, pixels in PixelsByPath(synthetic).items():
        file = (scratch / path).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return scratch


def copy_subsets(source: Path, target: Path, per_class: int) -> Path:
    """Copy this many images of each class (CLASS/image) to SUBSET/CLASS/image in `target`.

    Two fifths are for training, one to validate and two to test. The choice is always the same.
    """
    generator = np.random.default_rng(0)
    bounds = np.cumsum([0, *SUBSET_SHARES.values()])
    for class_folder in sorted(path for path in source.iterdir() if path.is_dir()):
        files = sorted(path for path in class_folder.iterdir() if path.is_file())
        chosen = [files[index] for index in generator.permutation(len(files))[:per_class]]
        cuts = len(chosen) * bounds // bounds[-1]
        for number, subset in enumerate(SUBSET_SHARES):
            folder = target / subset / class_folder.name
            folder.mkdir(parents=True, exist_ok=True)
            for file in chosen[cuts[number] : cuts[number + 1]]:
                shutil.copy(file, folder)
    return target
