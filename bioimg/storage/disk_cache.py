"""What is kept between runs: decoded pixels, features and downloads, in a folder of the user.

`BIOIMG_CACHE` sets another folder, which on a cluster all machines must share. All of it can be deleted at any time.
It takes at most half of the disk space available to it, or `BIOIMG_CACHE_GB`: the least recently used entries are removed
first, but none that a process is using.
"""

import contextlib
import datetime
import fcntl
import hashlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import platformdirs

from bioimg.errors import UserError

ENTRY_FOLDERS = ("images", "scaled", "alike", "features", "downloads")
"""Folders that contain entries; anything else in the cache folder is itself an entry."""
LOCK_FOLDER, DESCRIPTION_FILE = "locks", "about.txt"
BYTES_PER_GB = 10**9
ABANDONED_AFTER_S = 24 * 3600
"""Seconds without a write after which an unfinished entry counts as left by a killed process."""

_lock_descriptors: dict[Path, int] = {}


class CacheEntry(NamedTuple):
    """One entry of the cache."""

    name: str
    description: str
    size_bytes: int
    last_used: datetime.datetime


def cache_folder() -> Path:
    """The cache folder."""
    return Path(os.environ.get("BIOIMG_CACHE") or platformdirs.user_cache_path("bioimg"))


def cache_key(*content: object) -> str:
    """A hash (20 hex digits) of what an entry is made from."""
    return hashlib.sha256(repr(content).encode("utf-8", "surrogateescape")).hexdigest()[:20]


def get_or_create(name: str, write: Callable[[Path], object], about: str = "") -> Path:
    """The folder of one entry, filled by `write` if it doesn't exist. Other processes see a whole entry or none.

    Raises:
        UserError: it can't be written.
    """
    kept = acquire_entry(name)
    if kept.exists():
        return kept
    with explain_write_errors():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=kept.parent, prefix=".", ignore_cleanup_errors=True
        ) as temporary:
            fresh = Path(temporary) / "entry"
            fresh.mkdir()
            write(fresh)
            if about:
                (fresh / DESCRIPTION_FILE).write_text(about, encoding="utf-8")
            _publish_entry(fresh, kept)
    evict_entries()
    return kept


def acquire_entry(name: str) -> Path:
    """The path of an entry, whether it exists or not. It counts as used now and isn't removed while this process lives."""
    kept = cache_folder() / name
    with contextlib.suppress(OSError):  # a read-only folder: entries can't be locked there
        if kept not in _lock_descriptors:
            descriptor = _open_lock(name)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            _lock_descriptors[kept] = descriptor
        os.utime(_lock_descriptors[kept])
    return kept


@contextlib.contextmanager
def explain_write_errors() -> Iterator[None]:
    """Say what to do if the folder can't be written.

    Raises:
        UserError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the cache folder {cache_folder()} can't be written: {error.strerror or error}. Free some space there, "
            "or set the environment variable BIOIMG_CACHE to another folder."
        ) from error


def list_entries() -> list[CacheEntry]:
    """All entries, the least recently used first."""
    tops = [path for path in _visible_paths(cache_folder()) if path.name != LOCK_FOLDER]
    places = [
        place
        for top in tops
        for place in (_visible_paths(top) if top.name in ENTRY_FOLDERS else [top])
    ]
    return sorted(map(_read_entry, places), key=lambda found: found.last_used)


def evict_entries() -> None:
    """Remove entries until the cache is within its limit, and what processes that were killed while writing have left."""
    for unfinished in _abandoned_folders():
        shutil.rmtree(unfinished, ignore_errors=True)
    kept = list_entries()
    excess = sum(one.size_bytes for one in kept) - max_cache_bytes(
        sum(one.size_bytes for one in kept)
    )
    for one in kept:
        if excess > 0 and remove_entry(one.name):
            excess -= one.size_bytes


def max_cache_bytes(kept: int) -> float:
    """Bytes that the cache may take, given those that it takes now.

    Raises:
        UserError: `BIOIMG_CACHE_GB` isn't a number.
    """
    value = os.environ.get("BIOIMG_CACHE_GB")
    try:
        return float(value) * BYTES_PER_GB if value else (_free_bytes() + kept) / 2
    except ValueError:
        raise UserError(
            f"the value of the environment variable `BIOIMG_CACHE_GB` is {value!r}, but must be a number of gigabytes."
        ) from None


def remove_entry(name: str) -> bool:
    """Remove an entry unless a process is using it. Returns whether it was removed."""
    with contextlib.suppress(OSError):
        descriptor = _open_lock(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".") as doomed:
                (cache_folder() / name).rename(Path(doomed) / "entry")
            return True
        finally:
            os.close(descriptor)
    return False


def _open_lock(name: str) -> int:
    """The lock file of an entry: a shared lock to use it, an exclusive one to remove it. Deleting the file would be a race."""
    lock = cache_folder() / LOCK_FOLDER / name.replace("/", "-")
    lock.parent.mkdir(parents=True, exist_ok=True)
    return os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)


def _free_bytes() -> int:
    return next(
        shutil.disk_usage(top).free
        for top in (cache_folder(), *cache_folder().absolute().parents)
        if top.exists()
    )


def _visible_paths(top: Path) -> list[Path]:
    return [path for path in top.iterdir() if not path.name.startswith(".")] if top.is_dir() else []


def _abandoned_folders() -> list[Path]:
    hidden = [
        path
        for top in (cache_folder(), *map(cache_folder().joinpath, ENTRY_FOLDERS))
        for path in top.glob(".*")
        if path.is_dir()
    ]
    return [path for path in hidden if _last_write_time(path) < time.time() - ABANDONED_AFTER_S]


def _last_write_time(top: Path) -> float:
    return max((status.st_mtime for status in _stat_tree(top)), default=math.inf)  # just removed


def _read_entry(place: Path) -> CacheEntry:
    name, about = place.relative_to(cache_folder()).as_posix(), ""
    with contextlib.suppress(
        OSError
    ):  # none was given, the entry is one file, or it was just removed
        about = (place / DESCRIPTION_FILE).read_text(encoding="utf-8")
    used = _stat_or_none(cache_folder() / LOCK_FOLDER / name.replace("/", "-")) or _stat_or_none(
        place
    )
    moment = datetime.datetime.fromtimestamp(used.st_mtime if used else 0, datetime.UTC)
    return CacheEntry(name, about, sum(status.st_size for status in _stat_tree(place)), moment)


def _stat_tree(top: Path) -> list[os.stat_result]:
    """The status of a folder and of everything in it, except for what other processes are just removing."""
    below = (
        Path(place, name) for place, folders, files in os.walk(top) for name in (*folders, *files)
    )
    return [status for path in (top, *below) if (status := _stat_or_none(path))]


def _stat_or_none(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # just removed
        return None


def _publish_entry(fresh: Path, kept: Path) -> None:
    try:
        fresh.rename(kept)
    except OSError:  # another process was first
        if not kept.exists():
            raise
        shutil.rmtree(fresh)
