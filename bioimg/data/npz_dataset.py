"""Images in one .npz file in MedMNIST's layout: train_images, train_labels and so on.

Images are 2D, grey or RGB.
"""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from bioimg.data.decoding.channels import RawChannels, to_rgb
from bioimg.data.decoding.decode import DecodedImage
from bioimg.data.folder_layout import part_of_name
from bioimg.data.image_index import ImageIndex
from bioimg.data.image_set import SUBSETS
from bioimg.errors import UserError
from bioimg.text import join_first


class ArrayHeader(NamedTuple):
    """Shape and type of an array in the file, found without reading its values."""

    shape: tuple[int, ...]
    dtype: np.dtype


def list_npz(file: Path, class_names: tuple[str, ...] = ()) -> ImageIndex:
    """List the images of an .npz file, whose arrays define train, val and test.

    Classes without names are called by their numbers.

    Raises:
        UserError: it is damaged, arrays are missing, or images aren't 2D with one label each.
    """
    labels: list[np.ndarray] = []
    paths: list[str] = []
    subsets: list[np.ndarray] = []
    with _open_npz(file) as archive:
        for subset, name in _find_parts(file, archive).items():
            labels.append(_read_labels(file, archive, name))
            count = len(labels[-1])
            paths += [f"{name}/{number:06}" for number in range(count)]
            subsets.append(np.full(count, subset, np.int8))
    values, class_indices = np.unique(np.concatenate(labels), return_inverse=True)
    if len(values) < 2:
        raise _npz_error(file, "holds one class but must hold at least two")
    named = dict(enumerate(class_names))
    classes = [named.get(value, str(value)) for value in values.tolist()]
    return ImageIndex(
        name=file.stem,
        files=(),
        paths=tuple(paths),
        labels=class_indices.astype(np.int64),
        classes=tuple(classes),
        subsets=np.concatenate(subsets),
        npz_file=file,
    )


def iter_npz_images(file: Path) -> Iterator[DecodedImage]:
    """Yield the images of an .npz file in the order of `list_npz`, one in memory at a time.

    Raises:
        UserError: it is damaged.
    """
    with _open_npz(file) as archive:
        for name in _find_parts(file, archive).values():
            with archive.open(f"{name}_images.npy") as member:
                yield from _iter_member_images(member)


@contextlib.contextmanager
def _open_npz(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and numpy have exceptions of their own
        raise _npz_error(file, f"can't be read: {error or type(error).__name__}") from error


def _iter_member_images(member: IO[bytes]) -> Iterator[DecodedImage]:
    shape, dtype = _read_header(member)
    is_rgb = len(shape) == 4
    stored_type = f"{dtype.itemsize * 8}-bit {'RGB' if is_rgb else 'grey'}"
    image_shape = shape[1:]
    image_bytes = int(np.prod(image_shape)) * dtype.itemsize
    for _ in range(shape[0]):
        pixels = np.frombuffer(member.read(image_bytes), dtype).reshape(image_shape)
        rgb = to_rgb(RawChannels(pixels, is_rgb, stored_type))
        yield DecodedImage(np.ascontiguousarray(rgb), stored_type)


def _find_parts(file: Path, archive: zipfile.ZipFile) -> dict[int, str]:
    """Return the first word of the arrays of each part, as `train` of train_images, in order."""
    arrays = [member.removesuffix(".npy") for member in archive.namelist()]
    parts: dict[int, str] = {}
    unknown = []
    for array in sorted(name for name in arrays if name.endswith("_images")):
        name = array.removesuffix("_images")
        part = part_of_name(name)
        if part is None:
            unknown.append(array)
        elif part in parts:
            raise _npz_error(file, f"holds {SUBSETS[part]} images twice: {parts[part]}, {name}")
        else:
            parts[part] = name
    if unknown:
        raise _npz_error(file, f"holds images of no part train, val or test: {join_first(unknown)}")
    missing = [f"{name}_labels" for name in parts.values() if f"{name}_labels" not in arrays]
    if not parts:
        missing = ["train_images"]
    if missing:
        raise _npz_error(file, f"lacks {', '.join(missing)} (arrays of a MedMNIST file)")
    return dict(sorted(parts.items()))


def _read_labels(file: Path, archive: zipfile.ZipFile, subset: str) -> np.ndarray:
    with archive.open(f"{subset}_images.npy") as member:
        shape = _read_header(member).shape
    is_grey = len(shape) == 3
    is_rgb = len(shape) == 4 and shape[3] == 3
    if not is_grey and not is_rgb:
        raise _npz_error(
            file,
            f"holds {subset}_images of shape {shape}, but must hold 2D ones: [N, H, W] or "
            "[N, H, W, 3]",
        )
    with archive.open(f"{subset}_labels.npy") as member:
        labels = np.lib.format.read_array(member, allow_pickle=False)
    if labels.size != shape[0] or labels.dtype.kind not in "iub":
        raise _npz_error(
            file,
            f"holds {subset}_labels of shape {labels.shape}, but must hold one whole number for "
            f"each of {shape[0]} images",
        )
    return labels.reshape(-1)


def _read_header(member: IO[bytes]) -> ArrayHeader:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(member)
    else:
        shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(member)
    if is_fortran or dtype.hasobject:
        raise ValueError("an array is in Fortran order or holds objects")
    return ArrayHeader(shape, dtype)


def _npz_error(file: Path, problem: str) -> UserError:
    return UserError(
        f"the file of `data`, {file}, {problem}. Give a MedMNIST file, or a folder of images."
    )
