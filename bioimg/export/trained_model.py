"""A trial's model with what its exported files must say, and images to check them on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bioimg.config import TrialConfig
from bioimg.data.external_images import select_images
from bioimg.data.image_set import ImageSet, ScalingLimits
from bioimg.data.inference_images import load_experiment_images
from bioimg.data.pixel_cache import ProgressCallback
from bioimg.errors import UserError
from bioimg.experiment import SPLIT_FIELDS
from bioimg.models.checked_safetensors import SavedModel
from bioimg.models.classifier import Classifier
from bioimg.models.pretrained_weights import Normalisation
from bioimg.results.result_store import ResultStore
from bioimg.training import checkpoints, inference

CHECK_IMAGES = 16
"""Images of the experiment on which each exported file must predict what bioimg predicts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel:
    """The model of a completed trial, on the CPU in float32."""

    key: str
    name: str
    """The name of its exported folder."""
    trial: TrialConfig
    row: Mapping[str, Any]
    """The trial's row of the table."""
    saved: SavedModel
    classifier: Classifier

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the model's outputs."""
        return self.saved.metadata["classes"]

    @property
    def normalisation(self) -> Normalisation:
        """What images from 0 to 1 are normalised with."""
        return Normalisation(*self.saved.metadata["normalisation"])

    @property
    def scaling_limits(self) -> ScalingLimits | None:
        """The intensities that became 0 and 255, per channel; None for 8-bit images."""
        return self.saved.scaling_limits

    def blank_images(self) -> torch.Tensor:
        """Return two blank images, float32 [2, 3, S, S], to trace the model with."""
        return torch.zeros(2, 3, self.trial.image_size, self.trial.image_size)


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckImages:
    """Images of the experiment, at least one of each class, as the model sees them."""

    images: ImageSet
    stored_sizes: frozenset[tuple[int, int]]
    """Width and height of the stored images, before resizing."""

    def to_tensor(self) -> torch.Tensor:
        """Return float32 [N, 3, S, S], RGB from 0 to 1."""
        pixels = torch.from_numpy(self.images.pixels[np.arange(len(self.images))])
        return pixels.permute(0, 3, 1, 2).contiguous().float() / 255


def shorten_path(name: str) -> str:
    """Return the name of a model or of weights without the folders of this machine."""
    prefix, colon, path = name.rpartition(":")
    is_address = "://" in name
    return prefix + colon + Path(path).name if Path(path).is_absolute() and not is_address else name


def load_trained_model(store: ResultStore, key: str) -> TrainedModel:
    """Read the weights of a completed trial.

    Raises:
        UserError: they weren't kept, or are damaged.
    """
    row = store.tables.trial_rows("trials", key)[0]
    trial = TrialConfig.from_row(row)
    saved = checkpoints.load_best_model(store.storage, store.checkpoint_folder(key))
    return TrainedModel(
        key=key,
        name=f"{store.read_manifest()['name']}-{key}",
        trial=trial,
        row=row,
        saved=saved,
        classifier=inference.load_classifier(saved, trial),
    )


def load_check_images(
    store: ResultStore, model: TrainedModel, progress: ProgressCallback | None = None
) -> CheckImages:
    """Read some images of the experiment: of each class in turn, test images first.

    Raises:
        UserError: they aren't where they were.
    """
    config = model.trial.dataset_config
    known, decoded = load_experiment_images(config, model.scaling_limits, progress)
    rows = _choose_rows(known, _subset_by_image(store, model.trial))
    if not len(rows):
        raise UserError(
            f"the value of `data` of this trial is {config.data!r}, but none of its images is "
            "there, and an export is checked on some of them. Put them back."
        )
    infos = [decoded.readable_infos[row] for row in rows]
    return CheckImages(
        images=select_images(known, rows),
        stored_sizes=frozenset((info.width, info.height) for info in infos),
    )


def _subset_by_image(store: ResultStore, trial: TrialConfig) -> dict[str, str]:
    """Return the subset that each of a trial's images was in, by its path."""
    subsets = {}
    for row in store.read_assignments().to_pylist():
        if all(row[name] == getattr(trial, name) for name in SPLIT_FIELDS):
            subsets[row["image"]] = row["subset"]
    return subsets


def _choose_rows(images: ImageSet, subset_by_image: Mapping[str, str]) -> np.ndarray:
    """Return rows of images: an image of each class in turn, the test images first."""
    table = pd.DataFrame({"image": images.paths, "label": images.labels})
    table["order"] = table["image"].map(subset_by_image).map({"test": 0, "val": 1, "train": 2})
    table = table.dropna(subset="order").sort_values("order", kind="stable")
    table["turn"] = table.groupby("label").cumcount()
    count = max(CHECK_IMAGES, len(images.classes))
    return table.sort_values("turn", kind="stable").index.to_numpy()[:count]
