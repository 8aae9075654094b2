"""Public data sets by name: kather2016 and medmnist."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np

from bioimg.config import UserError, unknown
from bioimg.data import cache
from bioimg.data.archive import list_archive
from bioimg.data.folders import list_folder
from bioimg.data.listing import Listing, grouped_by

ZENODO = "https://zenodo.org/records/53169/files/Kather_texture_2016_image_tiles_5000.zip"
MD5 = "0ddbebfc56344752028fda72602aaade"
SLIDE = r"HE-(\d+)"
REPORT_CLASSES = 6
"""kather2016-6: the first six of the eight classes, without adipose tissue and background."""


def kather2016(name: str, where: str) -> Listing:
    """Kather et al. 2016 (DOI 10.5281/zenodo.53169, CC BY 4.0): 625 tiles for each of eight classes, grouped by slide.

    `where` is the URL of a mirror or the path of the zip; if empty, Zenodo is used.

    Raises:
        UserError: it can't be downloaded, or isn't the archive.
    """
    folder = cache.entry(f"kather2016-{MD5}", lambda folder: _unzip(_fetch(where or ZENODO), folder), "Kather et al. 2016")
    tops = [path for path in folder.iterdir() if path.is_dir()]
    listing = grouped_by(SLIDE, list_folder(tops[0] if len(tops) == 1 else folder))
    if name == "kather2016-6":
        kept = listing.only(np.flatnonzero(listing.labels < REPORT_CLASSES))
        listing = dataclasses.replace(kept, classes=listing.classes[:REPORT_CLASSES])
    return dataclasses.replace(listing, name=name)


def medmnist(name: str) -> Listing:
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
        flag + url.removeprefix("url"): (about[url], about[url.replace("url", "MD5")], about["label"])
        for flag, about in INFO.items()
        if "3D" not in about["python_class"] and "multi-label" not in about["task"]
        for url in about
        if url.startswith("url")
    }
    if name not in sets:
        raise unknown("data", f"medmnist:{name}", [f"medmnist:{known}" for known in sets])
    from bioimg.data.download import download

    url, md5, labels = sets[name]
    file = download(url, md5, f"{name}.npz", by_hand="FILE.npz")
    return list_archive(file, tuple(labels[str(number)] for number in range(len(labels))))


def _fetch(where: str) -> Path:
    import pooch  # imports requests, which takes 0.25 s

    from bioimg.data.download import download

    local = Path(where.removeprefix("file://")).expanduser()
    if "://" in where and not where.startswith("file://"):
        return download(where, MD5, "kather2016.zip", by_hand="kather2016:FILE.zip")
    if not local.is_file():
        raise UserError(f"the value of `data` is 'kather2016:{where}', but must name the zip from {ZENODO}: no such file.")
    if (md5 := pooch.file_hash(str(local), alg="md5")) != MD5:
        raise UserError(
            f"the value of `data` is 'kather2016:{where}', but isn't the archive: its md5 is {md5}, not {MD5}. "
            f"Download it again from {ZENODO}."
        )
    return local


def _unzip(file: Path, folder: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
