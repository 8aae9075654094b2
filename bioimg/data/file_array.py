"""Pixels that stay on disk, for sets larger than memory."""

import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil

from bioimg.errors import UserError

MAX_MEMORY_SHARE = 0.25
"""Share of the available memory that a set may take.

There are two copies of it on its way to the workers, and models need room.
"""
CGROUP_FOLDER = Path("/sys/fs/cgroup")
CGROUP_FILES = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
"""Files of the memory limit and of the memory in use, in control groups of version 2 and 1."""


class PixelArray(Protocol):
    """What an array and `FileArray` have in common."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Any: ...


class FileArray:
    """An array [N, ...] in a file. Each access reads the requested rows and nothing else.

    Unlike with `np.memmap`, rows that were read don't count as resident memory of the process, and
    a limit on its address space doesn't matter. Pickling stores the file's name, so that every
    process reads the file itself.
    """

    def __init__(self, file: Path, shape: tuple[int, ...], dtype: str) -> None:
        self.file = Path(file)
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        try:
            self._open_file = self.file.open("rb", buffering=0)
        except OSError as error:
            raise UserError(
                f"the decoded images in {self.file} can't be opened here: {error.strerror}. They "
                "are too large to be sent to other machines. Set the environment variable "
                "BIOIMG_CACHE to a folder that all machines share."
            ) from error
        # threads share the position in the file
        self._position_lock = threading.Lock()
        weakref.finalize(self, self._open_file.close)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read rows by number, numbers, slice or mask, as from an array."""
        numbers = np.arange(len(self))[index]
        rows = np.empty((numbers.size, *self.shape[1:]), self.dtype)
        for position, number in enumerate(numbers.ravel().tolist()):
            self._read_row(number, rows[position : position + 1])
        return rows.reshape(*numbers.shape, *self.shape[1:])

    def __reduce__(self) -> tuple[Any, ...]:
        return FileArray, (self.file, self.shape, self.dtype.str)

    def close(self) -> None:
        """Close the file, which Windows requires before it is replaced."""
        self._open_file.close()

    def _read_row(self, number: int, target: np.ndarray) -> None:
        with self._position_lock:
            self._open_file.seek(number * target.nbytes)
            byte_count = self._open_file.readinto(target.data)
        if byte_count != target.nbytes:
            raise OSError(f"{self.file} is truncated")


class JoinedRows:
    """Some rows of one or several arrays, one after the other, none of which is copied.

    Each part is an array [M, ...], and which rows of it count: int64 [m].
    """

    def __init__(self, *parts: tuple[PixelArray, np.ndarray]) -> None:
        self._arrays = [array for array, _ in parts]
        self._rows = np.concatenate([rows for _, rows in parts])
        self._part_by_row = np.repeat(np.arange(len(parts)), [len(rows) for _, rows in parts])
        self.shape = (len(self._rows), *self._arrays[0].shape[1:])
        self.dtype = np.result_type(*(array.dtype for array in self._arrays))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read rows by numbers, slice or mask, as from an array."""
        rows, parts = self._rows[index], self._part_by_row[index]
        content = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for number, array in enumerate(self._arrays):
            is_here = parts == number
            content[is_here] = array[rows[is_here]]
        return content


def open_array(file: Path, shape: tuple[int, ...], dtype: str) -> PixelArray:
    """Open the array in a file: in memory if it takes at most a quarter of it, else on disk."""
    array = FileArray(file, shape, dtype)
    if array.nbytes > MAX_MEMORY_SHARE * available_memory():
        return array
    return np.fromfile(file, dtype).reshape(shape)


def available_memory() -> int:
    """Return the bytes that this process can still allocate.

    The machine, the container and the process itself may limit them.
    """
    limits = [
        psutil.virtual_memory().available,
        *_free_container_memory(),
        *_free_process_memory(),
    ]
    return max(0, min(limits))


def _free_container_memory() -> Iterator[int]:
    for limit, in_use in CGROUP_FILES:
        try:
            limit_bytes = int((CGROUP_FOLDER / limit).read_text())
            used_bytes = int((CGROUP_FOLDER / in_use).read_text())
        except (OSError, ValueError):
            # no such control group, or "max", which is no limit
            continue
        yield limit_bytes - used_bytes


def _free_process_memory() -> Iterator[int]:
    if sys.platform != "linux":
        # elsewhere psutil doesn't know the limits of processes
        return
    process = psutil.Process()
    memory = process.memory_info()
    for limit, used_bytes in ((psutil.RLIMIT_DATA, memory.rss), (psutil.RLIMIT_AS, memory.vms)):
        soft_limit, _ = process.rlimit(limit)
        if soft_limit != psutil.RLIM_INFINITY:
            yield soft_limit - used_bytes
