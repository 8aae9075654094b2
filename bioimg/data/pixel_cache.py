"""Decode every image of a listing once, in parallel, into one array that is cached for the next run."""

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import xxhash

from bioimg.config import DatasetConfig
from bioimg.data import npz_dataset
from bioimg.data.decoding.channels import resize_square
from bioimg.data.decoding.decode import DecodedImage, decode_image, silence_decoders
from bioimg.data.file_array import FileArray, PixelArray, open_array
from bioimg.data.image_index import ImageIndex
from bioimg.errors import UserError
from bioimg.storage import disk_cache
from bioimg.text import join_first

ProgressCallback = Callable[[int, int], None]
"""Called with the number of images done and their total number."""

CACHE_VERSION = 2
"""Of the cached data: to be raised when decoding changes."""
MAX_PIXELS = 200_000_000
CHUNK_BYTES = 2_000_000
"""Bytes of files that a process gets at a time, but at most 64 files."""
MIN_PARALLEL_BYTES = 10_000_000
"""Bytes of files below which starting processes takes longer than decoding. (Threads don't help: Pillow holds the GIL.)"""


class DecodeOptions(NamedTuple):
    """How each image is decoded."""

    image_size: int
    resize: str = "resize"
    channels: tuple[int, ...] = ()
    max_pixels: int = MAX_PIXELS

    @classmethod
    def from_config(cls, config: DatasetConfig) -> "DecodeOptions":
        """Read the options of a data set.

        Raises:
            UserError: `channels` isn't one to three numbers, or BIOIMG_MAX_PIXELS isn't a number.
        """
        return cls(
            config.image_size, config.resize, _parse_channels(config.channels), _parse_max_pixels()
        )


class ImageInfo(NamedTuple):
    """What is known about one image: content hash, size, kind as stored and type as decoded; or why it can't be read."""

    digest: str = ""
    height: int = 0
    width: int = 0
    stored_type: str = ""
    dtype: str = ""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class DecodedSet:
    """Pixels [N, size, size, 3] of the readable images, uint8 or not yet scaled uint16 or float32; a fact for every image."""

    cache_key: str
    pixels: PixelArray
    image_infos: tuple[ImageInfo, ...]

    @property
    def readable_indices(self) -> np.ndarray:
        """Which images `pixels` holds: indices into `facts`."""
        return np.flatnonzero([not fact.error for fact in self.image_infos])


def read_images(
    listing: ImageIndex,
    rule: DecodeOptions,
    *,
    skip_unreadable: bool = False,
    progress: ProgressCallback | None = None,
) -> DecodedSet:
    """Decode the images of a listing, or take them from the cache if no file has changed since.

    Raises:
        UserError: images can't be read (with `skip_unreadable`: none can), or they differ in depth; lists them.
    """
    if listing.synthetic:
        from bioimg.data.phantom_source import draw_decoded_phantom

        return draw_decoded_phantom(rule.image_size)
    files = [listing.npz_file] if listing.npz_file else listing.files
    key = disk_cache.cache_key(
        CACHE_VERSION,
        rule,
        skip_unreadable,
        [(file.absolute(), *_file_signature(file)) for file in files],
    )
    about = f"{listing.name} at {rule.image_size} px"
    folder = disk_cache.get_or_create(
        f"images/{key}",
        lambda folder: _write_cache_entry(listing, rule, skip_unreadable, progress, folder),
        about,
    )
    kept = json.loads((folder / "facts.json").read_text())
    facts = tuple(ImageInfo(*fact) for fact in kept["facts"])
    return DecodedSet(
        cache_key=key,
        pixels=open_array(folder / "pixels", tuple(kept["shape"]), kept["dtype"]),
        image_infos=facts,
    )


def _parse_channels(value: str | None) -> tuple[int, ...]:
    planes = [plane.strip() for plane in value.split(",")] if value is not None else []
    if len(planes) > 3 or not all(plane.isdecimal() for plane in planes):
        raise UserError(
            f"the value of `channels` is {value!r}, but must be one to three plane numbers, counted from 0, as in 2,1,0."
        )
    return tuple(map(int, planes))


def _parse_max_pixels() -> int:
    value = os.environ.get("BIOIMG_MAX_PIXELS", str(MAX_PIXELS))
    if not value.isdecimal():
        raise UserError(
            f"the value of the environment variable `BIOIMG_MAX_PIXELS` is {value!r}, but must be a whole number."
        )
    return int(value)


def _file_signature(file: Path) -> tuple[int, ...]:
    """Size and times of a file, which reveal a change without reading it; () if they aren't available."""
    try:
        status = file.stat()
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _write_cache_entry(
    listing: ImageIndex,
    rule: DecodeOptions,
    skip_unreadable: bool,
    progress: ProgressCallback | None,
    folder: Path,
) -> None:
    facts: list[ImageInfo] = []
    (folder / "pixels").touch()
    for fact in _decode_into_file(listing, rule, folder / "pixels"):
        facts.append(fact)
        if progress:
            progress(len(facts), len(listing))
    _require_readable(listing, facts, skip_unreadable)
    dtype = _common_dtype(listing, facts)
    shape = _drop_unreadable_rows(
        folder / "pixels", facts, (rule.image_size, rule.image_size, 3), dtype
    )
    (folder / "facts.json").write_text(json.dumps({"shape": shape, "dtype": dtype, "facts": facts}))


