"""Files on a disk that are written whole or not at all."""

import contextlib
import os
import socket
from pathlib import Path

import psutil

TEMPORARY_SUFFIX = ".partial"


def atomic_write(path: Path, content: bytes | memoryview, *, flush: bool = True) -> None:
    """Write a file under a temporary name, then rename it, which is atomic, on NFS too.

    Without `flush` a power failure may leave the file damaged. That is for content that has a
    checksum and can be made again.

    Raises:
        OSError: The file can't be written. An earlier file of that name is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{_process_name()}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if flush:
        _flush_folder(path.parent)


def delete_stale_temporaries(folder: Path) -> None:
    """Delete the temporary files that killed processes left, at any depth.

    Files of processes that are alive on this host stay. A process of another host that is writing
    a file at this moment gets an error.
    """
    for temporary in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        if not _is_being_written(temporary):
            temporary.unlink(missing_ok=True)


def _process_name() -> str:
    return f"{socket.gethostname()}.{os.getpid()}"


def _is_being_written(temporary: Path) -> bool:
    """Check whether a living process of this host writes a temporary file."""
    pid = temporary.stem.rpartition(".")[2]
    is_local = temporary.stem.endswith(f".{socket.gethostname()}.{pid}")
    return is_local and psutil.pid_exists(int(pid))


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power failure. Windows can't open a folder, and needs no flush."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
