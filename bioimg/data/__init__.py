"""Images in: from the value of `data` to one array of pixels, and which of them train, validate and test."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from bioimg.config import TrialConfig
from bioimg.data.imageset import PARTS, TEST, TRAIN, VAL, ImageSet, Split
from bioimg.data.listing import Listing, grouped_by
from bioimg.data.read import Decoding, Progress, Rule, read_images
from bioimg.data.scale import scaled
from bioimg.data.sources import find
from bioimg.data.split import split, warnings

__all__ = ["PARTS", "TEST", "TRAIN", "VAL", "ImageSet", "Split", "find", "load", "load_each", "sight", "split", "warnings"]

PIXELS = ("data", "columns", "image_size", "resize", "channels", "scaling", "skip_unreadable", "group_pattern")
PARTITION = ("split", "folds", "fold")


def sight(trial: TrialConfig) -> tuple[object, ...]:
    """What decides which pixels a trial sees: equal for trials that share a set."""
    return tuple(getattr(trial, name) for name in PIXELS)


def load_each(trials: Iterable[TrialConfig], progress: Progress | None = None) -> dict[TrialConfig, ImageSet]:
    """The images of each trial. Trials that see the same pixels share one set; each trial's split is known to be possible.

    The split matters to pixels only where images of more than 8 bits are scaled by their training images.

    Raises:
        UserError: as `load`.
    """
    sets: dict[Any, ImageSet] = {}
    found: dict[TrialConfig, ImageSet] = {}
    for trial in trials:
        pixels, partition = sight(trial), tuple(getattr(trial, name) for name in PARTITION)
        if (pixels, partition) not in sets:
            known = sets.get(pixels)
            images = known if known is not None and known.scaling is None else load(trial, progress)
            split(images, trial)
            sets[pixels] = sets[pixels, partition] = images
        found[trial] = sets[pixels, partition]
    return found


def load(trial: TrialConfig, progress: Progress | None = None) -> ImageSet:
    """Everything `trial.data` names, decoded at `trial.image_size`. `progress(done, total)` is called after each image.

    A second call decodes nothing: pixels are kept (see `bioimg.data.cache`) for as long as no file changes.

    Raises:
        UserError: what is wrong with the folder, its labels or the split, before any image is decoded; then, with their
            names, the images that can't be read.
    """
    if trial.data == "phantom":
        from bioimg.data.phantom import phantom  # draws with libraries that no other source needs

        return grouped_by(trial.group_pattern, phantom(image_size=trial.image_size))
    rule = Rule.of(trial)
    listing = find(trial)
    split(listing, trial)
    decoding = read_images(listing, rule, skip_unreadable=trial.skip_unreadable, progress=progress)
    readable = listing.only(decoding.readable)
    return image_set(readable, decoding, trial.scaling, split(readable, trial).train)


def image_set(listing: Listing, decoding: Decoding, scaling: str, train: np.ndarray) -> ImageSet:
    """The readable images of a listing in 8 bits; `train` are the images that have a say in how others are scaled."""
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
