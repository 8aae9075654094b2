"""Read new images without labels, in the same way as the images of a trial."""

from pathlib import Path

from bioimg.config import TrialConfig, UserError
from bioimg.data.folders import list_images
from bioimg.data.imageset import ImageSet
from bioimg.data.read import Decoding, Progress, Rule, read_images
from bioimg.data.scale import Limits, scaled_alike


def read_unlabelled(
    place: Path, trial: TrialConfig, limits: Limits | None, progress: Progress | None = None
) -> tuple[ImageSet, dict[str, str]]:
    """The images that can be read, without labels and classes; and why others can't, by path.

    limits: those between which the trial's images of more than 8 bits were scaled (`ImageSet.scaling`).

    Raises:
        UserError: there are no images, none can be read, or they differ in depth from each other or from the trial's.
    """
    listing = list_images(place)
    decoding = read_images(listing, Rule.of(trial), skip_unreadable=True, progress=progress)
    _require_depth(place, decoding, limits)
    readable = listing.only(decoding.readable)
    images = ImageSet(
        name=listing.name,
        pixels=decoding.pixels if limits is None else scaled_alike(decoding, limits),
        labels=readable.labels,
        classes=(),
        paths=readable.paths,
        digests=tuple(decoding.facts[i].digest for i in decoding.readable),
        scaling=limits,
    )
    return images, {path: fact.error for path, fact in zip(listing.paths, decoding.facts, strict=True) if fact.error}


def _require_depth(place: Path, decoding: Decoding, limits: Limits | None) -> None:
    given, trained = (str(wide) for wide in (decoding.pixels.dtype, "uint8" if limits is None else "uint16 or float32"))
    if (given == "uint8") != (limits is None):
        raise UserError(
            f"the value of `images` is {str(place)!r}, which holds {given} images, but the model was trained on {trained}. "
            "Use images like those."
        )
