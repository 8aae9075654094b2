"""Find the images that a value of `data` means, without decoding any."""

from pathlib import Path

from bioimg.config import DatasetConfig
from bioimg.data.image_folder import LAYOUT_HINT, list_folder
from bioimg.data.image_index import ImageIndex, add_groups
from bioimg.data.image_table import TABLE_SUFFIXES, list_table
from bioimg.data.npz_dataset import list_npz
from bioimg.data.public_datasets import list_kather2016, list_medmnist, list_synthetic_tissue
from bioimg.errors import UserError, suggest_closest

NAMED_DATASETS = ("phantom", "kather2016", "kather2016-6", "medmnist:NAME")
NPZ_SUFFIX = ".npz"


def list_images(config: DatasetConfig) -> ImageIndex:
    """List the images of `config.data` with their labels, subsets and groups, without decoding any.

    Raises:
        UserError: the set doesn't exist, or something is wrong with it.
    """
    return add_groups(config.group_pattern, _list_source(config))


def _list_source(config: DatasetConfig) -> ImageIndex:
    name, _, location = config.data.partition(":")
    match name:
        case "phantom":
            return list_synthetic_tissue()
        case "kather2016" | "kather2016-6":
            return list_kather2016(name, location)
        case "medmnist":
            return list_medmnist(location)
    path = Path(config.data).expanduser()
    if path.is_dir():
        return list_folder(path)
    if path.is_file():
        return _list_file(path, config)
    raise UserError(
        f"the value of `data` is {config.data!r}, but there is no such folder or file, and it "
        f"isn't one of the named sets: {', '.join(NAMED_DATASETS)}."
        f"{suggest_closest(config.data, NAMED_DATASETS)} {LAYOUT_HINT}"
    )


def _list_file(file: Path, config: DatasetConfig) -> ImageIndex:
    suffix = file.suffix.lower()
    if suffix in TABLE_SUFFIXES:
        return list_table(file, config.columns)
    if suffix == NPZ_SUFFIX:
        return list_npz(file)
    raise UserError(
        f"the value of `data` is {config.data!r}, but a file must be one of: "
        f"{', '.join((*TABLE_SUFFIXES, NPZ_SUFFIX))}. {LAYOUT_HINT}"
    )
