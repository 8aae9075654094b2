"""Features of a frozen backbone, computed once for each image and view and kept on disk.

All trials, epochs, seeds and folds use the same ones. Dihedral augmentation has 8 outcomes, so 8
views hold everything that the head would see without a cache.

Features are cached in blocks of images. A process that needs a missing block locks and computes it,
while others compute other blocks, so that lanes share the work.
"""

import contextlib
import gc
import math
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xxhash

from bioimg.errors import CorruptFileError
from bioimg.storage import checksums, disk_cache
from bioimg.storage.atomic_write import atomic_write
from bioimg.storage.process_lock import lock_slot
from bioimg.training.batches import Batch
from bioimg.training.device_memory import fits_on_device, to_device
from bioimg.training.evaluation import BatchFunction, gather_outputs

FIRST_REPORT_S = 10.0
REPORT_INTERVAL_S = 300.0
"""Seconds after which progress is reported for the first time, and again."""
FEATURES_VERSION = 6
"""Version of the cache. Raise it when the values of features or the files change."""
BLOCK_IMAGES = 128
ReportProgress = Callable[[float, float], None]
"""Take the share of features that there are, and the seconds that the others will take."""
_SECONDS = struct.Struct("<d")
"""What the file of a block begins with: how long it took to compute."""


class FeatureBlock(NamedTuple):
    """Some images, int64 [n], in one view."""

    view: int
    indices: np.ndarray

    @property
    def key(self) -> int:
        """A hash of 62 bits of the images and the view."""
        return xxhash.xxh3_64_intdigest(self.indices.astype("<i8").tobytes(), seed=self.view) >> 2


class FeatureCache:
    """The input source of a head: its inputs for each image and view, [views, images, width].

    They are filled as needed and stay on the device if they fit. `dtype` is the type in which the
    head computes: autocast would round to it anyway.
    """

    def __init__(
        self,
        key: str,
        *,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        image_size: int,
        device: torch.device,
        description: str,
    ) -> None:
        self._folder = disk_cache.acquire_entry(f"features/{key}")
        self._image_size = image_size
        self._device = device
        size = math.prod(shape) * dtype.itemsize
        values_device = device if fits_on_device(size, device) else "cpu"
        self._values = torch.empty(shape, dtype=dtype, device=values_device)
        self._block_seconds: dict[int, float] = {}
        self._create_entry(description)

    def load_batch(self, batch: Batch) -> torch.Tensor:
        """Return [B, width] on the device."""
        indices, views = batch.on_device(self._values.device)
        rows = views * self._values.shape[1] + indices
        chosen = self._values.flatten(0, 1).index_select(0, rows)
        return to_device(chosen, self._device)

    def compute_missing(
        self,
        make_backbone: Callable[[], BatchFunction],
        indices_by_view: Mapping[int, np.ndarray],
        report_progress: ReportProgress,
    ) -> None:
        """Load the features of these images in each view; compute those that aren't cached.

        Args:
            make_backbone: called if any must be computed.
            indices_by_view: int64 [n] for each view.
            report_progress: called now and then, in one of the processes that share the work.

        Raises:
            UserError: the cache can't be written.
        """
        blocks = _list_blocks(indices_by_view)
        missing = [block for block in blocks if not self._load_block(block)]
        if not missing:
            return
        compute = make_backbone()
        progress = _Progress(len(blocks), len(missing))
        locked_elsewhere = []
        with self._lock("reporter", 0, wait=False) as is_reporter:
            for block in missing:
                if not self._try_fill_block(block, compute, wait=False):
                    locked_elsewhere.append(block)
                if is_reporter and progress.is_due:
                    progress.report(self._count_missing(missing), report_progress)
        # by now other processes have computed these blocks, or died over them
        for block in locked_elsewhere:
            self._try_fill_block(block, compute, wait=True)
        # a traced backbone refers to itself, and would keep its copy of the weights on the device
        del compute
        gc.collect()
        disk_cache.evict_entries()

    def compute_seconds(self, indices_by_view: Mapping[int, np.ndarray]) -> float:
        """Return how long it took to compute these features, whichever process has done it."""
        return sum(self._block_seconds[block.key] for block in _list_blocks(indices_by_view))

    def _create_entry(self, description: str) -> None:
        with disk_cache.explain_write_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            file = self._folder / disk_cache.DESCRIPTION_FILE
            if not file.exists():
                atomic_write(file, description.encode(), flush=False)

    def _try_fill_block(self, block: FeatureBlock, compute: BatchFunction, *, wait: bool) -> bool:
        """Load or compute a block. Return False if another process holds its lock."""
        with self._lock("lock", block.key, wait=wait) as locked:
            # another process may have written the block before this one had the lock
            if locked and not self._load_block(block):
                started = time.perf_counter()
                values = self._compute_block(block, compute).cpu()
                self._write_block(block, values, time.perf_counter() - started)
                self._load_block(block)
            return locked

    def _compute_block(self, block: FeatureBlock, compute: BatchFunction) -> torch.Tensor:
        return gather_outputs(
            compute,
            block.indices,
            view=block.view,
            image_size=self._image_size,
            width=self._values.shape[2],
            device=self._device,
        )

    @contextlib.contextmanager
    def _lock(self, name: str, slot: int, *, wait: bool) -> Iterator[bool]:
        """Lock a slot of a file of the entry. Yield False if another process holds the lock."""
        with contextlib.ExitStack() as stack:
            with disk_cache.explain_write_errors():
                lock = lock_slot(self._folder / name, slot, wait=wait)
                locked = stack.enter_context(lock)
            yield locked

    def _write_block(self, block: FeatureBlock, values: torch.Tensor, seconds: float) -> None:
        content = values.to(self._values.dtype).view(torch.uint8).numpy().tobytes()
        sealed = checksums.seal(_SECONDS.pack(seconds) + content)
        with disk_cache.explain_write_errors():
            atomic_write(self._block_file(block), sealed, flush=False)

    def _load_block(self, block: FeatureBlock) -> bool:
        """Load a block from disk unless it is loaded. Return False if it is missing or damaged."""
        if block.key in self._block_seconds:
            return True
        try:
            content = checksums.unseal(self._block_file(block).read_bytes())
        except (FileNotFoundError, CorruptFileError):
            return False
        (seconds,) = _SECONDS.unpack_from(content)
        values = torch.frombuffer(
            bytearray(content), dtype=self._values.dtype, offset=_SECONDS.size
        )
        rows = values.reshape(len(block.indices), -1).to(self._values.device)
        self._values[block.view, torch.from_numpy(block.indices)] = rows
        self._block_seconds[block.key] = seconds
        return True

    def _count_missing(self, blocks: list[FeatureBlock]) -> int:
        """Return how many blocks no process has computed yet."""
        computed = set(self._folder.iterdir())
        return sum(self._block_file(block) not in computed for block in blocks)

    def _block_file(self, block: FeatureBlock) -> Path:
        return self._folder / f"{block.view}-{block.key:016x}"


