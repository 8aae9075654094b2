"""Files of a results folder, on a disk (NFS too) or in an object store, written and read whole.

A reader sees an old file or a new one, never half of one: on a disk by `atomic_write`, and in an
object store since an upload becomes visible when it is complete.
"""

import contextlib
import functools
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from pyarrow import fs

from bioimg.errors import StorageError, UserError
from bioimg.storage.atomic_write import atomic_write

MAX_REQUEST_TRIES = 6
"""Attempts for each request to an object store."""
FIRST_RETRY_PAUSE_S = 0.1
"""Seconds before the second attempt; each later pause is twice as long."""

T = TypeVar("T")
Content = bytes | memoryview


@contextlib.contextmanager
def as_storage_error(path: Path) -> Iterator[None]:
    """Report why a file on a disk can't be written.

    Raises:
        StorageError: An OSError was raised inside.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} can't be written: {error.strerror}. {_free_space_text(path)} Free some space "
            "or check the disk, then run the same command again to resume; finished trials are "
            "saved."
        ) from error


class Storage(Protocol):
    """The files of one folder. Names are relative to it, with `/` between their parts.

    `str` gives the folder's name for messages. Any method raises StorageError if an object store
    can't be reached.
    """

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            FileNotFoundError: There is no such file.
        """
        ...

    def write(self, name: str, content: Content, *, flush: bool = True) -> None:
        """Write or replace a file. For `flush` see `atomic_write`.

        Raises:
            StorageError: The disk is full, or the storage can't be reached.
        """
        ...

    def names(self, folder: str = "") -> list[str]:
        """List all files in a folder at any depth, sorted, without hidden and temporary ones."""
        ...

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None if there is no such file."""
        ...

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of all files that `names` lists, by name."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file, if it exists."""
        ...


def is_remote(location: str | Path) -> bool:
    """Check whether a location is an address (s3://bucket/path, gs://bucket/path), not a path."""
    return re.match(r"[a-z][a-z0-9+.-]+://", str(location)) is not None


def join_path(location: str, name: str) -> str:
    """Return the path or address of a file. The query of an address stays at the end."""
    if not is_remote(location):
        return f"{location.rstrip('/')}/{name}"
    path, mark, query = location.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def open_storage(location: str | Path) -> Storage:
    """Return the storage of a folder, which needn't exist.

    Raises:
        UserError: No storage is known for the address.
    """
    if is_remote(location):
        return ObjectStorage(str(location))
    return LocalStorage(Path(location))


def nearest_existing_path(path: Path) -> Path:
    """Return a path, or the nearest of its parents that exists as far as this user can see."""
    return next(parent for parent in (path, *path.parents) if os.access(parent, os.F_OK))


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
            atomic_write(path, content, flush=flush)

    def names(self, folder: str = "") -> list[str]:
        paths = (self.path / folder).rglob("*")
        files = (path for path in paths if path.is_file() and not path.name.startswith("."))
        return sorted(path.relative_to(self.path).as_posix() for path in files)

    def size(self, name: str) -> int | None:
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def sizes(self, folder: str) -> dict[str, int]:
        return {name: self.size(name) or 0 for name in self.names(folder)}

    def delete(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


class ObjectStorage:
    """A folder of an object store. Failed requests are repeated.

    The repetition is ours: pyarrow takes its own retry strategies (S3) and limits (GCS) only
    without an address, whose many options would then have to be parsed here, store by store.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            self._filesystem, root = fs.FileSystem.from_uri(uri)
        except (ValueError, OSError) as error:
            raise UserError(
                f"the value of `out` is {uri!r}, but must be a path, s3://bucket/path or "
                f"gs://bucket/path: {error}."
            ) from error
        self._root = root.rstrip("/")

    def __str__(self) -> str:
        return self.uri

    def read(self, name: str) -> bytes:
        def request() -> bytes:
            with self._filesystem.open_input_file(self._path(name)) as file:
                return file.read()

        return self._with_retries("read", name, request)

    def write(self, name: str, content: Content, *, flush: bool = True) -> None:
        def request() -> None:
            with self._filesystem.open_output_stream(self._path(name)) as file:
                file.write(content)

        self._with_retries("written", name, request)

    def names(self, folder: str = "") -> list[str]:
        return sorted(self.sizes(folder))

    def sizes(self, folder: str) -> dict[str, int]:
        path = self._path(folder).rstrip("/")
        selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
        request = functools.partial(self._filesystem.get_file_info, selector)
        entries = self._with_retries("listed", folder, request)
        prefix = f"{self._root}/"
        return {entry.path.removeprefix(prefix): entry.size for entry in entries if entry.is_file}

    def size(self, name: str) -> int | None:
        request = functools.partial(self._filesystem.get_file_info, self._path(name))
        entry = self._with_retries("checked", name, request)
        return entry.size if entry.is_file else None

    def delete(self, name: str) -> None:
        request = functools.partial(self._filesystem.delete_file, self._path(name))
        with contextlib.suppress(FileNotFoundError):
            self._with_retries("deleted", name, request)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _with_retries(self, action: str, name: str, request: Callable[[], T]) -> T:
        for attempt in range(1, MAX_REQUEST_TRIES + 1):
            try:
                return request()
            except FileNotFoundError:
                raise
            except OSError as error:
                if attempt == MAX_REQUEST_TRIES:
                    raise StorageError(
                        f"{join_path(self.uri, name)} can't be {action}, tried {attempt} times: "
                        f"{error}. Check the connection to the storage and the credentials, then "
                        "run the same command again to resume."
                    ) from error
                time.sleep(FIRST_RETRY_PAUSE_S * 2 ** (attempt - 1))
        raise AssertionError


def _free_space_text(path: Path) -> str:
    """Say how much space is left where a file would be."""
    parent = nearest_existing_path(path.absolute().parent)
    return f"{shutil.disk_usage(parent).free / 1e6:.1f} MB are free in {parent}."
