"""What is kept between runs: decoded pixels, features and downloads, in a folder of the user.

The environment variable `BIOIMG_CACHE` sets another folder, which on a cluster all machines must
share. All of it can be deleted at any time. The cache takes at most half of the disk space that is
available to it, or `BIOIMG_CACHE_GB`. The least recently used entries are removed first, but none
that a process is using.
"""

import contextlib
import datetime
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
from bioimg.storage.process_lock import lock_if_unused, share_until_exit

ENTRY_FOLDERS = ("images", "scaled", "alike", "features", "downloads")
"""Folders that contain entries; anything else in the cache folder is itself an entry."""
LOCK_FOLDER = "locks"
DESCRIPTION_FILE = "about.txt"
BYTES_PER_GB = 10**9
ABANDONED_AFTER_S = 24 * 3600
"""Seconds without a write after which an unfinished entry counts as left by a killed process."""


class CacheEntry(NamedTuple):
    """One entry of the cache."""

    name: str
    description: str
    size_bytes: int
    last_used: datetime.datetime


def cache_folder() -> Path:
    """Return the cache folder."""
    return Path(os.environ.get("BIOIMG_CACHE") or platformdirs.user_cache_path("bioimg"))


def cache_key(*content: object) -> str:
    """Hash what an entry is made from, to 20 hex digits."""
    return hashlib.sha256(repr(content).encode("utf-8", "surrogateescape")).hexdigest()[:20]


def get_or_create(name: str, write: Callable[[Path], object], about: str = "") -> Path:
    """Return the folder of an entry. If it doesn't exist, `write` fills it.

    Other processes see a whole entry or none.

    Raises:
        UserError: The entry can't be written.
    """
    entry = acquire_entry(name)
    if entry.exists():
        return entry
    with explain_write_errors():
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=entry.parent, prefix=".", ignore_cleanup_errors=True
        ) as temporary:
            new_entry = Path(temporary) / "entry"
            new_entry.mkdir()
            write(new_entry)
            if about:
                (new_entry / DESCRIPTION_FILE).write_text(about, encoding="utf-8")
            _publish_entry(new_entry, entry)
    evict_entries()
    return entry


def acquire_entry(name: str) -> Path:
    """Return the path of an entry, whether it exists or not, and mark it as used now.

    While this process lives, the entry isn't removed.
    """
    lock = _lock_file(name)
    with contextlib.suppress(OSError):  # a read-only folder: entries can't be locked there
        share_until_exit(lock)
        os.utime(lock)
    return cache_folder() / name


@contextlib.contextmanager
def explain_write_errors() -> Iterator[None]:
    """Say what to do if the folder can't be written.

    Raises:
        UserError: An OSError was raised inside.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the cache folder {cache_folder()} can't be written: {error.strerror or error}. Free "
            "some space there, or set the environment variable BIOIMG_CACHE to another folder."
        ) from error


def list_entries() -> list[CacheEntry]:
    """Return all entries, the least recently used first."""
    entries = []
    for path in _visible_paths(cache_folder()):
        if path.name in ENTRY_FOLDERS:
            entries += map(_read_entry, _visible_paths(path))
        elif path.name != LOCK_FOLDER:
            entries.append(_read_entry(path))
    return sorted(entries, key=lambda entry: entry.last_used)


def evict_entries() -> None:
    """Remove entries until the cache is within its limit.

    Also remove what processes that were killed while writing have left.
    """
    for folder in _abandoned_folders():
        shutil.rmtree(folder, ignore_errors=True)
    entries = list_entries()
    total = sum(entry.size_bytes for entry in entries)
    excess = total - max_cache_bytes(total)
    for entry in entries:
        if excess > 0 and remove_entry(entry.name):
            excess -= entry.size_bytes


def max_cache_bytes(used: int) -> float:
    """Return the bytes that the cache may take, given those that it takes now.

    Raises:
        UserError: `BIOIMG_CACHE_GB` isn't a number.
    """
    value = os.environ.get("BIOIMG_CACHE_GB")
    if not value:
        return (_free_bytes() + used) / 2
    try:
        return float(value) * BYTES_PER_GB
    except ValueError:
        raise UserError(
            f"the value of the environment variable `BIOIMG_CACHE_GB` is {value!r}, but must be a "
            "number of gigabytes, such as 50."
        ) from None


def remove_entry(name: str) -> bool:
    """Remove an entry unless a process is using it. Return whether it was removed."""
    with contextlib.suppress(OSError), lock_if_unused(_lock_file(name)) as is_locked:
        if not is_locked:
            return False
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".") as temporary:
            (cache_folder() / name).rename(Path(temporary) / "entry")
        return True
    return False


def _lock_file(name: str) -> Path:
    """Return the file that is locked: shared to use an entry, exclusively to remove it."""
    return cache_folder() / LOCK_FOLDER / name.replace("/", "-")


def _free_bytes() -> int:
    folders = (cache_folder(), *cache_folder().absolute().parents)
    return next(shutil.disk_usage(folder).free for folder in folders if folder.exists())


def _visible_paths(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _abandoned_folders() -> Iterator[Path]:
    oldest = time.time() - ABANDONED_AFTER_S
    for parent in (cache_folder(), *map(cache_folder().joinpath, ENTRY_FOLDERS)):
        for path in parent.glob(".*"):
            if path.is_dir() and _last_write_time(path) < oldest:
                yield path


def _last_write_time(folder: Path) -> float:
    times = (status.st_mtime for status in _stat_tree(folder))
    return max(times, default=math.inf)  # infinite: the folder was just removed


def _read_entry(path: Path) -> CacheEntry:
    name = path.relative_to(cache_folder()).as_posix()
    description = ""
    # there is none, the entry is one file, or it was just removed
    with contextlib.suppress(OSError):
        description = (path / DESCRIPTION_FILE).read_text(encoding="utf-8")
    status = _stat_or_none(_lock_file(name)) or _stat_or_none(path)
    last_used = datetime.datetime.fromtimestamp(status.st_mtime if status else 0, datetime.UTC)
    size = sum(status.st_size for status in _stat_tree(path))
    return CacheEntry(name, description, size, last_used)


def _stat_tree(top: Path) -> Iterator[os.stat_result]:
    """Yield the status of a path and all below, except what other processes are just removing."""
    paths = [top]
    for folder, folders, files in os.walk(top):
        paths += (Path(folder, name) for name in (*folders, *files))
    for path in paths:
        if status := _stat_or_none(path):
            yield status


def _stat_or_none(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # just removed
        return None


def _publish_entry(new_entry: Path, entry: Path) -> None:
    try:
        new_entry.rename(entry)
    except OSError:  # another process was first
        if not entry.exists():
            raise
        shutil.rmtree(new_entry)
