"""The images that contenders train on: a few of each class of a folder of real tiles, in the same parts for all of them."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from bioimg.data.image_set import PixelsByPath
from bioimg.data.synthetic_tissue import draw_phantom

REAL_TILES_FOLDER = Path("../shared/data/kather2016-subset")
"""Real tiles, if they are beside the project."""
SUBSET_SHARES = {"train": 2, "val": 1, "test": 2}
"""Shares of each class."""


def choose_source(folder: Path | None, scratch: Path, size: int) -> Path:
    """The given folder, or else the real tiles beside the project, or else the phantom, written to `scratch`."""
    beside = Path(__file__).parents[2] / REAL_TILES_FOLDER
    if folder or beside.is_dir():
        return folder or beside
    for path, tile in PixelsByPath(draw_phantom(image_size=size)).items():
        _create_parent((scratch / path).with_suffix(".png"))
        Image.fromarray(tile).save((scratch / path).with_suffix(".png"))
    return scratch


def copy_subsets(folder: Path, to: Path, per_class: int) -> Path:
    """Copy so many images of each class (CLASS/image in `folder`) to `to`/PART/CLASS, two fifths for training, one to validate
    and two to test. The choice is always the same."""
    generator, shares = np.random.default_rng(0), np.cumsum([0, *SUBSET_SHARES.values()])
    for group in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(path for path in group.iterdir() if path.is_file())
        chosen = [files[place] for place in generator.permutation(len(files))[:per_class]]
        cuts = len(chosen) * shares // shares[-1]
        for part, start, stop in zip(SUBSET_SHARES, cuts, cuts[1:], strict=False):
            for file in chosen[start:stop]:
                shutil.copy(file, _create_parent(to / part / group.name / file.name))
    return to


def _create_parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
