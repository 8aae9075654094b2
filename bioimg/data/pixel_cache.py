"""Decode every image of an index once, in parallel, into one array that is cached."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import IO, NamedTuple

import joblib
import numpy as np
import xxhash
from joblib.externals.loky import ProcessPoolExecutor

from bioimg.config import DatasetConfig
from bioimg.data import npz_dataset
from bioimg.data.decoding.channels import resize_square
from bioimg.data.decoding.decode import DecodedImage, decode_image, silence_decoders
from bioimg.data.file_array import FileArray, PixelArray, open_array
from bioimg.data.image_index import ImageIndex
from bioimg.errors import UnreadableImagesError, UserError
from bioimg.malloc_tuning import keep_freed_memory
from bioimg.storage import disk_cache
from bioimg.text import join_first

ProgressCallback = Callable[[int, int], None]
"""Called with the number of images done and their total number."""

CACHE_VERSION = 2
"""Version of the cached data. Raise it when decoding changes."""
MAX_PIXELS = 200_000_000
"""Largest number of pixels of one image, unless BIOIMG_MAX_PIXELS sets another."""
CHUNK_BYTES = 2_000_000
"""Bytes of files that a process gets at a time."""
MAX_CHUNK_FILES = 64
MIN_PARALLEL_BYTES = 10_000_000
"""Bytes of files below which starting processes takes longer than decoding.

Threads don't help, since Pillow holds the GIL.
"""
PIXELS_FILE, INFOS_FILE = "pixels", "facts.json"


class DecodeOptions(NamedTuple):
    """How each image is decoded."""

    image_size: int
    resize: str = "resize"
    channels: tuple[int, ...] = ()
    max_pixels: int = MAX_PIXELS

    @classmethod
    def from_config(cls, config: DatasetConfig) -> "DecodeOptions":
        """Read the options of a data set and of the environment.

        Raises:
            UserError: `channels` isn't one to three numbers, or BIOIMG_MAX_PIXELS isn't a number.
        """
        channels = _parse_channels(config.channels)
        return cls(config.image_size, config.resize, channels, _parse_max_pixels())


class ImageInfo(NamedTuple):
    """What is known about one image: either its content or why it can't be read."""

    digest: str = ""
    """Hash of the pixels as decoded."""
    height: int = 0
    width: int = 0
    stored_type: str = ""
    dtype: str = ""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class DecodedSet:
    """The readable images of an index, at the size of the options."""

    cache_key: str
    pixels: PixelArray
    """[N, size, size, 3], uint8 or, not yet scaled, uint16 or float32."""
    image_infos: tuple[ImageInfo, ...]
    """One for every image of the index, also for those that can't be read."""

    @property
    def readable_indices(self) -> np.ndarray:
        """Which images of the index `pixels` holds, int64 [N]."""
        return np.flatnonzero([not info.error for info in self.image_infos])

    @property
    def readable_infos(self) -> tuple[ImageInfo, ...]:
        """The infos of the images in `pixels`."""
        return tuple(info for info in self.image_infos if not info.error)

    def errors_by_path(self, paths: Sequence[str]) -> dict[str, str]:
        """Return why images can't be read, given the paths of all images of the index."""
        pairs = zip(paths, self.image_infos, strict=True)
        return {path: info.error for path, info in pairs if info.error}


def read_images(
    index: ImageIndex,
    options: DecodeOptions,
    *,
    skip_unreadable: bool = False,
    progress: ProgressCallback | None = None,
) -> DecodedSet:
    """Decode the images of an index, or take them from the cache if no file has changed since.

    Raises:
        UserError: images can't be read, or they differ in depth; lists them.
        UnreadableImagesError: none can be read.
    """
    files = [index.npz_file] if index.npz_file else index.files
    signatures = [(file.absolute(), *file_signature(file)) for file in files]
    key = disk_cache.cache_key(CACHE_VERSION, options, skip_unreadable, signatures)

    def write(folder: Path) -> None:
        _write_cache_entry(index, options, skip_unreadable, progress, folder)

    description = f"{index.name} at {options.image_size} px"
    folder = disk_cache.get_or_create(f"images/{key}", write, description)
    content = json.loads((folder / INFOS_FILE).read_text())
    return DecodedSet(
        cache_key=key,
        pixels=open_array(folder / PIXELS_FILE, tuple(content["shape"]), content["dtype"]),
        image_infos=tuple(ImageInfo(*values) for values in content["facts"]),
    )


