"""What a value of `data` means. Nothing is decoded here, so that mistakes show at once."""

from pathlib import Path

from bioimg.config import DatasetConfig
from bioimg.data.image_folder import LAYOUT_HINT, list_folder
from bioimg.data.image_index import ImageIndex, add_groups
from bioimg.data.image_table import TABLE_SUFFIXES, list_table
from bioimg.data.npz_dataset import list_npz
from bioimg.data.phantom_source import list_phantom
from bioimg.data.public_datasets import list_kather2016, list_medmnist
from bioimg.errors import UserError, suggest_closest

NAMED_DATASETS = ("phantom", "kather2016", "kather2016-6", "medmnist:NAME")


def list_images(config: DatasetConfig) -> ImageIndex:
    """List the images of `config.data` with their labels, subsets and groups, without decoding any.

    Raises:
        UserError: there is no such set, or something is wrong with it.
    """
    return add_groups(config.group_pattern, _list_ungrouped(config))


def _list_ungrouped(config: DatasetConfig) -> ImageIndex:
    name, _, rest = config.data.partition(":")
    if name == "phantom":
        return list_phantom()
    if name in ("kather2016", "kather2016-6"):
        return list_kather2016(name, rest)
    if name == "medmnist":
        return list_medmnist(rest)
    place = Path(config.data).expanduser()
    if place.is_dir():
        return list_folder(place)
    if not place.is_file():
        raise _unknown_data_error(config.data)
    if place.suffix.lower() in TABLE_SUFFIXES:
        return list_table(place, config.columns)
    if place.suffix.lower() == ".npz":
        return list_npz(place)
    raise UserError(
        f"the value of `data` is {config.data!r}, but a file must be one of: {', '.join((*TABLE_SUFFIXES, '.npz'))}. {LAYOUT_HINT}"
    )


def _unknown_data_error(data: str) -> UserError:
    return UserError(
        f"the value of `data` is {data!r}, but there is no such folder or file, and it isn't one of the named sets: "
        f"{', '.join(NAMED_DATASETS)}.{suggest_closest(data, NAMED_DATASETS)} {LAYOUT_HINT}"
    )
