"""What a value of `data` means. Nothing is decoded here, so that mistakes show at once."""

from pathlib import Path

from bioimg.config import TrialConfig, UserError, meant
from bioimg.data.archive import list_archive
from bioimg.data.folders import LAYOUT, list_folder
from bioimg.data.listing import Listing, grouped_by
from bioimg.data.manifest import SUFFIXES, list_manifest
from bioimg.data.named import kather2016, medmnist

NAMED = ("phantom", "kather2016", "kather2016-6", "medmnist:NAME")


def find(trial: TrialConfig) -> Listing:
    """List the images of `trial.data` (any but the phantom, which has no files) with labels, parts and groups.

    Raises:
        UserError: there is no such set, or something is wrong with it.
    """
    return grouped_by(trial.group_pattern, _find(trial))


def _find(trial: TrialConfig) -> Listing:
    name, _, rest = trial.data.partition(":")
    if name in ("kather2016", "kather2016-6"):
        return kather2016(name, rest)
    if name == "medmnist":
        return medmnist(rest)
    place = Path(trial.data).expanduser()
    if place.is_dir():
        return list_folder(place)
    if not place.is_file():
        raise _no_such(trial.data)
    if place.suffix.lower() in SUFFIXES:
        return list_manifest(place, trial.columns)
    if place.suffix.lower() == ".npz":
        return list_archive(place)
    raise UserError(
        f"the value of `data` is {trial.data!r}, but a file must be one of: {', '.join((*SUFFIXES, '.npz'))}. {LAYOUT}"
    )


def _no_such(data: str) -> UserError:
    return UserError(
        f"the value of `data` is {data!r}, but there is no such folder or file, and it isn't one of the named sets: "
        f"{', '.join(NAMED)}.{meant(data, NAMED)} {LAYOUT}"
    )
