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

from bioimg.storage import disk_cache
from bioimg.storage.filesystem import write_atomically
from bioimg.training.batches import Batch, fits_on_device, to_device
from bioimg.training.evaluation import gather_outputs

FEATURES_VERSION = 4
"""Of the computation: to be raised when the values of features change."""
BLOCK_IMAGES = 128
DIGEST_BYTES = xxhash.xxh3_128().digest_size

BatchFunction = Callable[[Batch], torch.Tensor]


class FeatureBlock(NamedTuple):
    """Some images, int64 [n], in one view."""

    view: int
    indices: np.ndarray

    @property
    def key(self) -> int:
        """A hash of 62 bits of the images and the view."""
        return xxhash.xxh3_64_intdigest(self.indices.astype("<i8").tobytes(), seed=self.view) >> 2


class FeatureCache:
    """The head's inputs for each image and view: [views, images, width], filled as needed. On the device, if they fit.

    `dtype` is the type in which the head computes: autocast would round to it anyway.
    """

    def __init__(
        self,
        key: str,
        *,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        image_size: int,
        device: torch.device,
        about: str,
    ) -> None:
        self._folder, self._image_size = disk_cache.acquire_entry(f"features/{key}"), image_size
        self._device, size = device, math.prod(shape) * dtype.itemsize
        self._values = torch.empty(
            shape, dtype=dtype, device=device if fits_on_device(size, device) else "cpu"
        )
        self._loaded_keys: set[int] = set()
        with disk_cache.explain_write_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            if not (self._folder / disk_cache.DESCRIPTION_FILE).exists():
                write_atomically(
                    self._folder / disk_cache.DESCRIPTION_FILE, about.encode(), flush=False
                )

    def compute_missing(
        self, backbone: Callable[[], BatchFunction], wanted: dict[int, np.ndarray]
    ) -> None:
        """Provide the features of the images `wanted` in each view. `backbone` is called if any must be computed.

        Raises:
            UserError: the cache can't be written.
        """
        missing = [
            block
            for block in _list_blocks(wanted)
            if block.key not in self._loaded_keys and not self._read_block(block)
        ]
        if not missing:
            return
        compute = backbone()
        for wait in (
            False,
            True,
        ):  # first blocks that nobody computes, then those that others have finished or died over
            missing = [block for block in missing if not self._try_fill_block(block, compute, wait)]
        del compute
        gc.collect()  # a traced backbone refers to itself, and would keep its copy of the weights on the device
        disk_cache.evict_entries()

    def __call__(self, batch: Batch) -> torch.Tensor:
        """[B, width] on the device."""
        rows = batch.views * self._values.shape[1] + batch.indices
        return to_device(
            self._values.flatten(0, 1).index_select(0, to_device(rows, self._values.device)),
            self._device,
        )

    def _try_fill_block(self, block: FeatureBlock, compute: BatchFunction, wait: bool) -> bool:
        with self._block_lock(block, wait) as mine:
            if mine and not self._read_block(block):
                self._write_block(block, self._compute_block(block, compute))
                self._read_block(block)
            return mine

    def _compute_block(self, block: FeatureBlock, compute: BatchFunction) -> torch.Tensor:
        width = self._values.shape[2]
        return gather_outputs(
            compute,
            block.indices,
            view=block.view,
            image_size=self._image_size,
            width=width,
            device=self._device,
        )

    @contextlib.contextmanager
    def _block_lock(self, block: FeatureBlock, wait: bool) -> Iterator[bool]:
        """Lock one byte of a file for each block; the system frees it when the process dies. Yields whether it is locked."""
        with disk_cache.explain_write_errors():
            lock = (self._folder / "lock").open("a")
        with lock as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, block.key)
            except (BlockingIOError, PermissionError):
                yield False
            else:
                yield True

    def _write_block(self, block: FeatureBlock, values: torch.Tensor) -> None:
        content = values.to(self._values.dtype).cpu().view(torch.uint8).numpy().tobytes()
        with disk_cache.explain_write_errors():
            write_atomically(
                self._block_file(block), xxhash.xxh3_128_digest(content) + content, flush=False
            )

    def _read_block(self, block: FeatureBlock) -> bool:
        """Read a block from the cache. Returns whether it was there and undamaged."""
        try:
            content = memoryview(self._block_file(block).read_bytes())
        except FileNotFoundError:
            return False
        if xxhash.xxh3_128_digest(content[DIGEST_BYTES:]) != content[:DIGEST_BYTES]:
            return False
        values = torch.frombuffer(
            bytearray(content[DIGEST_BYTES:]), dtype=self._values.dtype
        ).reshape(len(block.indices), -1)
        self._values[block.view, torch.from_numpy(block.indices)] = values.to(self._values.device)
        self._loaded_keys.add(block.key)
        return True

    def _block_file(self, block: FeatureBlock) -> Path:
        return self._folder / f"{block.view}-{block.key:016x}"


_feature_caches: dict[object, FeatureCache] = {}


def get_feature_cache(key: str, views: int, make: Callable[[str], FeatureCache]) -> FeatureCache:
    """The features of this process under a key: kept from trial to trial, until others are needed."""
    which = (disk_cache.cache_folder(), key, views)
    if which not in _feature_caches:
        _feature_caches.clear()
        _feature_caches[which] = make(key)
    return _feature_caches[which]


def release_feature_caches() -> None:
    """Give back the memory of this process's features: fine-tuning needs it more."""
    _feature_caches.clear()


def _list_blocks(wanted: dict[int, np.ndarray]) -> list[FeatureBlock]:
    return [
        FeatureBlock(view, indices[start : start + BLOCK_IMAGES])
        for view, indices in wanted.items()
        for start in range(0, len(indices), BLOCK_IMAGES)
    ]