def try_decode(file: Path, options: DecodeOptions) -> DecodedImage | Exception:
    """Decode one image. Return the exception if it can't be read."""
    try:
        return decode_image(file, options.channels, options.max_pixels)
    except Exception as error:  # decoders raise all kinds of exceptions on broken files
        return error


def pixel_digest(pixels: np.ndarray) -> str:
    """Return a hash (16 hex digits) of an image as decoded."""
    digest = xxhash.xxh3_64(f"{pixels.shape} {pixels.dtype}".encode())
    digest.update(pixels.data)
    return digest.hexdigest()


def _parse_channels(value: str | None) -> tuple[int, ...]:
    if value is None:
        return ()
    numbers = [number.strip() for number in value.split(",")]
    if len(numbers) > 3 or not all(number.isdecimal() for number in numbers):
        raise UserError(
            f"the value of `channels` is {value!r}, but must be one to three channel numbers, "
            "counted from 0, as in 2,1,0."
        )
    return tuple(map(int, numbers))


def _parse_max_pixels() -> int:
    value = os.environ.get("BIOIMG_MAX_PIXELS", str(MAX_PIXELS))
    if not value.isdecimal():
        raise UserError(
            f"the value of the environment variable `BIOIMG_MAX_PIXELS` is {value!r}, but must be "
            "a whole number."
        )
    return int(value)


def file_signature(file: Path) -> tuple[int, ...]:
    """Return size and times of a file, which reveal a change; () if they aren't available."""
    try:
        status = file.stat()
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _file_size(file: Path) -> int:
    """Return the bytes of a file; 0 if they aren't known."""
    signature = file_signature(file)
    return signature[0] if signature else 0


def _write_cache_entry(
    index: ImageIndex,
    options: DecodeOptions,
    skip_unreadable: bool,
    progress: ProgressCallback | None,
    folder: Path,
) -> None:
    pixels_file = folder / PIXELS_FILE
    pixels_file.touch()
    infos: list[ImageInfo] = []
    for info in _decode_into_file(index, options, pixels_file):
        infos.append(info)
        if progress:
            progress(len(infos), len(index))
    _require_readable(index, infos, skip_unreadable)
    dtype = _common_dtype(index, infos)
    image_shape = (options.image_size, options.image_size, 3)
    shape = _drop_unreadable_rows(pixels_file, infos, image_shape, dtype)
    content = {"shape": shape, "dtype": dtype, "facts": infos}
    (folder / INFOS_FILE).write_text(json.dumps(content))


def _decode_into_file(
    index: ImageIndex, options: DecodeOptions, target: Path
) -> Iterator[ImageInfo]:
    """Write each image into its row of the file `target`. Yield the infos in order."""
    if index.npz_file:
        images = enumerate(npz_dataset.iter_npz_images(index.npz_file))
        yield from _write_rows(images, options, target)
        return
    total_bytes = sum(map(_file_size, index.files))
    chunks = _chunk_files(index.files, total_bytes)
    if total_bytes < MIN_PARALLEL_BYTES:
        for chunk in chunks:
            yield from _decode_files(chunk, options, target)
        return
    # loky's processes don't import the user's program again, as those of the standard library do
    with ProcessPoolExecutor(joblib.cpu_count(), initializer=keep_freed_memory) as pool:
        for infos in pool.map(_decode_files, chunks, repeat(options), repeat(target)):
            yield from infos


def _chunk_files(files: Sequence[Path], total_bytes: int) -> list[list[tuple[int, Path]]]:
    """Divide files, with their row numbers, into chunks of about `CHUNK_BYTES`."""
    files_per_chunk = CHUNK_BYTES * len(files) // max(total_bytes, 1)
    step = max(1, min(MAX_CHUNK_FILES, files_per_chunk))
    numbered = list(enumerate(files))
    return [numbered[start : start + step] for start in range(0, len(numbered), step)]


