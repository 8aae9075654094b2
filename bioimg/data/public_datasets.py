"""Data sets by name: the synthetic phantom, and the public kather2016 and medmnist."""

import dataclasses
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from bioimg.data.image_folder import list_folder
from bioimg.data.image_groups import add_groups
from bioimg.data.image_index import ImageIndex
from bioimg.data.npz_dataset import list_npz
from bioimg.errors import UserError, unknown_value_error
from bioimg.storage import disk_cache

KATHER_URL = "https://zenodo.org/records/53169/files/Kather_texture_2016_image_tiles_5000.zip"
KATHER_MD5 = "0ddbebfc56344752028fda72602aaade"
KATHER_SLIDE_PATTERN = r"HE-(\d+)"
KATHER_6_CLASS_COUNT = 6
"""kather2016-6: the first six of the eight classes, without adipose tissue and background."""
SYNTHETIC_ZIP = Path(__file__).with_name("synthetic_tissue.zip")
"""Tiles drawn by `experiments/make_synthetic_tissue.py`."""
SYNTHETIC_SLIDE_PATTERN = r"(slide-\d+)"


class MedMnistSet(NamedTuple):
    """Where a set of MedMNIST is, and the names of its classes."""

    url: str
    md5: str
    class_names: tuple[str, ...]


def list_synthetic_tissue() -> ImageIndex:
    """List six hundred drawn tiles of 64 px in six classes, grouped by fifty slides."""
    digest = xxhash.xxh3_64_hexdigest(SYNTHETIC_ZIP.read_bytes())

    def write(folder: Path) -> None:
        extract_zip(SYNTHETIC_ZIP, folder / "tiles")

    folder = disk_cache.get_or_create(f"phantom-{digest}", write, "synthetic tissue")
    index = add_groups(SYNTHETIC_SLIDE_PATTERN, list_folder(folder / "tiles"))
    return dataclasses.replace(index, name="phantom", synthetic=True)


def list_kather2016(name: str, location: str) -> ImageIndex:
    """List the tiles of Kather et al. 2016 (DOI 10.5281/zenodo.53169, CC BY 4.0), grouped by slide.

    There are 625 tiles of each of eight classes. `location` is the URL of a mirror or the path of
    the zip; if empty, Zenodo is used.

    Raises:
        UserError: it can't be downloaded, or isn't the archive.
    """

    def write(folder: Path) -> None:
        extract_zip(_locate_kather_zip(location or KATHER_URL), folder)

    folder = disk_cache.get_or_create(f"kather2016-{KATHER_MD5}", write, "Kather et al. 2016")
    top_folders = [path for path in folder.iterdir() if path.is_dir()]
    class_parent = top_folders[0] if len(top_folders) == 1 else folder
    index = add_groups(KATHER_SLIDE_PATTERN, list_folder(class_parent))
    if name == "kather2016-6":
        rows = np.flatnonzero(index.labels < KATHER_6_CLASS_COUNT)
        classes = index.classes[:KATHER_6_CLASS_COUNT]
        index = dataclasses.replace(index.select(rows), classes=classes)
    return dataclasses.replace(index, name=name)


def list_medmnist(name: str) -> ImageIndex:
    """List a set of MedMNIST by name, such as pathmnist or pathmnist_128.

    It is downloaded from the URL that the package medmnist gives.

    Raises:
        UserError: the package isn't installed, the download fails, or there is no such set of 2D
            images with one label each.
    """
    from bioimg.data.download import download_file  # imports requests, which takes 0.25 s

    sets = _medmnist_sets(name)
    if name not in sets:
        known = [f"medmnist:{known}" for known in sets]
        raise unknown_value_error("data", f"medmnist:{name}", known)
    chosen = sets[name]
    file = download_file(chosen.url, chosen.md5, f"{name}.npz", by_hand="FILE.npz")
    return list_npz(file, chosen.class_names)


def extract_zip(file: Path, folder: Path) -> None:
    """Extract all files of an archive."""
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)


def _medmnist_sets(name: str) -> dict[str, MedMnistSet]:
    """Return all sets of 2D images with one label each, by name and size, as in pathmnist_128."""
    try:
        from medmnist.info import INFO  # type: ignore[import-not-found]  # an extra
    except ImportError as error:
        raise UserError(
            f"the value of `data` is 'medmnist:{name}', which needs the package medmnist. Install "
            "it with `pip install '.[medmnist]'`."
        ) from error
    sets = {}
    for flag, facts in INFO.items():
        if "3D" in facts["python_class"] or "multi-label" in facts["task"]:
            continue
        labels = facts["label"]
        class_names = tuple(labels[str(number)] for number in range(len(labels)))
        for field in facts:
            # the fields url_64 and MD5_64 belong to the size 64, url and MD5 to the size 28
            if field.startswith("url"):
                size = field.removeprefix("url")
                sets[flag + size] = MedMnistSet(facts[field], facts[f"MD5{size}"], class_names)
    return sets


def _locate_kather_zip(location: str) -> Path:
    import pooch  # imports requests, which takes 0.25 s

    from bioimg.data.download import download_file

    if "://" in location and not location.startswith("file://"):
        by_hand = "kather2016:FILE.zip"
        return download_file(location, KATHER_MD5, "kather2016.zip", by_hand=by_hand)
    file = Path(location.removeprefix("file://")).expanduser()
    if not file.is_file():
        raise UserError(
            f"the value of `data` is 'kather2016:{location}', but must name the zip from "
            f"{KATHER_URL}: no such file."
        )
    md5 = pooch.file_hash(str(file), alg="md5")
    if md5 != KATHER_MD5:
        raise UserError(
            f"the value of `data` is 'kather2016:{location}', but isn't the archive: its md5 is "
            f"{md5}, not {KATHER_MD5}. Download it again from {KATHER_URL}."
        )
    return file
