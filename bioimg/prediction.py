"""Apply the best trial of an experiment, or another one, to new images.

Most imports happen when a function runs, so that the help of `bioimg predict` is instant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress as Bar

from bioimg.config import TrialConfig
from bioimg.errors import UserError, unknown_value_error

if TYPE_CHECKING:
    import pandas as pd

    from bioimg.data.image_set import ImageSet
    from bioimg.results.result_store import Results, ResultStore
    from bioimg.results.statistics import Calibration
    from bioimg.training.typicality import TypicalityScale


def select_trial_key(results: "Results", key: str | None) -> str:
    """Return the key of the completed trial to use.

    By default it is a trial of the best configuration, with the chosen values of tuned fields: of
    its repeats the one with the lowest validation loss.

    Raises:
        UserError: that trial isn't completed, or none is.
    """
    from bioimg.results import statistics
    from bioimg.results.chosen_values import chosen_results
    from bioimg.results.configurations import configuration_keys

    chosen = chosen_results(results)
    best = statistics.best_configuration(chosen)
    if best is None:
        raise UserError(
            "the value of `folder` must be results with a completed trial, but there is none. Run "
            "the experiment."
        )
    if key is None:
        configurations = configuration_keys(chosen.trials, results.tuned_fields)
        is_completed = chosen.trials["status"].eq("completed")
        repeats = chosen.trials[is_completed & configurations.eq(best)]
        return str(repeats.set_index("key")["best_val_loss"].idxmin())
    completed = results.trials[results.trials["status"].eq("completed")]
    if key not in set(completed["key"]):
        raise unknown_value_error("key", key, completed["key"], "These trials are completed.")
    return key


def format_trial(results: "Results", key: str) -> str:
    """Return the model of a trial and the settings in which it differs from others."""
    from bioimg.results.configurations import REPEAT_FIELDS, varying_fields

    row = results.trials.set_index("key").loc[key]
    names = (
        "model",
        "weights",
        "freeze",
        *varying_fields(results.trials, tuned=()),
        *REPEAT_FIELDS,
    )
    return " ".join(f"{name}={row[name]}" for name in dict.fromkeys(names))


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What a trial says of new images."""

    table: "pd.DataFrame"
    """One row per image: path, prediction, confidence, part, and the probability of each class."""
    calibration: "Calibration"
    """How `confidence`, the probability of the predicted class, was made."""
    unreadable: dict[str, str]
    """Why other images can't be read, by path."""
    typicality_scale: "TypicalityScale | None"
    """What the column `typicality` was measured by; None without it."""


def predict_images(
    results: "Results", folder: str, key: str, images: Path, *, typicality: bool = False
) -> Predictions:
    """Predict the classes of an image, or of all images in a folder.

    typicality: add a column that says how typical each image is of the training images (see
        `bioimg.training.typicality`). The images of the experiment are read for it.

    Raises:
        UserError: the weights of the trial weren't kept, there are no images that it can use, or
            those of the experiment are needed and aren't where they were.
    """
    import pandas as pd
    import torch

    from bioimg.data.inference_images import load_experiment_images
    from bioimg.results import statistics
    from bioimg.results.result_store import ResultStore
    from bioimg.training import checkpoints, inference

    store = ResultStore(folder)
    calibration = statistics.calibrate_trial(results, key)
    row: Mapping[str, Any] = store.tables.trial_rows("trials", key)[0]
    trial = TrialConfig.from_row(row)
    saved_model = checkpoints.load_best_model(store.storage, store.checkpoint_folder(key))
    image_set, unreadable = _load_images(images, trial, saved_model.metadata.get("scaling"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, row["precision_used"])
    probabilities = inference.predict_probabilities(saved_model, trial, image_set, dtype, device)
    classes = saved_model.metadata["classes"]
    subsets = subset_by_digest(store, trial)
    table = pd.DataFrame(probabilities, columns=[f"probability of {name}" for name in classes])
    table.insert(0, "path", image_set.paths)
    table.insert(1, "prediction", [classes[index] for index in probabilities.argmax(1)])
    scaled = statistics.scale_probabilities(probabilities, calibration.temperature)
    table.insert(2, "confidence", scaled.max(axis=1))
    table.insert(3, "part", [subsets.get(digest) for digest in image_set.digests])
    scale = None
    if typicality:
        known, _ = load_experiment_images(trial.dataset_config, image_set.scaling_limits)
        known_subsets = [subsets.get(digest) for digest in known.digests]
        values, scale = inference.rate_typicality(
            saved_model, trial, known, known_subsets, image_set, dtype, device
        )
        table.insert(3, "typicality", values)
    return Predictions(
        table=table, calibration=calibration, unreadable=unreadable, typicality_scale=scale
    )


def _load_images(
    path: Path, trial: TrialConfig, scaling: Sequence[Sequence[float]] | None
) -> "tuple[ImageSet, dict[str, str]]":
    """Read images as those of a trial are read, with the scaling of its training set."""
    from bioimg.data.inference_images import load_unlabelled_images

    limits = tuple((low, high) for low, high in scaling) if scaling else None
    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading images", total=None)

        def show_progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return load_unlabelled_images(path, trial.dataset_config, limits, show_progress)


def subset_by_digest(store: "ResultStore", trial: TrialConfig) -> dict[str, str]:
    """Return the subset that each of a trial's images was in, by the digest of its pixels.

    Of exact copies in several subsets, training comes before validation, and that before the test.
    """
    from bioimg.experiment import SPLIT_FIELDS

    rows = [
        row
        for row in store.read_assignments().to_pylist()
        if all(row[name] == getattr(trial, name) for name in SPLIT_FIELDS)
    ]
    subsets: dict[str, str] = {}
    for subset in ("test", "val", "train"):
        subsets |= {row["digest"]: subset for row in rows if row["subset"] == subset}
    return subsets


def write_predictions(table: "pd.DataFrame", out: Path) -> None:
    """Write a CSV file, or a Parquet file if its name ends in .parquet.

    Raises:
        UserError: it can't be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".parquet":
            table.to_parquet(out, index=False)
        else:
            table.to_csv(out, index=False)
    except OSError as error:
        raise UserError(
            f"the value of `out` is {str(out)!r}, which can't be written: {error}."
        ) from error
