"""The command `bioimg doctor`. Ray is imported when it runs, so that its help is instant."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from bioimg.config import DatasetConfig
from bioimg.progress.console import print_plain

if TYPE_CHECKING:
    from bioimg.diagnostics.diagnosis import CheckResult


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check every node of a cluster before money is spent. Each line says ok, or what is wrong and how to fix it."""

    address: str | None = None
    """HOST:PORT of the cluster's head; by default the cluster that this machine is part of, or this machine alone"""
    out: str = "results"
    """results folder: every node must see it and be able to write to it"""
    data: str = "phantom"
    """images of the trials, as in grid.py: each node needs room for them in Ray's object store
    or, if they are too large for that, must see the folder of decoded images"""
    image_size: int = 150
    """side length of images after resizing, in pixels"""
    model: tuple[str, ...] = ("resnext50_32x4d",)
    """models of the trials"""
    weights: tuple[str, ...] = ()
    """weights of the trials: names as in grid.py, or files. Each node must have them or be able to download them"""
    workers: int = 1
    """workers per trial: with more than one, an all-reduce across nodes is tested, as in DDP"""
    gpu: bool = False
    """require a GPU on every worker node (the head of a cluster needs none)"""

    def run(self) -> int:
        """Ask every node and print the verdicts. Returns the exit code: 0, or 1 if anything is wrong.

        Raises:
            UserError: no such cluster, or it doesn't let this machine in; or no such images, model or weights.
        """
        needs, weights = self._decoded_bytes(), self._weights_locations()
        kept = _shared_cache_folder(needs)
        from bioimg.diagnostics import run_checks

        run_checks.join_or_start_ray(self.address)
        out = run_checks.folder_uri(self.out)
        lines = run_checks.run_all_checks(
            out,
            weights,
            self.workers,
            self.gpu,
            0 if kept else needs,
            run_checks.folder_uri(kept) if kept else None,
        )
        return print_check_results(lines, Console())

    def _decoded_bytes(self) -> int:
        """Bytes of the images when they are decoded: three channels of one byte. The phantom is small."""
        if self.data == "phantom":
            return 0
        from bioimg.data.sources import list_images

        image_count = len(list_images(DatasetConfig(data=self.data)))
        return image_count * self.image_size**2 * 3

    def _weights_locations(self) -> tuple[str, ...]:
        """Where weights are: a URL for a name, else the file itself, which only the nodes need to see."""
        from bioimg.models import pretrained_weights

        files = tuple(
            name for name in self.weights if name.endswith(pretrained_weights.WEIGHTS_FILE_SUFFIXES)
        )
        names = [name for name in self.weights if name not in files]
        entries = [
            pretrained_weights.weights_entry(model, name) for model in self.model for name in names
        ]
        return files + tuple(entry.url for entry in entries if entry)


def _shared_cache_folder(needs: int) -> str | None:
    """The folder for so many bytes of decoded images; None if they are sent to the nodes in memory.

    Raises:
        UserError: it can't be written.
    """
    from bioimg.data.file_array import MAX_MEMORY_SHARE, available_memory
    from bioimg.storage import disk_cache

    if needs <= MAX_MEMORY_SHARE * available_memory():
        return None
    with disk_cache.explain_write_errors():
        disk_cache.cache_folder().mkdir(parents=True, exist_ok=True)
    return str(disk_cache.cache_folder())


def print_check_results(lines: "list[CheckResult]", console: Console) -> int:
    """Print verdicts. Returns the exit code."""
    for line in lines:
        text = f"{'wrong' if line.problem else 'ok':6}{line.check:17}{line.node}{': ' + line.problem if line.problem else ''}"
        print_plain(console, text, style="red" if line.problem else None)
    return int(any(line.problem for line in lines))
