"""The command `bioimg predict`: the winner on new images. Most imports happen when it runs, so that its help is instant."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.progress import Progress as Bar
from tyro.conf import Positional, arg

from bioimg.cli.report import open_results
from bioimg.config import TrialConfig
from bioimg.errors import UserError, unknown_value_error
from bioimg.progress.console import print_plain

if TYPE_CHECKING:
    import pandas as pd

    from bioimg.results.result_store import Results, ResultStore


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


def select_trial_key(results: "Results", key: str | None) -> str:
    """The completed trial with this key; by default that of the best configuration, of its repeats the best by validation.

    Raises:
        UserError: that trial isn't completed, or none is.
    """
    from bioimg.results import statistics
    from bioimg.results.configurations import configuration_keys

    completed = results.trials[results.trials["status"].eq("completed")]
    best = statistics.best_configuration(results)
    if best is None:
        raise UserError(
            "the value of `folder` must be results with a completed trial, but there is none. Run the experiment."
        )
    if key is not None and key not in set(completed["key"]):
        raise unknown_value_error("key", key, completed["key"], "These trials are completed.")
    repeats = completed[configuration_keys(results.trials)[completed.index].eq(best)]
    return key or str(repeats.set_index("key")["best_val_loss"].idxmin())


def format_trial(results: "Results", key: str) -> str:
    """The model of a trial, and the settings in which it differs from others of its experiment."""
    from bioimg.results.configurations import REPEAT_FIELDS, varying_fields

    row, names = (
        results.trials.set_index("key").loc[key],
        ("model", "weights", "freeze", *varying_fields(results.trials), *REPEAT_FIELDS),
    )
    return " ".join(f"{name}={row[name]}" for name in dict.fromkeys(names))


def predict_images(folder: str, key: str, place: Path) -> "tuple[pd.DataFrame, dict[str, str]]":
    """A row for each image that can be read, and why others can't, by path.

    Raises:
        UserError: as `run`.
    """
    import pandas as pd
    import torch

    from bioimg.data.inference_images import load_unlabelled_images
    from bioimg.results.result_store import ResultStore
    from bioimg.training import checkpoints, inference

    store = ResultStore(folder)
    row: Mapping[str, Any] = store.tables.trial_rows("trials", key)[0]
    trial, saved = (
        TrialConfig.from_row(row),
        checkpoints.load_best_model(store.storage, store.checkpoint_folder(key)),
    )
    scaling = saved.metadata.get("scaling")
    limits = tuple((low, high) for low, high in scaling) if scaling else None
    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading images", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        images, unreadable = load_unlabelled_images(place, trial, limits, show)
    device, dtype = (
        torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        getattr(torch, row["precision_used"]),
    )
    chances = inference.predict_probabilities(saved, trial, images, dtype, device)
    classes = saved.metadata["classes"]
    table = pd.DataFrame(chances, columns=[f"probability of {name}" for name in classes])
    table.insert(0, "path", images.paths)
    table.insert(1, "prediction", [classes[chosen] for chosen in chances.argmax(1)])
    known = subset_by_digest(store, trial)
    table.insert(2, "part", [known.get(digest) for digest in images.digests])
    return table, unreadable


def subset_by_digest(store: "ResultStore", trial: TrialConfig) -> dict[str, str]:
    """In which part of the experiment each of a trial's images was, by the digest of its pixels: of exact copies in several
    parts, training comes before validation, and that before the test."""
    from bioimg.results.image_assignments import SPLIT_COLUMNS

    rows = [
        row
        for row in store.read_assignments().to_pylist()
        if all(row[name] == getattr(trial, name) for name in SPLIT_COLUMNS)
    ]
    found: dict[str, str] = {}
    for subset in ("test", "val", "train"):
        found |= {row["digest"]: subset for row in rows if row["subset"] == subset}
    return found


def write_predictions(table: "pd.DataFrame", out: Path) -> None:
    """Write a CSV file.

    Raises:
        UserError: it can't be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(out, index=False)
    except OSError as error:
        raise UserError(
            f"the value of `out` is {str(out)!r}, which can't be written: {error}."
        ) from error
