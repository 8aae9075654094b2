"""The command `bioimg predict`. Most imports happen when it runs, so that its help is instant."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from bioimg.errors import UserError
from bioimg.prediction import format_trial, predict_images, select_trial_key, write_predictions
from bioimg.progress.console import print_plain
from bioimg.report.open_results import open_results


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """Predict the classes of new images, with probabilities, by the best trial of an experiment."""

    folder: Annotated[str, Positional, arg(metavar="RESULTS")]
    """a folder of results, such as results/grid or s3://bucket/grid"""
    images: Annotated[Path, Positional, arg(metavar="IMAGES")]
    """an image, or a folder of images at any depth; they are read like those of the experiment"""
    key: str | None = None
    """key of another completed trial; by default the one in the report's headline"""
    out: Path = Path("predictions.csv")
    """the table to write; an existing file isn't overwritten.
    Columns: path, prediction, the part of the experiment (train, val, test) with the image, if any, and class probabilities"""

    def run(self) -> int:
        """Write the table; returns the exit code: 0, or 1 if an image couldn't be read.

        Raises:
            UserError: the table exists, no such trial, its weights weren't kept, or there are no images that it can use.
        """
        if self.out.exists():
            raise UserError(
                f"the value of `out` is {str(self.out)!r}, which exists. Name another with --out, or remove it."
            )
        results = open_results(self.folder)
        key = select_trial_key(results, self.key)
        table, unreadable = predict_images(self.folder, key, self.images)
        write_predictions(table, self.out)
        counts = ", ".join(
            f"{count} {name}" for name, count in table["prediction"].value_counts().items()
        )
        console = Console()
        print_plain(console, f"Predicted by trial {key}: {counts}. Written to {self.out}.")
        print_plain(console, f"Its recipe: {format_trial(results, key)}")
        if seen := int(table["part"].isin(["train", "val"]).sum()):
            print_plain(
                console,
                f"warning: {seen} of {len(table)} images were used to train or select this trial.",
                style="yellow",
            )
        for path, reason in unreadable.items():
            print_plain(Console(stderr=True), f"can't be read: {path} ({reason})", style="bold red")
        return int(bool(unreadable))
