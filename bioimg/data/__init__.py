"""Images in: from the value of `data` to one array of pixels, and which of them train, validate and test."""

from bioimg.config import TrialConfig
from bioimg.data.imageset import PARTS, TEST, TRAIN, VAL, ImageSet, Split
from bioimg.data.read import Progress, read
from bioimg.data.sources import find, grouped_by
from bioimg.data.split import split

__all__ = ["PARTS", "TEST", "TRAIN", "VAL", "ImageSet", "Split", "load", "split"]


def load(trial: TrialConfig, progress: Progress | None = None) -> ImageSet:
    """Everything `trial.data` names, decoded at `trial.image_size`. `progress(done, total)` is called after each image.

    Raises:
        UserError: what is wrong with the folder, its labels or the split, before any image is decoded; then, with their
            names, the images that can't be read.
    """
    if trial.data == "phantom":
        from bioimg.data.phantom import phantom  # draws with libraries that no other source needs

        return grouped_by(trial.group_pattern, phantom(image_size=trial.image_size))
    listing = find(trial.data, group_pattern=trial.group_pattern)
    split(listing, trial)
    return read(listing, trial.image_size, progress)
