"""The command `bioimg predict`. Most imports happen when it runs, so that its help is instant."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from bioimg.data.intensity_scaling import describe_clipping
from bioimg.errors import UserError
from bioimg.prediction.kept_trial import format_trial, select_run_keys, select_trial_key
from bioimg.prediction.predict_images import predict_images
from bioimg.progress.console import print_plain
from bioimg.report.open_results import open_results

if TYPE_CHECKING:
    import pandas as pd

    from bioimg.results.result_store import Results
    from bioimg.results.statistics import Calibration
    from bioimg.training.typicality import TypicalityScale


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """Predict the classes of new images, with probabilities, by the best trial of an experiment.

    An interrupted command goes on when it is repeated.
    """

    folder: Annotated[str, Positional, arg(metavar="RESULTS")]
    """Results folder, such as results/grid or s3://bucket/grid"""
    images: Annotated[Path, Positional, arg(metavar="IMAGES")]
    """Image, or folder of images at any depth; they are read like those of the experiment"""
    key: str | None = None
    """Key of another completed trial; by default the one in the report's headline"""
    all_runs: bool = False
    """Predict by the mean probability of all completed runs of the recipe, its seeds and folds"""
    typicality: bool = False
    """Add a column that says how typical each image is of the training images: the share of
    validation images that are at least as far from these, in the model's features. The images of
    the experiment are read for it"""
    explain: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder for a picture of each image (at most 500) with what raises the score of the predicted
    class in colour: Grad-CAM of the trial, with --all-runs of the first. No evidence that a model
    looks at the right tissue"""
    out: Path = Path("predictions.csv")
    """Table to write, as CSV or .parquet; an existing file isn't overwritten.
    Columns: path, prediction, confidence (its probability, with the temperature that validation
    images gave), the subset of the experiment (train, val, test) that has the image, if any, and
    the class probabilities of the model"""

    def run(self) -> int:
        """Write the table. Return 0, or 1 if an image couldn't be read.

        Raises:
            UserError: the table exists, there is no such trial, its weights weren't kept, or there
                are no images that it can use.
        """
        if self.out.exists():
            raise UserError(
                f"the value of `out` is {str(self.out)!r}, which exists. Name another with --out, "
                "or remove it."
            )
        results = open_results(self.folder)
        key = select_trial_key(results, self.key)
        keys = select_run_keys(results, key) if self.all_runs else [key]
        predictions = predict_images(
            results,
            self.folder,
            keys,
            self.images,
            typicality=self.typicality,
            explain=self.explain,
            out=self.out,
        )
        table = predictions.table
        console = Console()
        counts = _format_counts(table)
        model = f"trial {key}" if len(keys) == 1 else f"the mean of {len(keys)} trials"
        print_plain(console, f"Predicted by {model}: {counts}. Written to {self.out}.")
        print_plain(console, f"Its recipe: {format_trial(results, key)}")
        if len(keys) > 1:
            print_plain(console, _format_mean(results, keys, predictions.calibration))
        print_plain(console, _format_calibration(predictions.calibration))
        if predictions.typicality_scale:
            print_plain(console, _format_unlike(table, predictions.typicality_scale))
        if self.explain:
            text = f"Pictures, and what they are not (README.txt): {self.explain}."
            print_plain(console, text)
        _warn_of_known_images(table, console)
        if text := describe_clipping(predictions.clipped_share):
            print_plain(console, f"warning: {text}", style="yellow")
        for path, reason in predictions.unreadable.items():
            print_plain(Console(stderr=True), f"can't be read: {path} ({reason})", style="bold red")
        return int(bool(predictions.unreadable))


def _format_counts(table: "pd.DataFrame") -> str:
    counts = table["prediction"].value_counts()
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _format_mean(results: "Results", keys: Sequence[str], calibration: "Calibration") -> str:
    """Compare the mean of runs with the runs alone on the test images."""
    from bioimg.report.formatting import format_percent

    runs = results.trials[results.trials["key"].isin(list(keys))]
    together, alone = calibration.test_accuracy, runs["test_accuracy"].mean()
    text = (
        f"Of {calibration.test_images} test images the mean has {format_percent(together)} "
        f"correct, and its trials alone {format_percent(alone)} on average."
    )
    if runs["fold"].nunique() > 1:
        text += " Each image counts by the trials that didn't train on it."
    return text


def _format_calibration(calibration: "Calibration") -> str:
    from bioimg.report.formatting import format_percent

    before, after = map(format_percent, (calibration.error_before, calibration.error_after))
    return (
        f"Confidence: with temperature {calibration.temperature:.2f} from "
        f"{calibration.val_images} validation images. It changes the expected calibration error of "
        f"the {calibration.test_images} test images from {before} to {after}."
    )


def _format_unlike(table: "pd.DataFrame", scale: "TypicalityScale") -> str:
    from bioimg.training.typicality import UNLIKE_LEVEL

    val_images = len(scale.val_distances)
    if not scale.can_tell_unlike:
        return f"Typicality: {val_images} validation images are too few to call an image unlike."
    unlike = int(table["typicality"].lt(UNLIKE_LEVEL).sum())
    false_alarms = int((scale.rate(scale.val_distances) < UNLIKE_LEVEL).sum())
    return (
        f"Unlike the training images (typicality below {UNLIKE_LEVEL:g}): {unlike} of "
        f"{len(table)} images. Of {val_images} validation images it would call {false_alarms} so."
    )


def _warn_of_known_images(table: "pd.DataFrame", console: Console) -> None:
    known = int(table["part"].isin(["train", "val"]).sum())
    if known:
        text = f"warning: {known} of {len(table)} images were used to train or select this trial."
        print_plain(console, text, style="yellow")
