"""The command `bioimg export`. Most imports happen when it runs, so that its help is instant."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from rich.progress import Progress as Bar
from tyro.conf import Positional, arg

from bioimg.prediction.kept_trial import format_trial, select_trial_key
from bioimg.progress.console import print_plain
from bioimg.report.open_results import open_results


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Write the best model of an experiment for use elsewhere, with a model card."""

    folder: Annotated[str, Positional, arg(metavar="RESULTS")]
    """Results folder, such as results/grid or s3://bucket/grid"""
    to: tuple[Literal["qupath", "onnx", "folder"], ...] = ("folder",)
    """Formats: qupath (for its WSInfer extension), onnx (one file for ONNX Runtime; needs
    bioimg[onnx]), folder (for timm or PyTorch). Each is written, read again, and must predict what
    `bioimg predict` does on 16 images of the experiment"""
    key: str | None = None
    """Key of another completed trial; by default the one in the report's headline"""
    out: Path = Path("export")
    """Folder in which a folder for the model is made; an existing one isn't overwritten"""
    um_per_pixel: float | None = None
    """Micrometres per pixel of the training images as stored, before resizing; QuPath needs it"""
    licence_read: bool = False
    """Export even if the licence of the pretrained weights forbids passing on the model"""

    def run(self) -> int:
        """Write the folder. Return 0.

        Raises:
            UserError: the model can't be exported like this, or its folder exists.
        """
        from bioimg.export.export_trial import ExportOptions, export_trial

        results = open_results(self.folder)
        key = select_trial_key(results, self.key)
        options = ExportOptions(
            formats=self.to,
            out=self.out,
            um_per_pixel=self.um_per_pixel,
            licence_read=self.licence_read,
        )
        with Bar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("reading images", total=None)

            def show_progress(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            target = export_trial(results, self.folder, key, options, show_progress)
        console = Console()
        print_plain(console, f"Exported trial {key} as {', '.join(self.to)} to {target}.")
        print_plain(console, f"Its recipe: {format_trial(results, key)}")
        print_plain(console, f"Read first: {target / 'README.md'}")
        return 0