def _decode_into_file(
    listing: ImageIndex, rule: DecodeOptions, target: Path
) -> Iterator[ImageInfo]:
    """Write the pixels of each image into its row of the file `target`, and yield the facts in order."""
    if listing.npz_file:
        yield from _write_rows(
            enumerate(npz_dataset.iter_npz_images(listing.npz_file)), rule, target
        )
        return
    size = sum(stamp[0] for file in listing.files if (stamp := _file_signature(file)))
    numbered, step = (
        list(enumerate(listing.files)),
        max(1, min(64, CHUNK_BYTES * len(listing) // max(size, 1))),
    )
    chunks = [numbered[start : start + step] for start in range(0, len(numbered), step)]
    if size < MIN_PARALLEL_BYTES:
        yield from (fact for chunk in chunks for fact in _decode_files(chunk, rule, target))
        return
    jobs = (joblib.delayed(_decode_files)(chunk, rule, target) for chunk in chunks)
    for facts in joblib.Parallel(
        n_jobs=joblib.cpu_count(), return_as="generator", idle_worker_timeout=10
    )(jobs):
        yield from facts  # type: ignore[misc]


def _decode_files(
    files: Iterable[tuple[int, Path]], rule: DecodeOptions, target: Path
) -> list[ImageInfo]:
    with silence_decoders():
        return list(
            _write_rows(((number, try_decode(file, rule)) for number, file in files), rule, target)
        )


def try_decode(file: Path, rule: DecodeOptions) -> DecodedImage | Exception:
    """One image, or the exception that tells why it can't be read."""
    try:
        return decode_image(file, rule.channels, rule.max_pixels)
    except Exception as error:  # decoders raise all kinds of exceptions on broken files
        return error


def _write_rows(
    images: Iterable[tuple[int, DecodedImage | Exception]], rule: DecodeOptions, target: Path
) -> Iterator[ImageInfo]:
    with target.open("r+b", buffering=0) as rows:
        for number, image in images:
            if isinstance(image, Exception):
                yield ImageInfo(error=_error_reason(image))
                continue
            pixels = np.ascontiguousarray(resize_square(image.pixels, rule.image_size, rule.resize))
            if os.pwrite(rows.fileno(), pixels.data, number * pixels.nbytes) != pixels.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            height, width = image.pixels.shape[:2]
            yield ImageInfo(
                pixel_digest(image.pixels), height, width, image.stored_type, str(pixels.dtype)
            )


def pixel_digest(pixels: np.ndarray) -> str:
    """The content hash of an image as decoded."""
    digest = xxhash.xxh3_64(f"{pixels.shape} {pixels.dtype}".encode())
    digest.update(pixels.data)
    return digest.hexdigest()


def _drop_unreadable_rows(
    file: Path, facts: list[ImageInfo], shape: tuple[int, ...], dtype: str
) -> tuple[int, ...]:
    """Remove the rows of unreadable images."""
    readable = [row for row, fact in enumerate(facts) if not fact.error]
    if len(readable) < len(facts):
        rows, closed = FileArray(file, (len(facts), *shape), dtype), file.with_suffix(".closed")
        with closed.open("wb") as target:
            target.writelines(rows[row].data for row in readable)
        closed.replace(file)
    return len(readable), *shape


def _error_reason(error: Exception) -> str:
    """The first line of a decoder's message, without the address of its file object."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).splitlines()[0].split(" <_io")[0] if str(error) else type(error).__name__


def _require_readable(listing: ImageIndex, facts: list[ImageInfo], skip: bool) -> None:
    broken = [
        f"{path} ({fact.error})"
        for path, fact in zip(listing.paths, facts, strict=True)
        if fact.error
    ]
    if broken and len(broken) == len(facts):
        raise UserError(
            f"{len(broken)} of {len(listing)} images in {listing.name!r} can't be read: {join_first(broken)}. "
            "Fix them, or use other images."
        )
    if broken and not skip:
        them = "it" if len(broken) == 1 else "them"
        every = "`bioimg data --json` lists them all. " if len(broken) > 10 else ""
        raise UserError(
            f"{len(broken)} of {len(listing)} images in {listing.name!r} can't be read: {join_first(broken)}. {every}"
            f"Fix or remove {them}, or leave {them} out with --skip-unreadable."
        )


def _common_dtype(listing: ImageIndex, facts: list[ImageInfo]) -> str:
    paths: dict[str, list[str]] = {}
    for path, fact in zip(listing.paths, facts, strict=True):
        if not fact.error:
            paths.setdefault(fact.dtype, []).append(path)
    if len(paths) > 1:
        held = "; ".join(
            f"{len(some)} of {dtype}: {', '.join(some[:3])}" for dtype, some in paths.items()
        )
        raise UserError(
            f"the images in {listing.name!r} have different depths, so that their brightness can't be compared: {held}. "
            "Save all with the same depth and the same black and white levels (in Fiji: Image > Adjust > Brightness/Contrast, "
            "Set, then Image > Type), or leave out those of one depth: `data` may be a table (path,label) of the others."
        )
    return next(iter(paths))
