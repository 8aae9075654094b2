"""Public data sets by name: kather2016 and medmnist."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np

from bioimg.data.image_folder import list_folder
from bioimg.data.image_index import ImageIndex, add_groups
from bioimg.data.npz_dataset import list_npz
from bioimg.errors import UserError, unknown_value_error
from bioimg.storage import disk_cache

KATHER_URL = "https://zenodo.org/records/53169/files/Kather_texture_2016_image_tiles_5000.zip"
KATHER_MD5 = "0ddbebfc56344752028fda72602aaade"
KATHER_SLIDE_PATTERN = r"HE-(\d+)"
KATHER_6_CLASS_COUNT = 6
"""kather2016-6: the first six of the eight classes, without adipose tissue and background."""


def list_kather2016(name: str, where: str) -> ImageIndex:
    """Kather et al. 2016 (DOI 10.5281/zenodo.53169, CC BY 4.0): 625 tiles for each of eight classes, grouped by slide.

    `where` is the URL of a mirror or the path of the zip; if empty, Zenodo is used.

    Raises:
        UserError: it can't be downloaded, or isn't the archive.
    """
    folder = disk_cache.get_or_create(
        f"kather2016-{KATHER_MD5}",
        lambda folder: _extract_zip(_locate_kather_zip(where or KATHER_URL), folder),
        "Kather et al. 2016",
    )
    tops = [path for path in folder.iterdir() if path.is_dir()]
    listing = add_groups(KATHER_SLIDE_PATTERN, list_folder(tops[0] if len(tops) == 1 else folder))
    if name == "kather2016-6":
        kept = listing.select(np.flatnonzero(listing.labels < KATHER_6_CLASS_COUNT))
        listing = dataclasses.replace(kept, classes=listing.classes[:KATHER_6_CLASS_COUNT])
    return dataclasses.replace(listing, name=name)


def list_medmnist(name: str) -> ImageIndex:
    """A set of MedMNIST by name, such as pathmnist or pathmnist_128, from the URL that its package gives.

    Raises:
        UserError: the package isn't installed, the download fails, or there is no such set of 2D images with one label each.
    """
    try:
        from medmnist.info import INFO  # type: ignore[import-not-found]  # an extra
    except ImportError as error:
        raise UserError(
            f"the value of `data` is 'medmnist:{name}', which needs the package medmnist. Install it with "
            "`pip install '.[medmnist]'`."
        ) from error
    sets = {
        flag + url.removeprefix("url"): (
            about[url],
            about[url.replace("url", "MD5")],
            about["label"],
        )
        for flag, about in INFO.items()
        if "3D" not in about["python_class"] and "multi-label" not in about["task"]
        for url in about
        if url.startswith("url")
    }
    if name not in sets:
        raise unknown_value_error(
            "data", f"medmnist:{name}", [f"medmnist:{known}" for known in sets]
        )
    from bioimg.data.download import download_file

    url, md5, labels = sets[name]
    file = download_file(url, md5, f"{name}.npz", by_hand="FILE.npz")
    return list_npz(file, tuple(labels[str(number)] for number in range(len(labels))))


def _locate_kather_zip(where: str) -> Path:
    import pooch  # imports requests, which takes 0.25 s

    from bioimg.data.download import download_file

    local = Path(where.removeprefix("file://")).expanduser()
    if "://" in where and not where.startswith("file://"):
        return download_file(where, KATHER_MD5, "kather2016.zip", by_hand="kather2016:FILE.zip")
    if not local.is_file():
        raise UserError(
            f"the value of `data` is 'kather2016:{where}', but must name the zip from {KATHER_URL}: no such file."
        )
    if (md5 := pooch.file_hash(str(local), alg="md5")) != KATHER_MD5:
        raise UserError(
            f"the value of `data` is 'kather2016:{where}', but isn't the archive: its md5 is {md5}, not {KATHER_MD5}. "
            f"Download it again from {KATHER_URL}."
        )
    return local


def _extract_zip(file: Path, folder: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