def _decode_files(
    files: Iterable[tuple[int, Path]], options: DecodeOptions, target: Path
) -> list[ImageInfo]:
    images = ((row, try_decode(file, options)) for row, file in files)
    with silence_decoders():
        return list(_write_rows(images, options, target))


def _write_rows(
    images: Iterable[tuple[int, DecodedImage | Exception]], options: DecodeOptions, target: Path
) -> Iterator[ImageInfo]:
    # each process has the file open for itself, at its own position
    with target.open("r+b") as file:
        for row, image in images:
            if isinstance(image, Exception):
                yield ImageInfo(error=_error_reason(image))
            else:
                square = resize_square(image.pixels, options.image_size, options.resize)
                _write_row(file, row, np.ascontiguousarray(square))
                yield _describe_image(image)


def _write_row(file: IO[bytes], row: int, pixels: np.ndarray) -> None:
    file.seek(row * pixels.nbytes)
    file.write(pixels.data)


def _describe_image(image: DecodedImage) -> ImageInfo:
    height, width = image.pixels.shape[:2]
    digest = pixel_digest(image.pixels)
    return ImageInfo(digest, height, width, image.stored_type, str(image.pixels.dtype))


def _drop_unreadable_rows(
    file: Path, infos: list[ImageInfo], image_shape: tuple[int, ...], dtype: str
) -> tuple[int, ...]:
    """Remove the rows of unreadable images. Return the shape of the array."""
    readable = [row for row, info in enumerate(infos) if not info.error]
    if len(readable) < len(infos):
        rows = FileArray(file, (len(infos), *image_shape), dtype)
        compact_file = file.with_suffix(".compact")
        with compact_file.open("wb") as target:
            target.writelines(rows[row].data for row in readable)
        rows.close()
        compact_file.replace(file)
    return len(readable), *image_shape


def _error_reason(error: Exception) -> str:
    """Return the first line of a decoder's message, without the address of its file object."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    message = str(error)
    if not message:
        return type(error).__name__
    return message.splitlines()[0].split(" <_io")[0]


def _require_readable(index: ImageIndex, infos: list[ImageInfo], skip_unreadable: bool) -> None:
    pairs = zip(index.paths, infos, strict=True)
    reasons = {path: info.error for path, info in pairs if info.error}
    if not reasons:
        return
    broken = [f"{path} ({reason})" for path, reason in reasons.items()]
    problem = (
        f"{len(broken)} of {len(index)} images in {index.name!r} can't be read: "
        f"{join_first(broken)}."
    )
    if len(broken) == len(index):
        raise UnreadableImagesError(f"{problem} Fix them, or use other images.", reasons)
    if not skip_unreadable:
        them = "it" if len(broken) == 1 else "them"
        full_list = " `bioimg data --json` lists them all." if len(broken) > 10 else ""
        raise UserError(
            f"{problem}{full_list} Fix or remove {them}, or leave {them} out with "
            "--skip-unreadable."
        )


def _common_dtype(index: ImageIndex, infos: list[ImageInfo]) -> str:
    paths_by_dtype: dict[str, list[str]] = {}
    for path, info in zip(index.paths, infos, strict=True):
        if not info.error:
            paths_by_dtype.setdefault(info.dtype, []).append(path)
    if len(paths_by_dtype) > 1:
        depths = []
        for dtype, paths in paths_by_dtype.items():
            depths.append(f"{len(paths)} of {dtype}: {', '.join(paths[:3])}")
        raise UserError(
            f"the images in {index.name!r} have different depths, so that their brightness can't "
            f"be compared: {'; '.join(depths)}. Save all with the same depth and the same black "
            "and white levels (in Fiji: Image > Adjust > Brightness/Contrast, Set, then Image > "
            "Type), or leave out those of one depth: `data` may be a table (path,label) of the "
            "others."
        )
    return next(iter(paths_by_dtype))
