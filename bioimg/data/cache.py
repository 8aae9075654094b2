"""What is worth keeping between two starts: decoded pixels, features, downloads, in a folder of the user's.

`BIOIMG_CACHE` names another folder; on a cluster it must be one that all machines share. All of it can be deleted at any time.
It takes at most half of what the disk has for it, or `BIOIMG_CACHE_GB`: what wasn't used for longest goes first, but nothing
that a process uses.
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
"""Folders whose content are entries; whatever else lies in the cache is one itself."""
LOCKS, ABOUT = "locks", "about.txt"
GB = 10**9
ABANDONED = 24 * 3600
"""Seconds after which what nobody writes to any more was left by a killed process."""

_in_use: dict[Path, int] = {}


class Entry(NamedTuple):
    """One thing that is kept."""

    name: str
    about: str
    bytes: int
    used: datetime.datetime


def folder() -> Path:
    """Where everything is kept."""
    return Path(os.environ.get("BIOIMG_CACHE") or platformdirs.user_cache_path("bioimg"))


def key(*content: object) -> str:
    """Twenty hex digits of what an entry is made from."""
    return hashlib.sha256(repr(content).encode("utf-8", "surrogateescape")).hexdigest()[:20]


def entry(name: str, write: Callable[[Path], object], about: str = "") -> Path:
    """The folder of one entry. `write` fills it if it isn't there; whoever looks sees a whole entry or none.

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
    """Where an entry is, or will be: it counts as used now, and stays for as long as this process lives."""
    kept = folder() / name
    with contextlib.suppress(OSError):  # a folder that can only be read: who may remove entries there is not known
        if kept not in _in_use:
            descriptor = _open_lock(name)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            _in_use[kept] = descriptor
        os.utime(_in_use[kept])
    return kept


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Tell what to do where the folder can't be written.

    Raises:
        UserError: for an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the cache folder {folder()} can't be written: {error.strerror or error}. Make room there, "
            "or name another folder with the environment variable BIOIMG_CACHE."
        ) from error


def entries() -> list[Entry]:
    """Everything that is kept, what wasn't used for longest first."""
    tops = [path for path in _visible(folder()) if path.name != LOCKS]
    places = [place for top in tops for place in (_visible(top) if top.name in KINDS else [top])]
    return sorted(map(_look, places), key=lambda found: found.used)


def trim() -> None:
    """Remove entries until the cache has the size that it may have; and what processes left that were killed while writing."""
    for unfinished in _unfinished():
        shutil.rmtree(unfinished, ignore_errors=True)
    kept = entries()
    excess = sum(one.bytes for one in kept) - limit(sum(one.bytes for one in kept))
    for one in kept:
        if excess > 0 and remove(one.name):
            excess -= one.bytes


def limit(kept: int) -> float:
    """Bytes that the cache may have, given what it has.

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
    """Remove an entry, unless a process uses it; returns whether it is gone."""
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
    """A file that is locked, shared by users and alone by who removes. It is never removed itself, which would be a race."""
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
    return max((status.st_mtime for status in _within(top)), default=math.inf)  # gone meanwhile


def _look(place: Path) -> Entry:
    name, about = place.relative_to(folder()).as_posix(), ""
    with contextlib.suppress(OSError):  # none was given, the entry is one file, or it was removed meanwhile
        about = (place / ABOUT).read_text(encoding="utf-8")
    used = _status(folder() / LOCKS / name.replace("/", "-")) or _status(place)
    moment = datetime.datetime.fromtimestamp(used.st_mtime if used else 0, datetime.UTC)
    return Entry(name, about, sum(status.st_size for status in _within(place)), moment)


def _within(top: Path) -> list[os.stat_result]:
    """What is known of a folder and of all in it, as far as no other process removes it meanwhile."""
    below = (Path(place, name) for place, folders, files in os.walk(top) for name in (*folders, *files))
    return [status for path in (top, *below) if (status := _status(path))]


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # removed meanwhile
        return None


def _publish(fresh: Path, kept: Path) -> None:
    try:
        fresh.rename(kept)
    except OSError:  # another process was first
        if not kept.exists():
            raise
        shutil.rmtree(fresh)
