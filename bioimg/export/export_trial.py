"""Write a trial's model in other formats, with a model card, and check what they predict."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from bioimg.data.pixel_cache import ProgressCallback
from bioimg.errors import UserError
from bioimg.export import model_folder, onnx_file, qupath
from bioimg.export.model_card import format_card
from bioimg.export.trained_model import (
    CheckImages,
    TrainedModel,
    load_check_images,
    load_trained_model,
)
from bioimg.models.licences import NO_DERIVATIVES_CLAUSE, forbids_sharing
from bioimg.models.pathology import PATHOLOGY_MODELS
from bioimg.results.result_store import Results, ResultStore
from bioimg.training.inference import TrialPredictor

ExportFormat = Literal["qupath", "onnx", "folder"]
TOLERANCE = 1e-4
"""The largest difference of a probability from what `bioimg predict` gives."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is exported, and where to."""

    formats: Sequence[ExportFormat] = ("folder",)
    out: Path = Path("export")
    um_per_pixel: float | None = None
    """Size of a pixel of the stored images, in micrometres."""
    licence_read: bool = False
    """Export even if the licence of the pretrained weights forbids passing on the model."""


def export_trial(
    results: Results,
    folder: str,
    key: str,
    options: ExportOptions,
    progress: ProgressCallback | None = None,
) -> Path:
    """Export the model of a completed trial. Return its folder, which is whole or absent.

    Raises:
        UserError: a format can't take the model, the licence of its weights forbids it, its folder
            exists, or an exported file doesn't predict what bioimg predicts.
    """
    store = ResultStore(folder)
    model = load_trained_model(store, key)
    licence = find_licence(model)
    if forbids_sharing(licence) and not options.licence_read:
        raise UserError(
            f"the weights of `model` {model.trial.model!r} have the licence {licence}, which "
            f"forbids passing on models that are trained from them ({NO_DERIVATIVES_CLAUSE}). If "
            "the export stays with you, or its publisher has agreed, add --licence-read."
        )
    target = options.out / model.name
    if target.exists():
        raise UserError(
            f"the value of `out` is {str(options.out)!r}, but {target} exists. Name another folder "
            "with --out, or remove it."
        )
    if "onnx" in options.formats:
        onnx_file.check_usable()
    images = load_check_images(store, model, progress)
    if "qupath" in options.formats:
        qupath.check_usable(model, images, options.um_per_pixel)
    unfinished = options.out / f".{model.name}.{os.getpid()}.partial"
    try:
        unfinished.mkdir(parents=True)
        given = _write_formats(model, images, options, unfinished)
        check = _compare_probabilities(model, images, given)
        _write_json(unfinished / "classes.json", model.classes)
        _write_json(unfinished / "check.json", check)
        has_loader = (unfinished / "folder" / model_folder.LOADER_FILE).exists()
        card = format_card(
            results, model, images, licence, check, options.um_per_pixel, has_loader=has_loader
        )
        (unfinished / "README.md").write_text(card, encoding="utf-8")
        unfinished.rename(target)
    except OSError as error:
        raise UserError(
            f"the value of `out` is {str(options.out)!r}, which can't be written: {error}."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def find_licence(model: TrainedModel) -> str:
    """Return the licence of the pretrained weights; empty where nothing says one."""
    if model.trial.weights == "none":
        return ""
    known = PATHOLOGY_MODELS.get(model.trial.model)
    return model.row["weights_licence"] or (known.licence if known else "")


def _write_formats(
    model: TrainedModel, images: CheckImages, options: ExportOptions, folder: Path
) -> dict[str, np.ndarray]:
    """Write each format and read it again. Return what it predicts for the images, by format."""
    inputs = images.to_tensor()
    given: dict[str, torch.Tensor] = {}
    for name in dict.fromkeys(options.formats):
        match name:
            case "qupath":
                assert options.um_per_pixel is not None
                model_files = folder / "qupath" / model.name
                qupath.write_files(model, images, options.um_per_pixel, model_files)
                given[name] = qupath.predict_probabilities(model_files, inputs)
            case "onnx":
                onnx_file.write_file(model, folder / "model.onnx")
                given[name] = onnx_file.predict_probabilities(folder / "model.onnx", inputs)
            case "folder":
                model_folder.write_files(model, folder / "folder")
                given[name] = model_folder.predict_probabilities(folder / "folder", inputs)
    return {name: probabilities.numpy() for name, probabilities in given.items()}


def _compare_probabilities(
    model: TrainedModel, images: CheckImages, given: Mapping[str, np.ndarray]
) -> dict[str, object]:
    """Compare what the formats predict with what `bioimg predict` does. Return the content of
    check.json.

    All formats compute in float32. If `bioimg predict` uses another precision for this trial, the
    difference is recorded, too.

    Raises:
        UserError: they differ.
    """
    expected = _predict(model, images, torch.float32)
    for name, probabilities in given.items():
        differences = np.abs(probabilities - expected).max(1)
        is_other_class = probabilities.argmax(1) != expected.argmax(1)
        if differences.max() > TOLERANCE or is_other_class.any():
            worst = int(np.argmax(differences + is_other_class))
            raise UserError(
                f"the probabilities by `{name}` differ from those of `bioimg predict` by "
                f"{differences[worst]:.2g} for {images.images.paths[worst]}, but must be equal "
                f"within {TOLERANCE:g}, with equal classes. Nothing was exported. Leave {name} out "
                "of --to, and report this with the versions in experiment.json."
            )
    precision_used = model.row["precision_used"]
    in_precision = _predict(model, images, getattr(torch, precision_used))
    return {
        "trial": model.key,
        "tolerance": TOLERANCE,
        "largest_difference": {
            name: float(np.abs(probabilities - expected).max())
            for name, probabilities in given.items()
        },
        "precision_of_predict": precision_used,
        "difference_of_precision": float(np.abs(in_precision - expected).max()),
        "images": [
            {"image": path, "label": model.classes[label], "probabilities": row.tolist()}
            for path, label, row in zip(
                images.images.paths, images.images.labels, expected, strict=True
            )
        ],
    }


def _predict(model: TrainedModel, images: CheckImages, dtype: torch.dtype) -> np.ndarray:
    cpu = torch.device("cpu")
    return TrialPredictor(model.saved, model.trial, dtype, cpu).predict(images.images)


def _write_json(file: Path, content: object) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")
