"""The command `bioimg doctor`. Ray is imported when it runs, so that its help is instant."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from bioimg.config import DatasetConfig, TrialConfig
from bioimg.progress.console import print_plain

if TYPE_CHECKING:
    from bioimg.diagnostics.diagnosis import CheckResult

DECODED_CHANNELS = 3
"""Bytes of a pixel when images are decoded."""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check every node of a cluster before money is spent.

    Each line says ok, or what is wrong and how to fix it.
    """

    address: str | None = None
    """HOST:PORT of the cluster's head; by default the cluster that this machine is part of, or this
    machine alone"""
    out: str = "results"
    """Results folder: every node must see it and be able to write to it"""
    data: str = "phantom"
    """Images of the trials, as in grid.py: each node needs room for them in Ray's object store
    or, if they are too large for that, must see the folder of decoded images"""
    image_size: int = 150
    """Side length of images after resizing, in pixels"""
    model: tuple[str, ...] = ()
    """Models of the trials, whose weights each node must have or be able to download"""
    weights: tuple[str, ...] = ()
    """Weights of the trials: names as in grid.py, or files; by default those that each MODEL has as
    DEFAULT"""
    workers: int = 1
    """Workers per trial: with more than one, an all-reduce across nodes is tested, as in DDP"""
    gpu: bool = False
    """Require a GPU on every worker node (the head of a cluster needs none)"""

    def run(self) -> int:
        """Ask every node and print the results. Return 0, or 1 if anything is wrong.

        Raises:
            UserError: there is no such cluster, or it doesn't let this machine in. Or there are no
                such images, model or weights.
        """
        image_bytes = self._decoded_bytes()
        weights = self._weights_locations()
        cache_folder = _shared_cache_folder(image_bytes)
        from bioimg.diagnostics import run_checks

        run_checks.join_or_start_ray(self.address)
        results = run_checks.run_all_checks(
            self.out,
            weights=weights,
            workers=self.workers,
            gpus_wanted=self.gpu,
            image_bytes=0 if cache_folder else image_bytes,
            cache_folder=cache_folder,
        )
        return print_check_results(results, Console())

    def _decoded_bytes(self) -> int:
        """Return how many bytes the images take when they are decoded."""
        from bioimg.data.sources import list_images

        images = list_images(DatasetConfig(data=self.data))
        return len(images) * self.image_size**2 * DECODED_CHANNELS

    def _weights_locations(self) -> tuple[str, ...]:
        """Return where weights are: the address behind a name, else the file, which nodes need."""
        from bioimg.models.model_source import find_model_source
        from bioimg.models.pretrained_weights import WEIGHTS_FILE_SUFFIXES

        models = self.model or (TrialConfig().model,)
        weights = self.weights or ("DEFAULT",) * bool(self.model)
        files = [name for name in weights if name.endswith(WEIGHTS_FILE_SUFFIXES)]
        addresses = []
        for model in models:
            source = find_model_source(model)
            for name in weights:
                if name not in (*files, "none"):
                    source.check_weights(name)
                    addresses.append(source.weights_location(name))
        return (*files, *addresses)


def _shared_cache_folder(image_bytes: int) -> str | None:
    """Return the folder for this many bytes of decoded images, or None if nodes receive them.

    Raises:
        UserError: the folder can't be written.
    """
    from bioimg.data.file_array import MAX_MEMORY_SHARE, available_memory
    from bioimg.storage import disk_cache

    if image_bytes <= MAX_MEMORY_SHARE * available_memory():
        return None
    folder = disk_cache.cache_folder()
    with disk_cache.explain_write_errors():
        folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def print_check_results(results: "list[CheckResult]", console: Console) -> int:
    """Print a line for each result. Return 0, or 1 if anything is wrong."""
    for result in results:
        line = f"{'wrong' if result.problem else 'ok':6}{result.check:17}{result.node}"
        texts = [text for text in (result.problem, result.remark) if text]
        if texts:
            line += f": {' '.join(texts)}"
        print_plain(console, line, style="red" if result.problem else None)
    return int(any(result.problem for result in results))
