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
    import numpy as np
    import pandas as pd
    import torch

    from bioimg.data.image_set import ImageSet
    from bioimg.models.checked_safetensors import SavedModel
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

    best = statistics.best_configuration(chosen_results(results))
    if best is None:
        raise UserError(
            "the value of `folder` must be results with a completed trial, but there is none. Run "
            "the experiment."
        )
    if key is None:
        return select_run_keys(results, best)[0]
    completed = results.trials[results.trials["status"].eq("completed")]
    if key not in set(completed["key"]):
        raise unknown_value_error("key", key, completed["key"], "These trials are completed.")
    return key


def select_run_keys(results: "Results", key: str) -> list[str]:
    """Return the keys of all completed runs of a trial's recipe, the lowest validation loss first.

    They differ in seed and fold and, with tuned fields, in the values that folds chose.
    """
    from bioimg.results.chosen_values import chosen_results
    from bioimg.results.configurations import configuration_keys

    chosen = chosen_results(results).trials
    if key not in set(chosen["key"]):
        # of a value that wasn't chosen
        return [key]
    configurations = configuration_keys(chosen, results.tuned_fields)
    is_run = configurations.eq(configurations[chosen["key"].eq(key)].iloc[0])
    runs = chosen[is_run & chosen["status"].eq("completed")]
    return runs.sort_values("best_val_loss", kind="stable")["key"].tolist()


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
    results: "Results",
    folder: str,
    keys: Sequence[str],
    images: Path,
    *,
    typicality: bool = False,
) -> Predictions:
    """Predict the classes of an image, or of all images in a folder.

    Args:
        results: those in `folder`.
        folder: the results folder.
        keys: the trial, or several of one recipe whose mean probability counts, the best one first.
        images: an image, or a folder of images at any depth.
        typicality: add a column that says how typical each image is of the training images (see
            `bioimg.training.typicality`), for the first trial. The images of the experiment are
            read for it.

    Raises:
        UserError: the weights of a trial weren't kept, there are no images that it can use, or
            those of the experiment are needed and aren't where they were.
    """
    import numpy as np
    import pandas as pd

    from bioimg.data.inference_images import load_experiment_images
    from bioimg.results import statistics
    from bioimg.results.result_store import ResultStore
    from bioimg.training import inference

    store = ResultStore(folder)
    calibration = statistics.calibrate_trials(results, keys)
    trials = [_KeptTrial.load(store, key) for key in keys]
    first = trials[0]
    image_set, unreadable = _load_images(images, first)
    probabilities_by_trial = [first.predict(image_set)]
    for kept in trials[1:]:
        # of other training images, as those of another fold, the scaling can be another one
        own_images = image_set if kept.limits == first.limits else _load_images(images, kept)[0]
        probabilities_by_trial.append(kept.predict(own_images))
    probabilities = np.mean(probabilities_by_trial, axis=0)
    classes = first.saved_model.metadata["classes"]
    subsets = subset_by_digest(store, [kept.trial for kept in trials])
    table = pd.DataFrame(probabilities, columns=[f"probability of {name}" for name in classes])
    table.insert(0, "path", image_set.paths)
    table.insert(1, "prediction", [classes[index] for index in probabilities.argmax(1)])
    scaled = statistics.scale_probabilities(probabilities, calibration.temperature)
    table.insert(2, "confidence", scaled.max(axis=1))
    table.insert(3, "part", [subsets.get(digest) for digest in image_set.digests])
    scale = None
    if typicality:
        known, _ = load_experiment_images(first.trial.dataset_config, image_set.scaling_limits)
        known_subsets = [subsets.get(digest) for digest in known.digests]
        values, scale = inference.rate_typicality(
            first.saved_model,
            first.trial,
            known,
            known_subsets,
            image_set,
            first.dtype,
            first.device,
        )
        table.insert(3, "typicality", values)
    return Predictions(
        table=table, calibration=calibration, unreadable=unreadable, typicality_scale=scale
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _KeptTrial:
    """A trial whose weights were kept, ready to predict."""

    trial: TrialConfig
    saved_model: "SavedModel"
    dtype: "torch.dtype"
    device: "torch.device"

    @classmethod
    def load(cls, store: "ResultStore", key: str) -> "_KeptTrial":
        import torch

        from bioimg.training import checkpoints, precision

        row: Mapping[str, Any] = store.tables.trial_rows("trials", key)[0]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(
            trial=TrialConfig.from_row(row),
            saved_model=checkpoints.load_best_model(store.storage, store.checkpoint_folder(key)),
            dtype=precision.prediction_dtype(row, device),
            device=device,
        )

    @property
    def limits(self) -> tuple[tuple[float, float], ...] | None:
        """The intensities that training mapped to 0 and 255, per channel; None if it didn't."""
        scaling = self.saved_model.metadata.get("scaling")
        return tuple((low, high) for low, high in scaling) if scaling else None

    def predict(self, images: "ImageSet") -> "np.ndarray":
        """Return class probabilities, float32 [N, C]."""
        from bioimg.training import inference

        return inference.predict_probabilities(
            self.saved_model, self.trial, images, self.dtype, self.device
        )


def _load_images(path: Path, kept: _KeptTrial) -> "tuple[ImageSet, dict[str, str]]":
    """Read images as those of a trial are read, with the scaling of its training set."""
    from bioimg.data.inference_images import load_unlabelled_images

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading images", total=None)

        def show_progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return load_unlabelled_images(path, kept.trial.dataset_config, kept.limits, show_progress)


def subset_by_digest(store: "ResultStore", trials: Sequence[TrialConfig]) -> dict[str, str]:
    """Return the subset that each image of some trials was in, by the digest of its pixels.

    Of exact copies in several subsets, and of one image in several folds, training comes before
    validation, and that before the test.
    """
    from bioimg.experiment import SPLIT_FIELDS

    splits = {tuple(getattr(trial, name) for name in SPLIT_FIELDS) for trial in trials}
    rows = [
        row
        for row in store.read_assignments().to_pylist()
        if tuple(row[name] for name in SPLIT_FIELDS) in splits
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
