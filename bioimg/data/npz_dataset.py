"""Images in one .npz file in MedMNIST's layout: train_images, train_labels and so on, 2D, grey or RGB."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from bioimg.data.decoding.channels import RawChannels, to_rgb
from bioimg.data.decoding.decode import DecodedImage
from bioimg.data.image_index import ImageIndex
from bioimg.data.image_set import SUBSETS
from bioimg.errors import UserError


class ArrayHeader(NamedTuple):
    """Shape and type of an array in the file, found without reading its values."""

    shape: tuple[int, ...]
    dtype: np.dtype


def list_npz(file: Path, classes: tuple[str, ...] = ()) -> ImageIndex:
    """List the images of an .npz file, whose arrays define train, val and test. Classes without names are numbers.

    Raises:
        UserError: it is damaged, arrays are missing, or images aren't 2D with one label each.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            labels = {
                name: _read_labels(file, archive, name) for name in _subsets_in_file(file, archive)
            }
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise _npz_error(file, f"can't be read: {error}") from error
    every = np.concatenate(list(labels.values()))
    values, indices = np.unique(every, return_inverse=True)
    if len(values) < 2:
        raise _npz_error(file, "holds one class but must hold at least two")
    return ImageIndex(
        name=file.stem,
        files=(),
        paths=tuple(
            f"{name}/{number:06}" for name, one in labels.items() for number in range(len(one))
        ),
        labels=indices.astype(np.int64),
        classes=tuple(classes[value] if value < len(classes) else str(value) for value in values),
        subsets=np.concatenate(
            [np.full(len(one), SUBSETS.index(name), np.int8) for name, one in labels.items()]
        ),
        npz_file=file,
    )


def iter_npz_images(file: Path) -> Iterator[DecodedImage]:
    """The images of an .npz file in the order of the listing, one in memory at a time.

    Raises:
        UserError: it is damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            for name in _subsets_in_file(file, archive):
                with archive.open(f"{name}_images.npy") as member:
                    yield from _iter_member_images(member)
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise _npz_error(file, f"can't be read: {error}") from error


def _iter_member_images(member: IO[bytes]) -> Iterator[DecodedImage]:
    shape, dtype = _read_header(member)
    size = int(np.prod(shape[1:])) * dtype.itemsize
    stored = f"{dtype.itemsize * 8}-bit {'RGB' if len(shape) == 4 else 'grey'}"
    for _ in range(shape[0]):
        pixels = np.frombuffer(member.read(size), dtype).reshape(shape[1:])
        yield DecodedImage(
            np.ascontiguousarray(to_rgb(RawChannels(pixels, pixels.ndim == 3, stored))), stored
        )


def _subsets_in_file(file: Path, archive: zipfile.ZipFile) -> list[str]:
    held = set(archive.namelist())
    parts = [name for name in SUBSETS if f"{name}_images.npy" in held]
    missing = [f"{name}_labels" for name in parts if f"{name}_labels.npy" not in held]
    if not parts or missing:
        raise _npz_error(
            file, f"lacks {', '.join(missing) or 'train_images'} (arrays of a MedMNIST file)"
        )
    return parts


def _read_labels(file: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}_images.npy") as member:
        shape = _read_header(member).shape
    if not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)):
        raise _npz_error(
            file,
            f"holds {name}_images of shape {shape}, but must hold 2D ones: [N, H, W] or [N, H, W, 3]",
        )
    with archive.open(f"{name}_labels.npy") as member:
        labels = np.lib.format.read_array(member, allow_pickle=False)
    if labels.size != shape[0] or labels.dtype.kind not in "iub":
        raise _npz_error(
            file,
            f"holds {name}_labels of shape {labels.shape}, but must hold one whole number for each of {shape[0]} images",
        )
    return labels.reshape(-1)


def _read_header(member: IO[bytes]) -> ArrayHeader:
    version = np.lib.format.read_magic(member)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, by_columns, dtype = read(member)
    if by_columns or dtype.hasobject:
        raise ValueError("an array is in Fortran order or holds objects")
    return ArrayHeader(shape, dtype)


def _npz_error(file: Path, what: str) -> UserError:
    return UserError(
        f"the file of `data`, {file}, {what}. Give a MedMNIST file, or a folder of images."
    )
