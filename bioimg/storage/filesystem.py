"""Files of a results folder, on a disk (NFS too) or in an object store: whole files in, whole files out.

A reader sees an old file or a new one, never half of one. On a disk a file is written under a temporary name, flushed and
renamed, which is atomic, on NFS too. In an object store an upload becomes visible at once when it is complete, so there the
name is written directly.
"""

import contextlib
import functools
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import psutil
from pyarrow import fs

from bioimg.errors import StorageError, UserError

MAX_REQUEST_TRIES, FIRST_RETRY_PAUSE_S = 6, 0.1
"""Attempts for each request to an object store, and the first pause between them in seconds, which doubles each time."""

TEMPORARY_SUFFIX = ".partial"

T = TypeVar("T")
Content = bytes | memoryview


@contextlib.contextmanager
def as_storage_error(path: Path) -> Iterator[None]:
    """Report why a file on a disk can't be written.

    Raises:
        Unwritable: it can't be written.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} can't be written: {error.strerror}. {_free_space_text(path)} Free some space or check the disk, then run "
            "the same command again to resume; finished trials are saved."
        ) from error


def write_atomically(path: Path, content: Content, *, flush: bool = True) -> None:
    """Write a file on a disk under a temporary name, then rename it.

    Raises:
        OSError: it can't be written; an earlier file of that name is unchanged.
    """
    temporary = path.with_name(
        f".{path.name}.{socket.gethostname()}.{os.getpid()}{TEMPORARY_SUFFIX}"
    )
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
        _flush_directory(path.parent)


def delete_stale_temporaries(folder: Path) -> None:
    """Remove the temporary files that killed processes left, of any host: all but those of processes that live on this one.

    A process on another host that is writing one at that moment gets an error.
    """
    for temporary in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        *_, pid = temporary.stem.split(".")
        ours = temporary.stem.endswith(f".{socket.gethostname()}.{pid}")
        if not (ours and psutil.pid_exists(int(pid))):
            temporary.unlink(missing_ok=True)


class Storage(Protocol):
    """Names are relative, with `/` between their parts. `str` gives the folder's name for messages."""

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError if there is no such file."""
        ...

    def write(self, name: str, content: Content, *, flush: bool = True) -> None:
        """Replace a file. Without `flush` a power failure may leave it damaged: for what is checked and can be made again.

        Raises:
            Unwritable: the disk is full, or the storage can't be reached.
        """
        ...

    def names(self, under: str = "") -> list[str]:
        """Sorted names of all files below, without temporary ones."""
        ...

    def size(self, name: str) -> int | None:
        """In bytes; None if there is no such file."""
        ...

    def sizes(self, under: str) -> dict[str, int]:
        """Bytes of all files below, by their names."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file; nothing happens if there is none."""
        ...

    def move(self, name: str, to: str) -> None:
        """Rename a file, replacing another."""
        ...


def is_remote(place: str | Path) -> bool:
    """Whether a place is an address (s3://bucket/path, gs://bucket/path) and not a path."""
    return re.match(r"[a-z][a-z0-9+.-]+://", str(place)) is not None


def join_path(place: str, name: str) -> str:
    """The path or address of a name in a place; the query of an address stays at the end."""
    path, mark, query = place.partition("?") if is_remote(place) else (place, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def open_storage(place: str | Path) -> Storage:
    """The folder that a path or an address names; it needn't exist.

    Raises:
        UserError: no storage is known for the address.
    """
    return ObjectStorage(str(place)) if is_remote(place) else LocalStorage(Path(place))


class LocalStorage:
    """A folder on a local or network disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except NotADirectoryError as error:  # the folder is a file
            raise FileNotFoundError(*error.args) from error

    def write(self, name: str, content: Content, *, flush: bool = True) -> None:
        path = self.path / name
        with as_storage_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content, flush=flush)

    def names(self, under: str = "") -> list[str]:
        found = (
            path
            for path in (self.path / under).rglob("*")
            if path.is_file() and not path.name.startswith(".")
        )
        return sorted(path.relative_to(self.path).as_posix() for path in found)

    def size(self, name: str) -> int | None:
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def sizes(self, under: str) -> dict[str, int]:
        return {name: self.size(name) or 0 for name in self.names(under)}

    def delete(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def move(self, name: str, to: str) -> None:
        (self.path / name).replace(self.path / to)


class ObjectStorage:
    """A prefix in an object store. Failed requests are repeated."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            self._filesystem, root = fs.FileSystem.from_uri(uri)
        except (ValueError, OSError) as error:
            raise UserError(
                f"the value of `out` is {uri!r}, but must be a path, s3://bucket/path or gs://bucket/path: {error}."
            ) from error
        self._root = root.rstrip("/")

    def __str__(self) -> str:
        return self.uri

    def read(self, name: str) -> bytes:
        def request() -> bytes:
            with self._filesystem.open_input_file(f"{self._root}/{name}") as file:
                return file.read()

        return self._with_retries("read", name, request)

    def write(self, name: str, content: Content, *, flush: bool = True) -> None:
        def request() -> None:
            with self._filesystem.open_output_stream(f"{self._root}/{name}") as file:
                file.write(content)

        self._with_retries("written", name, request)

    def names(self, under: str = "") -> list[str]:
        return sorted(self.sizes(under))

    def sizes(self, under: str) -> dict[str, int]:
        return {
            entry.path.removeprefix(f"{self._root}/"): entry.size
            for entry in self._list_files(under)
        }

    def size(self, name: str) -> int | None:
        found = self._with_retries(
            "checked", name, lambda: self._filesystem.get_file_info(f"{self._root}/{name}")
        )
        return found.size if found.is_file else None

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._with_retries(
                "deleted", name, lambda: self._filesystem.delete_file(f"{self._root}/{name}")
            )

    def move(self, name: str, to: str) -> None:
        """A copy and a deletion; if interrupted in between, both names hold the file."""
        copy = functools.partial(
            self._filesystem.copy_file, f"{self._root}/{name}", f"{self._root}/{to}"
        )
        self._with_retries("copied", name, copy)
        self.delete(name)

    def _list_files(self, under: str) -> list[fs.FileInfo]:
        chosen = fs.FileSelector(
            f"{self._root}/{under}".rstrip("/"), recursive=True, allow_not_found=True
        )
        found = self._with_retries("listed", under, lambda: self._filesystem.get_file_info(chosen))
        return [entry for entry in found if entry.is_file]

    def _with_retries(self, what: str, name: str, request: Callable[[], T]) -> T:
        for attempt in range(MAX_REQUEST_TRIES):
            try:
                return request()
            except FileNotFoundError:
                raise
            except OSError as error:
                if attempt + 1 == MAX_REQUEST_TRIES:
                    raise StorageError(
                        f"{join_path(self.uri, name)} can't be {what}, tried {MAX_REQUEST_TRIES} times: {error}. Check the connection to the "
                        "storage and the credentials, then run the same command again to resume."
                    ) from error
                time.sleep(FIRST_RETRY_PAUSE_S * 2**attempt)
        raise AssertionError


def nearest_existing_path(path: Path) -> Path:
    """A path, or its nearest parent that exists, where this user can see it."""
    return next(place for place in (path, *path.parents) if os.access(place, os.F_OK))


def _flush_directory(folder: Path) -> None:
    """Make a rename survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_space_text(path: Path) -> str:
    """How much space is left where a file would be."""
    there = nearest_existing_path(path.absolute().parent)
    seen = os.statvfs(there)
    return f"{seen.f_bavail * seen.f_frsize / 1e6:.1f} MB are free in {there}."
