"""Read new images without labels, in the same way as the images of a trial."""

import dataclasses

import numpy as np

from bioimg.config import DatasetConfig
from bioimg.data.image_index import ImageIndex
from bioimg.data.image_set import ImageSet, ScalingLimits
from bioimg.data.intensity_scaling import apply_limits
from bioimg.data.load import make_image_set
from bioimg.data.pixel_cache import DecodedSet, DecodeOptions, ProgressCallback, read_images
from bioimg.data.sources import list_images
from bioimg.errors import UserError


def load_unlabelled_images(
    index: ImageIndex,
    config: DatasetConfig,
    limits: ScalingLimits | None,
    progress: ProgressCallback | None = None,
) -> tuple[ImageSet, DecodedSet]:
    """Load the images that can be read, without labels and classes.

    `limits` are `ImageSet.scaling_limits` of the images that the model was trained on.

    Raises:
        UserError: the images differ in depth from each other or from those that the model was
            trained on.
        UnreadableImagesError: none can be read.
    """
    options = DecodeOptions.from_config(config)
    decoded = read_images(index, options, skip_unreadable=True, progress=progress)
    require_same_depth(index.name, decoded, limits, field="images")
    pixels = decoded.pixels if limits is None else apply_limits(decoded, limits)
    readable = index.select(decoded.readable_indices)
    return make_image_set(readable, decoded, pixels, limits), decoded


def load_experiment_images(
    config: DatasetConfig,
    limits: ScalingLimits | None,
    progress: ProgressCallback | None = None,
) -> tuple[ImageSet, DecodedSet]:
    """Load the images of an experiment again, as its models see them.

    `limits` are `ImageSet.scaling_limits` of the images that the model was trained on. Images that
    were decoded before are taken from the cache.

    Raises:
        UserError: they aren't where they were, or can't be read.
    """
    # groups play no part here, and copies take long to find
    config = dataclasses.replace(config, group_pattern=None)
    index = list_images(config)
    options = DecodeOptions.from_config(config)
    skip = config.skip_unreadable
    decoded = read_images(index, options, skip_unreadable=skip, progress=progress)
    pixels = decoded.pixels if limits is None else apply_limits(decoded, limits)
    readable = index.select(decoded.readable_indices)
    return make_image_set(readable, decoded, pixels, limits), decoded


def require_same_depth(
    path: str, decoded: DecodedSet, limits: ScalingLimits | None, *, field: str
) -> None:
    """Refuse images of another depth than those that a model was trained on.

    `limits` are those of the latter. Messages call the setting that names the images `field`.

    Raises:
        UserError: the depths differ.
    """
    dtype = decoded.pixels.dtype
    trained_on_8bit = limits is None
    if (dtype == np.uint8) != trained_on_8bit:
        trained_type = "uint8" if trained_on_8bit else "uint16 or float32"
        raise UserError(
            f"the value of `{field}` is {path!r}, which holds {dtype} images, but the model "
            f"was trained on {trained_type}. Use images like those."
        )
