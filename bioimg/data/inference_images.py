"""Read new images without labels, in the same way as the images of a trial."""

from pathlib import Path

from bioimg.config import DatasetConfig
from bioimg.data.image_folder import list_unlabelled_images
from bioimg.data.image_set import ImageSet
from bioimg.data.intensity_scaling import ScalingLimits, apply_limits
from bioimg.data.load import make_image_set
from bioimg.data.pixel_cache import DecodedSet, DecodeOptions, ProgressCallback, read_images
from bioimg.errors import UserError


def load_unlabelled_images(
    place: Path,
    config: DatasetConfig,
    limits: ScalingLimits | None,
    progress: ProgressCallback | None = None,
) -> tuple[ImageSet, dict[str, str]]:
    """The images that can be read, without labels and classes; and why others can't, by path.

    limits: those between which the trial's images of more than 8 bits were scaled (`ImageSet.scaling`).

    Raises:
        UserError: there are no images, none can be read, or they differ in depth from each other or from the trial's.
    """
    listing = list_unlabelled_images(place)
    decoding = read_images(
        listing, DecodeOptions.from_config(config), skip_unreadable=True, progress=progress
    )
    _require_same_depth(place, decoding, limits)
    readable = listing.select(decoding.readable_indices)
    pixels = decoding.pixels if limits is None else apply_limits(decoding, limits)
    images = make_image_set(readable, decoding, pixels, limits)
    return images, {
        path: fact.error
        for path, fact in zip(listing.paths, decoding.image_infos, strict=True)
        if fact.error
    }


def _require_same_depth(place: Path, decoding: DecodedSet, limits: ScalingLimits | None) -> None:
    given, trained = (
        str(wide)
        for wide in (decoding.pixels.dtype, "uint8" if limits is None else "uint16 or float32")
    )
    if (given == "uint8") != (limits is None):
        raise UserError(
            f"the value of `images` is {str(place)!r}, which holds {given} images, but the model was trained on {trained}. "
            "Use images like those."
        )
