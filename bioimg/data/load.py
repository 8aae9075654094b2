"""Load the images of trials: find them, check their split, decode them or take them from the cache, scale them to 8 bits."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from bioimg.config import TrialConfig
from bioimg.data.image_index import ImageIndex, add_groups
from bioimg.data.image_set import ImageSet
from bioimg.data.intensity_scaling import scale_to_8bit
from bioimg.data.pixel_cache import DecodedSet, DecodeOptions, ProgressCallback, read_images
from bioimg.data.sources import list_dataset
from bioimg.data.splitting import split_images

PIXEL_SETTINGS = (
    "data",
    "columns",
    "image_size",
    "resize",
    "channels",
    "scaling",
    "skip_unreadable",
    "group_pattern",
)
SPLIT_SETTINGS = ("split", "folds", "fold")


def pixel_settings(trial: TrialConfig) -> tuple[object, ...]:
    """The settings that decide which pixels a trial sees: equal for trials that share a set."""
    return tuple(getattr(trial, name) for name in PIXEL_SETTINGS)


def load_images_per_trial(
    trials: Iterable[TrialConfig], progress: ProgressCallback | None = None
) -> dict[TrialConfig, ImageSet]:
    """The images of each trial. Trials that see the same pixels share one set. Each trial's split is checked.

    The split affects pixels only where images of more than 8 bits are scaled by the training images.

    Raises:
        UserError: as `load`.
    """
    sets: dict[Any, ImageSet] = {}
    found: dict[TrialConfig, ImageSet] = {}
    for trial in trials:
        pixels, partition = (
            pixel_settings(trial),
            tuple(getattr(trial, name) for name in SPLIT_SETTINGS),
        )
        if (pixels, partition) not in sets:
            shared = sets.get(pixels)
            images = (
                shared
                if shared is not None and shared.scaling_limits is None
                else load_image_set(trial, progress)
            )
            split_images(images, trial)
            sets[pixels] = sets[pixels, partition] = images
        found[trial] = sets[pixels, partition]
    return found


def load_image_set(trial: TrialConfig, progress: ProgressCallback | None = None) -> ImageSet:
    """Load all images of `trial.data`, decoded at `trial.image_size`. `progress(done, total)` is called after each image.

    A second call decodes nothing: pixels are cached (see `bioimg.storage.disk_cache`) until a file changes.

    Raises:
        UserError: something is wrong with the folder, its labels or the split (found before any image is decoded), or images
            can't be read (lists them).
    """
    if trial.data == "phantom":
        from bioimg.data.synthetic_tissue import (
            draw_phantom,  # imports libraries that no other source needs
        )

        return add_groups(trial.group_pattern, draw_phantom(image_size=trial.image_size))
    rule = DecodeOptions.from_trial(trial)
    listing = list_dataset(trial)
    split_images(listing, trial)
    decoding = read_images(listing, rule, skip_unreadable=trial.skip_unreadable, progress=progress)
    readable = listing.select(decoding.readable_indices)
    return build_image_set(readable, decoding, trial.scaling, split_images(readable, trial).train)


def build_image_set(
    listing: ImageIndex, decoding: DecodedSet, scaling: str, train: np.ndarray
) -> ImageSet:
    """The readable images of a listing in 8 bits. Those of more bits are scaled by the images at indices `train`."""
    wide = decoding.pixels.dtype != np.uint8
    pixels, limits = scale_to_8bit(decoding, scaling, train) if wide else (decoding.pixels, None)
    return ImageSet(
        name=listing.name,
        pixels=pixels,
        labels=listing.labels,
        classes=listing.classes,
        paths=listing.paths,
        groups=listing.groups,
        subsets=listing.subsets,
        digests=tuple(decoding.image_infos[i].digest for i in decoding.readable_indices),
        scaling_limits=limits,
        unreadable_skipped=len(decoding.image_infos) - len(listing),
    )
