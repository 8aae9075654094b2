"""What a `weights` name means: tensors for the backbone and the normalisation they were trained with.

A name is one of torchvision's for the model (`IMAGENET1K_V1`, `DEFAULT`), a file, or `none`. Weights that
aren't available are an error: random ones never replace them.
"""

import contextlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

import safetensors.torch
import torch
from filelock import FileLock
from safetensors import SafetensorError
from torchvision.models import WeightsEnum, get_model_weights

from bioimg.errors import UserError, unknown_value_error

WEIGHTS_FILE_SUFFIXES = (".pth", ".pt", ".safetensors")


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel (R, G, B) on a scale of 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET_NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def weights_entry(model: str, weights: str) -> WeightsEnum | None:
    """torchvision's entry for a weights name; None for a file or `none`.

    Raises:
        UserError: there is no such name and no such file.
    """
    if weights == "none":
        return None
    if weights.endswith(WEIGHTS_FILE_SUFFIXES):
        if not Path(weights).is_file():
            raise UserError(
                f"the value of `weights` is {weights!r}, but there is no such file. Check the path."
            )
        return None
    known = get_model_weights(model).__members__
    if weights not in known:
        raise unknown_value_error(
            "weights",
            weights,
            [*known, "none"],
            f"A file ends in {', '.join(WEIGHTS_FILE_SUFFIXES)}. (`model` is {model!r}.)",
        )
    return known[weights]


def weights_normalisation(model: str, weights: str) -> Normalisation:
    """That of the weights entry; for a file or `none`, that of the model's first entry, so that only weights differ."""
    chosen = weights_entry(model, weights) or next(iter(get_model_weights(model)), None)
    preset = chosen.transforms() if chosen else None
    return (
        Normalisation(tuple(preset.mean), tuple(preset.std)) if preset else IMAGENET_NORMALISATION
    )


def load_weights(model: str, weights: str) -> dict[str, torch.Tensor]:
    """The tensors of a weights name other than `none`, on the CPU, as they are stored: the head included if it is there.

    Raises:
        UserError: they aren't cached and can't be downloaded, or the file can't be read.
    """
    named = weights_entry(model, weights)
    return _fetch_weights(named) if named else _read_weights_file(Path(weights))


def check_and_strip_head(
    tensors: Mapping[str, torch.Tensor], model: torch.nn.Module, head: str, weights: str
) -> dict[str, torch.Tensor]:
    """The tensors of all but the head, after checking that they are exactly those of the model.

    Raises:
        UserError: lists what is missing, unexpected or of another shape.
    """
    wanted = {
        name: tensor.shape
        for name, tensor in model.state_dict().items()
        if not name.startswith(f"{head}.")
    }
    found = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{head}.")}
    problems = {
        "missing": [
            name
            for name in wanted
            if name not in found and not name.endswith("num_batches_tracked")
        ],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} ({tuple(found[name].shape)} for {tuple(shape)})"
            for name, shape in wanted.items()
            if name in found and found[name].shape != shape
        ],
    }
    if any(problems.values()):
        details = "; ".join(
            f"{kind}: {_format_names(names)}" for kind, names in problems.items() if names
        )
        raise UserError(
            f"the value of `weights` is {weights!r}, but its tensors must be those of `model`. {details}."
        )
    return found


def require_same_weights(weights: str, digest: str, earlier: str | None) -> None:
    """Check the digest of the tensors behind a weights name against an earlier one, if there is one.

    Raises:
        UserError: the name stands for other tensors than before.
    """
    if earlier is not None and digest != earlier:
        raise UserError(
            f"the value of `weights` is {weights!r}, but these aren't the weights that these results were started with: "
            f"the digest of the tensors without the head is {digest[:16]} and was {earlier[:16]}. Restore the earlier weights "
            "under that name, give the new ones another name, or choose another folder with --out."
        )


def _format_names(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _fetch_weights(named: WeightsEnum) -> dict[str, torch.Tensor]:
    """From torch's own folder. If several processes need a file that isn't there, one downloads it and the others wait."""
    target = Path(torch.hub.get_dir()) / "checkpoints" / Path(named.url).name
    try:
        with (
            contextlib.nullcontext()
            if target.exists() or not named.url.startswith("http")
            else _download_lock(target)
        ):
            return dict(named.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except (URLError, OSError) as error:
        raise UserError(
            f"the value of `weights` is {named.name!r}, but it isn't on this machine and can't be downloaded ({error}). "
            f"Download {named.url} on a machine with network access and copy it to {target}, or give a file as `weights`."
        ) from error


def _download_lock(target: Path) -> FileLock:
    target.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{target}.lock")


def _read_weights_file(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors = (
            safetensors.torch.load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the value of `weights` is {str(path)!r}, but it can't be read as tensors: {reason}"
        ) from error
    if not isinstance(tensors, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in tensors.values()
    ):
        raise UserError(
            f"the value of `weights` is {str(path)!r}, but it must hold a state dict: names and tensors, nothing else. "
            "Save `model.state_dict()`."
        )
    return dict(tensors)
