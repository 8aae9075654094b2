"""A frozen backbone is run once for each image and view, however many trials, epochs, seeds and folds use it.

Dihedral augmentation has 8 outcomes, so 8 views cover it: the head trains on what it would see anyway.

Features are cached in blocks: the same images in the same order, whichever process computes them. A process that needs a
missing block locks and computes it, while others compute other blocks, so that lanes share the work.
"""

import contextlib
import fcntl
import gc
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xxhash

from bioimg.data import cache
from bioimg.results.folder import replace
from bioimg.training.batches import Batch, fits, sent
from bioimg.training.evaluate import outputs

VERSION = 4
"""Of the computation: to be raised when the values of features change."""
BLOCK = 128
DIGEST = xxhash.xxh3_128().digest_size

Compute = Callable[[Batch], torch.Tensor]


class Block(NamedTuple):
    """Some images, int64 [n], in one view."""

    view: int
    indices: np.ndarray

    @property
    def content(self) -> int:
        """A hash of 62 bits of the images and the view."""
        return xxhash.xxh3_64_intdigest(self.indices.astype("<i8").tobytes(), seed=self.view) >> 2


class Features:
    """The head's inputs for each image and view: [views, images, width], filled as needed. On the device, if they fit.

    `dtype` is the type in which the head computes: autocast would round to it anyway.
    """

    def __init__(
        self, key: str, *, shape: tuple[int, int, int], dtype: torch.dtype, image_size: int, device: torch.device, about: str
    ) -> None:
        self._folder, self._image_size = cache.use(f"features/{key}"), image_size
        self._device, size = device, math.prod(shape) * dtype.itemsize
        self._values = torch.empty(shape, dtype=dtype, device=device if fits(size, device) else "cpu")
        self._known: set[int] = set()
        with cache.writing():
            self._folder.mkdir(parents=True, exist_ok=True)
            if not (self._folder / cache.ABOUT).exists():
                replace(self._folder / cache.ABOUT, about.encode(), flush=False)

    def prepare(self, backbone: Callable[[], Compute], wanted: dict[int, np.ndarray]) -> None:
        """Provide the features of the images `wanted` in each view. `backbone` is called if any must be computed.

        Raises:
            UserError: the cache can't be written.
        """
        missing = [block for block in _blocks(wanted) if block.content not in self._known and not self._read(block)]
        if not missing:
            return
        compute = backbone()
        for wait in (False, True):  # first blocks that nobody computes, then those that others have finished or died over
            missing = [block for block in missing if not self._fill(block, compute, wait)]
        del compute
        gc.collect()  # a traced backbone refers to itself, and would keep its copy of the weights on the device
        cache.trim()

    def __call__(self, batch: Batch) -> torch.Tensor:
        """[B, width] on the device."""
        rows = batch.views * self._values.shape[1] + batch.indices
        return sent(self._values.flatten(0, 1).index_select(0, sent(rows, self._values.device)), self._device)

    def _fill(self, block: Block, compute: Compute, wait: bool) -> bool:
        with self._locked(block, wait) as mine:
            if mine and not self._read(block):
                self._write(block, self._computed(block, compute))
                self._read(block)
            return mine

    def _computed(self, block: Block, compute: Compute) -> torch.Tensor:
        width = self._values.shape[2]
        return outputs(compute, block.indices, view=block.view, image_size=self._image_size, width=width, device=self._device)

    @contextlib.contextmanager
    def _locked(self, block: Block, wait: bool) -> Iterator[bool]:
        """Lock one byte of a file for each block; the system frees it when the process dies. Yields whether it is locked."""
        with cache.writing():
            lock = (self._folder / "lock").open("a")
        with lock as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, block.content)
            except (BlockingIOError, PermissionError):
                yield False
            else:
                yield True

    def _write(self, block: Block, values: torch.Tensor) -> None:
        content = values.to(self._values.dtype).cpu().view(torch.uint8).numpy().tobytes()
        with cache.writing():
            replace(self._file(block), xxhash.xxh3_128_digest(content) + content, flush=False)

    def _read(self, block: Block) -> bool:
        """Read a block from the cache. Returns whether it was there and undamaged."""
        try:
            content = memoryview(self._file(block).read_bytes())
        except FileNotFoundError:
            return False
        if xxhash.xxh3_128_digest(content[DIGEST:]) != content[:DIGEST]:
            return False
        values = torch.frombuffer(bytearray(content[DIGEST:]), dtype=self._values.dtype).reshape(len(block.indices), -1)
        self._values[block.view, torch.from_numpy(block.indices)] = values.to(self._values.device)
        self._known.add(block.content)
        return True

    def _file(self, block: Block) -> Path:
        return self._folder / f"{block.view}-{block.content:016x}"


_held: dict[object, Features] = {}


def held(key: str, views: int, make: Callable[[str], Features]) -> Features:
    """The features of this process under a key: kept from trial to trial, until others are needed."""
    which = (cache.folder(), key, views)
    if which not in _held:
        _held.clear()
        _held[which] = make(key)
    return _held[which]


def forget() -> None:
    """Give back the memory of this process's features: fine-tuning needs it more."""
    _held.clear()


def _blocks(wanted: dict[int, np.ndarray]) -> list[Block]:
    return [
        Block(view, indices[start : start + BLOCK])
        for view, indices in wanted.items()
        for start in range(0, len(indices), BLOCK)
    ]
