"""Locks that end with their process, however it ends.

On POSIX they are those of `fcntl`. Windows has no such module, so `filelock` locks there. Its locks
are never shared: the first user of a file holds the lock for all, and Windows itself refuses to
remove what others have open.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import filelock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_shared_locks: dict[Path, int | filelock.BaseFileLock] = {}


def share_until_exit(path: Path) -> None:
    """Hold a shared lock of a file until this process ends. Wait while another process locks it.

    Raises:
        OSError: The file can't be opened for writing.
    """
    if path in _shared_locks:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if fcntl:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        _shared_locks[path] = descriptor
    else:
        lock = filelock.FileLock(path)
        with contextlib.suppress(filelock.Timeout):  # another process uses the file, too
            lock.acquire(timeout=0)
        _shared_locks[path] = lock


@contextlib.contextmanager
def lock_if_unused(path: Path) -> Iterator[bool]:
    """Lock a file unless a process shares or locks it. Yield whether it is locked.

    This process's own shared lock counts, too. The file stays, since another process could be
    waiting for the lock of a deleted file.

    Raises:
        OSError: The file can't be opened for writing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if fcntl:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            yield _flock_now(descriptor)
        finally:
            os.close(descriptor)
    else:
        with _file_lock(path, wait=False) as is_locked:
            yield is_locked


@contextlib.contextmanager
def lock_slot(path: Path, slot: int, *, wait: bool) -> Iterator[bool]:
    """Lock one of very many slots of a file. Yield whether it is locked, as always after waiting.

    One file serves any number of slots, since on POSIX each is the lock of one byte.

    Raises:
        OSError: The file can't be opened for writing.
    """
    if not fcntl:
        with _file_lock(path.with_name(f"{path.name}.{slot:x}"), wait=wait) as is_locked:
            yield is_locked
        return
    with path.open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, slot)
        except (BlockingIOError, PermissionError):
            yield False
        else:
            yield True


def _flock_now(descriptor: int) -> bool:
    assert fcntl
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _file_lock(path: Path, *, wait: bool) -> Iterator[bool]:
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
