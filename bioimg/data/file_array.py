"""Pixels that stay on disk: sets larger than memory."""

import os
import resource
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil

from bioimg.errors import UserError

MAX_MEMORY_SHARE = 0.25
"""Share of the available memory that a set may take: it is there twice on its way to the workers, and models need room."""
CGROUP_FOLDER = Path("/sys/fs/cgroup")


class PixelArray(Protocol):
    """What an array and `FilePixels` have in common."""

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

    Not a `np.memmap`: rows read are not added to the process's resident memory, a limit on address space does not matter,
    and pickling sends the file's name, so that every process reads the file itself.
    """

    def __init__(self, file: Path, shape: tuple[int, ...], dtype: str) -> None:
        self.file, self.shape, self.dtype = Path(file), tuple(shape), np.dtype(dtype)
        try:
            self._descriptor = os.open(self.file, os.O_RDONLY)
        except OSError as error:
            raise UserError(
                f"the decoded images in {self.file} can't be opened here: {error.strerror}. They are too large to be sent "
                "to other machines; set the environment variable BIOIMG_CACHE to a folder that all machines share."
            ) from error
        weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __getitem__(self, index: Any) -> np.ndarray:
        """Rows by number, numbers, slice or mask, as from an array."""
        rows = np.arange(len(self))[index]
        picked = np.empty((rows.size, *self.shape[1:]), self.dtype)
        size = picked[:1].nbytes or self.nbytes
        for place, row in enumerate(rows.ravel().tolist()):
            if os.preadv(self._descriptor, [picked[place]], row * size) != size:
                raise OSError(f"{self.file} is truncated")
        return picked.reshape(*rows.shape, *self.shape[1:])

    def __reduce__(self) -> tuple[Any, ...]:
        return FileArray, (self.file, self.shape, self.dtype.str)


def open_array(file: Path, shape: tuple[int, ...], dtype: str) -> PixelArray:
    """The array in a file: in memory if it takes at most a quarter of what is available, else left on disk."""
    on_disk = FileArray(file, shape, dtype)
    return (
        np.fromfile(file, dtype).reshape(shape)
        if on_disk.nbytes <= MAX_MEMORY_SHARE * available_memory()
        else on_disk
    )


def available_memory() -> int:
    """Bytes that this process can still allocate: of the machine, and within the limits of the process and its container."""
    used = psutil.Process().memory_info()
    data, address_space = (
        resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_DATA, resource.RLIMIT_AS)
    )
    limits = [psutil.virtual_memory().available, *_free_container_memory()]
    limits += [data - used.rss] if data != resource.RLIM_INFINITY else []
    limits += [address_space - used.vms] if address_space != resource.RLIM_INFINITY else []
    return max(0, min(limits))


def _free_container_memory() -> Iterator[int]:
    for limit, current in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            yield int((CGROUP_FOLDER / limit).read_text()) - int(
                (CGROUP_FOLDER / current).read_text()
            )
        except (OSError, ValueError):  # no such controller, or "max": no limit
            continue
