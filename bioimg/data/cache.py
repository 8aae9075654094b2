"""What is worth keeping between two starts: decoded pixels and downloads, in a folder of the user's.

`BIOIMG_CACHE` names another folder; on a cluster it must be one that all machines share. All of it can be deleted at any time.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

from bioimg.config import UserError


def folder() -> Path:
    """Where everything is kept."""
    return Path(os.environ.get("BIOIMG_CACHE") or platformdirs.user_cache_path("bioimg"))


def key(*content: object) -> str:
    """Twenty hex digits of what an entry is made from."""
    return hashlib.sha256(repr(content).encode("utf-8", "surrogateescape")).hexdigest()[:20]


def entry(name: str, write: Callable[[Path], None]) -> Path:
    """The folder of one entry. `write` fills it if it isn't there; whoever looks sees a whole entry or none.

    Raises:
        UserError: it can't be written.
    """
    kept = folder() / name
    if kept.exists():
        return kept
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".", ignore_cleanup_errors=True) as temporary:
            fresh = Path(temporary) / "entry"
            fresh.mkdir()
            write(fresh)
            _publish(fresh, kept)
    except OSError as error:
        raise UserError(
            f"the cache folder {folder()} can't be written: {error.strerror or error}. Make room there, "
            "or name another folder with the environment variable BIOIMG_CACHE."
        ) from error
    return kept


def _publish(fresh: Path, kept: Path) -> None:
    try:
        fresh.rename(kept)
    except OSError:  # another process was first
        if not kept.exists():
            raise
        shutil.rmtree(fresh)
