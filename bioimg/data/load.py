"""Load the images of trials: find them, check their split, decode them or take them from the cache, scale them to 8 bits."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from bioimg.config import TrialConfig
from bioimg.data.imageset import ImageSet
from bioimg.data.listing import Listing, grouped_by
from bioimg.data.read import Decoding, Progress, Rule, read_images
from bioimg.data.scale import scaled
from bioimg.data.sources import find
from bioimg.data.split import split

PIXELS = ("data", "columns", "image_size", "resize", "channels", "scaling", "skip_unreadable", "group_pattern")
PARTITION = ("split", "folds", "fold")


def pixel_settings(trial: TrialConfig) -> tuple[object, ...]:
    """The settings that decide which pixels a trial sees: equal for trials that share a set."""
    return tuple(getattr(trial, name) for name in PIXELS)


def load_each(trials: Iterable[TrialConfig], progress: Progress | None = None) -> dict[TrialConfig, ImageSet]:
    """The images of each trial. Trials that see the same pixels share one set. Each trial's split is checked.

    The split affects pixels only where images of more than 8 bits are scaled by the training images.

    Raises:
        UserError: as `load`.
    """
    sets: dict[Any, ImageSet] = {}
    found: dict[TrialConfig, ImageSet] = {}
    for trial in trials:
        pixels, partition = pixel_settings(trial), tuple(getattr(trial, name) for name in PARTITION)
        if (pixels, partition) not in sets:
            shared = sets.get(pixels)
            images = shared if shared is not None and shared.scaling is None else load(trial, progress)
            split(images, trial)
            sets[pixels] = sets[pixels, partition] = images
        found[trial] = sets[pixels, partition]
    return found


def load(trial: TrialConfig, progress: Progress | None = None) -> ImageSet:
    """Load all images of `trial.data`, decoded at `trial.image_size`. `progress(done, total)` is called after each image.

    A second call decodes nothing: pixels are cached (see `bioimg.data.cache`) until a file changes.

    Raises:
        UserError: something is wrong with the folder, its labels or the split (found before any image is decoded), or images
            can't be read (lists them).
    """
    if trial.data == "phantom":
        from bioimg.data.phantom import phantom  # imports libraries that no other source needs

        return grouped_by(trial.group_pattern, phantom(image_size=trial.image_size))
    rule = Rule.of(trial)
    listing = find(trial)
    split(listing, trial)
    decoding = read_images(listing, rule, skip_unreadable=trial.skip_unreadable, progress=progress)
    readable = listing.only(decoding.readable)
    return image_set(readable, decoding, trial.scaling, split(readable, trial).train)


def image_set(listing: Listing, decoding: Decoding, scaling: str, train: np.ndarray) -> ImageSet:
    """The readable images of a listing in 8 bits. Those of more bits are scaled by the images at indices `train`."""
    wide = decoding.pixels.dtype != np.uint8
    pixels, limits = scaled(decoding, scaling, train) if wide else (decoding.pixels, None)
    return ImageSet(
        name=listing.name,
        pixels=pixels,
        labels=listing.labels,
        classes=listing.classes,
        paths=listing.paths,
        groups=listing.groups,
        parts=listing.parts,
        digests=tuple(decoding.facts[i].digest for i in decoding.readable),
        scaling=limits,
        unreadable_skipped=len(decoding.facts) - len(listing),
    )