class _Progress:
    """How fast missing blocks are computed, by all processes together."""

    def __init__(self, blocks: int, missing: int) -> None:
        self._blocks = blocks
        self._missing_at_start = missing
        self._started = time.monotonic()
        self._next_report = self._started + FIRST_REPORT_S

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._next_report

    def report(self, missing: int, report_progress: ReportProgress) -> None:
        """Report the share that is there, and the time that the `missing` blocks will take."""
        now = time.monotonic()
        self._next_report = now + REPORT_INTERVAL_S
        computed = self._missing_at_start - missing
        if computed > 0:
            seconds_left = missing * (now - self._started) / computed
            report_progress(1 - missing / self._blocks, seconds_left)


_feature_caches: dict[object, FeatureCache] = {}


def get_feature_cache(key: str, views: int, make: Callable[[], FeatureCache]) -> FeatureCache:
    """Return the feature cache with this key: this process's own if it holds it, else a new one.

    A process keeps one cache from trial to trial, until another is needed.
    """
    process_key = (disk_cache.cache_folder(), key, views)
    if process_key not in _feature_caches:
        release_feature_caches()
        _feature_caches[process_key] = make()
    return _feature_caches[process_key]


def release_feature_caches() -> None:
    """Free the memory of this process's features, which fine-tuning needs more."""
    _feature_caches.clear()


def _list_blocks(indices_by_view: Mapping[int, np.ndarray]) -> list[FeatureBlock]:
    blocks = []
    for view, indices in indices_by_view.items():
        for start in range(0, len(indices), BLOCK_IMAGES):
            blocks.append(FeatureBlock(view, indices[start : start + BLOCK_IMAGES]))
    return blocks
