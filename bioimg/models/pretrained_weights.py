"""What a `weights` name means: tensors for the backbone, and the normalisation of their training.

A name is one of torchvision's for the model (`IMAGENET1K_V1`, `DEFAULT`), a file, or `none`.
Weights that aren't available are an error: random ones never replace them.
"""

import contextlib
import pickle
import zipfile
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from filelock import FileLock
from safetensors import SafetensorError
from torchvision.models import WeightsEnum, get_model_weights

from bioimg.errors import UserError, unknown_value_error

WEIGHTS_FILE_SUFFIXES = (".pth", ".pt", ".safetensors")
UNREADABLE_ERRORS = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    zipfile.BadZipFile,
)
"""What safetensors and torch raise for a file that isn't theirs."""


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel (R, G, B) on a scale of 0 to 1.

    The key of cached features contains its repr: other names would discard all of them.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET_NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def weights_entry(model: str, weights: str) -> WeightsEnum | None:
    """Return torchvision's entry for a weights name, or None for a file or `none`.

    Raises:
        UserError: there is no such name and no such file.
    """
    if weights == "none":
        return None
    if weights.endswith(WEIGHTS_FILE_SUFFIXES):
        check_weights_file(weights)
        return None
    entries = get_model_weights(model).__members__
    if weights not in entries:
        suffixes = ", ".join(WEIGHTS_FILE_SUFFIXES)
        hint = f"A file ends in {suffixes}. (`model` is {model!r}.)"
        raise unknown_value_error("weights", weights, [*entries, "none"], hint)
    return entries[weights]


def check_weights_file(weights: str) -> None:
    """Check that there is a file of weights.

    Raises:
        UserError: there is none.
    """
    if not Path(weights).is_file():
        raise UserError(
            f"the value of `weights` is {weights!r}, but there is no such file. Check the path."
        )


def weights_normalisation(model: str, weights: str) -> Normalisation:
    """Return the normalisation that the weights were trained with.

    A file and `none` get that of the model's first entry, so that only the weights differ.
    """
    entry = weights_entry(model, weights) or next(iter(get_model_weights(model)), None)
    if entry is None:
        return IMAGENET_NORMALISATION
    preset = entry.transforms()
    return Normalisation(tuple(preset.mean), tuple(preset.std))


def load_weights(model: str, weights: str) -> Mapping[str, torch.Tensor]:
    """Load the state dict of a weights name other than `none` on the CPU, as stored.

    It has a head, and the versions of its names (see `bioimg.models.state_dicts`).

    Raises:
        UserError: they aren't cached and can't be downloaded, or the file can't be read.
    """
    entry = weights_entry(model, weights)
    return _fetch_weights(entry) if entry else read_weights_file(Path(weights))


def require_same_weights(weights: str, digest: str, earlier: str | None) -> None:
    """Check the digest of the tensors behind a weights name against an earlier one, if any.

    Raises:
        UserError: the name stands for other tensors than before.
    """
    if earlier is not None and digest != earlier:
        raise UserError(
            f"the value of `weights` is {weights!r}, but these aren't the weights that these "
            "results were started with: the digest of the tensors without the head is "
            f"{digest[:16]} and was {earlier[:16]}. Restore the earlier weights under that name, "
            "give the new ones another name, or choose another folder with --out."
        )


def _fetch_weights(entry: WeightsEnum) -> Mapping[str, torch.Tensor]:
    """Read weights from torch's own folder, after downloading them if needed.

    If several processes need a file that isn't there, one downloads it and the others wait.
    """
    target = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    needs_download = entry.url.startswith("http") and not target.exists()
    try:
        with _download_lock(target) if needs_download else contextlib.nullcontext():
            return entry.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except UNREADABLE_ERRORS as error:
        if not target.exists():
            raise UserError(
                f"the value of `weights` is {entry.name!r}, but what came from {entry.url} isn't "
                f"that file: {_first_line(error)}. Try again, or copy the file to {target}."
            ) from error
        raise UserError(
            f"the value of `weights` is {entry.name!r}, but its file {target} is cut off or "
            f"damaged: {_first_line(error)}. Delete it and run the same command again to download "
            "it anew."
        ) from error
    except (OSError, HTTPException) as error:
        raise UserError(
            f"the value of `weights` is {entry.name!r}, but it isn't on this machine and can't be "
            f"downloaded ({error}). Download {entry.url} on a machine with network access and copy "
            f"it to {target}, or give a file as `weights`."
        ) from error


def _download_lock(target: Path) -> FileLock:
    target.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{target}.lock")


def read_weights_file(path: Path) -> Mapping[str, torch.Tensor]:
    """Read the tensors of a file, without unpickling anything else.

    Raises:
        UserError: it can't be read, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            tensors = safetensors.torch.load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE_ERRORS as error:
        raise UserError(
            f"the value of `weights` is {str(path)!r}, but it can't be read as tensors: "
            f"{_first_line(error)}. Is it whole? Copy or download it again."
        ) from error
    if not _is_state_dict(tensors):
        raise UserError(
            f"the value of `weights` is {str(path)!r}, but it must hold a state dict: names and "
            "tensors, nothing else. Save `model.state_dict()`."
        )
    return tensors


def _first_line(error: Exception) -> str:
    """Return the first line of a message, without its full stop, or the name of the exception."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def _is_state_dict(content: object) -> bool:
    return isinstance(content, Mapping) and all(
        isinstance(value, torch.Tensor) for value in content.values()
    )
