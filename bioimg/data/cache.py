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

from bioimg.config import UserError

KINDS = ("images", "scaled", "alike", "features", "downloads")
"""Folders that contain entries; anything else in the cache folder is itself an entry."""
LOCKS, ABOUT = "locks", "about.txt"
GB = 10**9
ABANDONED = 24 * 3600
"""Seconds without a write after which an unfinished entry counts as left by a killed process."""

_in_use: dict[Path, int] = {}


class Entry(NamedTuple):
    """One entry of the cache."""

    name: str
    about: str
    bytes: int
    used: datetime.datetime


def folder() -> Path:
    """The cache folder."""
    return Path(os.environ.get("BIOIMG_CACHE") or platformdirs.user_cache_path("bioimg"))


def key(*content: object) -> str:
    """A hash (20 hex digits) of what an entry is made from."""
    return hashlib.sha256(repr(content).encode("utf-8", "surrogateescape")).hexdigest()[:20]


def entry(name: str, write: Callable[[Path], object], about: str = "") -> Path:
    """The folder of one entry, filled by `write` if it doesn't exist. Other processes see a whole entry or none.

    Raises:
        UserError: it can't be written.
    """
    kept = use(name)
    if kept.exists():
        return kept
    with writing():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".", ignore_cleanup_errors=True) as temporary:
            fresh = Path(temporary) / "entry"
            fresh.mkdir()
            write(fresh)
            if about:
                (fresh / ABOUT).write_text(about, encoding="utf-8")
            _publish(fresh, kept)
    trim()
    return kept


def use(name: str) -> Path:
    """The path of an entry, whether it exists or not. It counts as used now and isn't removed while this process lives."""
    kept = folder() / name
    with contextlib.suppress(OSError):  # a read-only folder: entries can't be locked there
        if kept not in _in_use:
            descriptor = _open_lock(name)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            _in_use[kept] = descriptor
        os.utime(_in_use[kept])
    return kept


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Say what to do if the folder can't be written.

    Raises:
        UserError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the cache folder {folder()} can't be written: {error.strerror or error}. Free some space there, "
            "or set the environment variable BIOIMG_CACHE to another folder."
        ) from error


def entries() -> list[Entry]:
    """All entries, the least recently used first."""
    tops = [path for path in _visible(folder()) if path.name != LOCKS]
    places = [place for top in tops for place in (_visible(top) if top.name in KINDS else [top])]
    return sorted(map(_look, places), key=lambda found: found.used)


def trim() -> None:
    """Remove entries until the cache is within its limit, and what processes that were killed while writing have left."""
    for unfinished in _unfinished():
        shutil.rmtree(unfinished, ignore_errors=True)
    kept = entries()
    excess = sum(one.bytes for one in kept) - limit(sum(one.bytes for one in kept))
    for one in kept:
        if excess > 0 and remove(one.name):
            excess -= one.bytes


def limit(kept: int) -> float:
    """Bytes that the cache may take, given those that it takes now.

    Raises:
        UserError: `BIOIMG_CACHE_GB` isn't a number.
    """
    value = os.environ.get("BIOIMG_CACHE_GB")
    try:
        return float(value) * GB if value else (_free() + kept) / 2
    except ValueError:
        raise UserError(
            f"the value of the environment variable `BIOIMG_CACHE_GB` is {value!r}, but must be a number of gigabytes."
        ) from None


def remove(name: str) -> bool:
    """Remove an entry unless a process is using it. Returns whether it was removed."""
    with contextlib.suppress(OSError):
        descriptor = _open_lock(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with tempfile.TemporaryDirectory(dir=folder(), prefix=".") as doomed:
                (folder() / name).rename(Path(doomed) / "entry")
            return True
        finally:
            os.close(descriptor)
    return False


def _open_lock(name: str) -> int:
    """The lock file of an entry: a shared lock to use it, an exclusive one to remove it. Deleting the file would be a race."""
    lock = folder() / LOCKS / name.replace("/", "-")
    lock.parent.mkdir(parents=True, exist_ok=True)
    return os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)


def _free() -> int:
    return next(shutil.disk_usage(top).free for top in (folder(), *folder().absolute().parents) if top.exists())


def _visible(top: Path) -> list[Path]:
    return [path for path in top.iterdir() if not path.name.startswith(".")] if top.is_dir() else []


def _unfinished() -> list[Path]:
    hidden = [path for top in (folder(), *map(folder().joinpath, KINDS)) for path in top.glob(".*") if path.is_dir()]
    return [path for path in hidden if _newest(path) < time.time() - ABANDONED]


def _newest(top: Path) -> float:
    return max((status.st_mtime for status in _within(top)), default=math.inf)  # just removed


def _look(place: Path) -> Entry:
    name, about = place.relative_to(folder()).as_posix(), ""
    with contextlib.suppress(OSError):  # none was given, the entry is one file, or it was just removed
        about = (place / ABOUT).read_text(encoding="utf-8")
    used = _status(folder() / LOCKS / name.replace("/", "-")) or _status(place)
    moment = datetime.datetime.fromtimestamp(used.st_mtime if used else 0, datetime.UTC)
    return Entry(name, about, sum(status.st_size for status in _within(place)), moment)


def _within(top: Path) -> list[os.stat_result]:
    """The status of a folder and of everything in it, except for what other processes are just removing."""
    below = (Path(place, name) for place, folders, files in os.walk(top) for name in (*folders, *files))
    return [status for path in (top, *below) if (status := _status(path))]


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # just removed
        return None


def _publish(fresh: Path, kept: Path) -> None:
    try:
        fresh.rename(kept)
    except OSError:  # another process was first
        if not kept.exists():
            raise
        shutil.rmtree(fresh)
