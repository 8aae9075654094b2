"""Find the images that a value of `data` means, without decoding any."""

import dataclasses
from pathlib import Path

from bioimg.config import DatasetConfig
from bioimg.data.folder_layout import LAYOUT_HINT
from bioimg.data.group_patterns import find_likely_groups
from bioimg.data.image_folder import list_folder
from bioimg.data.image_groups import COPIES, PARENT, add_groups
from bioimg.data.image_index import ImageIndex
from bioimg.data.image_table import list_table
from bioimg.data.npz_dataset import list_npz
from bioimg.data.public_datasets import list_kather2016, list_medmnist, list_synthetic_tissue
from bioimg.data.table_file import TABLE_SUFFIXES
from bioimg.errors import UserError, suggest_closest

NAMED_DATASETS = ("phantom", "kather2016", "kather2016-6", "medmnist:NAME")
NPZ_SUFFIX = ".npz"


def list_images(config: DatasetConfig) -> ImageIndex:
    """List the images of `config.data` with their labels, subsets and groups, without decoding any.

    Raises:
        UserError: the set doesn't exist, or something is wrong with it.
    """
    path = Path(config.data).expanduser()
    name, _, location = config.data.partition(":")
    is_table = path.suffix.lower() in TABLE_SUFFIXES
    _require_use(config, "layout", path.is_dir(), "a folder")
    _require_use(config, "images", is_table, "a table")
    _require_use(config, "columns", is_table, "a table")
    match name:
        case "phantom":
            index = list_synthetic_tissue()
        case "kather2016" | "kather2016-6":
            index = list_kather2016(name, location)
        case "medmnist":
            index = list_medmnist(location)
        case _:
            index = _list_path(path, config)
    grouped = add_groups(config.group_pattern, index)
    # copies are no slides or patients
    known = index if config.group_pattern == COPIES else grouped
    return dataclasses.replace(grouped, likely_groups=find_likely_groups(known))


def _require_use(config: DatasetConfig, field: str, is_used: bool, kind: str) -> None:
    """Refuse a setting that would have no effect on these images."""
    value = getattr(config, field)
    if value is not None and not is_used:
        raise UserError(
            f"the value of `{field}` is {value!r}, but it is only used where `data` is {kind}, and "
            f"`data` is {config.data!r}. Leave it out."
        )


def _list_path(path: Path, config: DatasetConfig) -> ImageIndex:
    if path.is_dir():
        parents_are_groups = config.group_pattern == PARENT
        return list_folder(path, config.layout, parents_are_groups=parents_are_groups)
    if not path.is_file():
        raise UserError(
            f"the value of `data` is {config.data!r}, but there is no such folder or file, and it "
            f"isn't one of the named sets: {', '.join(NAMED_DATASETS)}."
            f"{suggest_closest(config.data, NAMED_DATASETS)} {LAYOUT_HINT}"
        )
    suffix = path.suffix.lower()
    if suffix in TABLE_SUFFIXES:
        return list_table(path, config.columns, config.images)
    if suffix == NPZ_SUFFIX:
        return list_npz(path)
    raise UserError(
        f"the value of `data` is {config.data!r}, but a file must be one of: "
        f"{', '.join((*TABLE_SUFFIXES, NPZ_SUFFIX))}. {LAYOUT_HINT}"
    )
