"""Find out whether models and weights are there, without importing torchvision or timm.

Their imports take seconds, in which Ray starts. So a run asks here before it starts Ray. Only where
the answer is no, which may be wrong, it imports them first and looks again.
"""

import functools
import importlib.util
import re
from pathlib import Path

from bioimg.models import hub_files
from bioimg.models.hub_files import Repository
from bioimg.models.pathology import PATHOLOGY_MODELS


def is_surely_available(model: str, weights: str) -> bool:
    """Return True if there are such a model and weights, beyond doubt.

    Weights of timm and of the Hugging Face hub are on this machine then. Those of torchvision may
    have to be downloaded.
    """
    has_name = weights != "none" and not Path(weights).is_file()
    prefix, _, name = model.partition(":")
    if prefix == "folder":
        return weights == "DEFAULT" and hub_files.is_model_folder(Path(name))
    if prefix == "timm":
        return _is_in_timm(name, weights if has_name else None)
    if prefix == "hub" or model in PATHOLOGY_MODELS:
        repository = name if prefix == "hub" else PATHOLOGY_MODELS[model].repository
        is_cached = hub_files.find_cached_weights(Repository.parse(repository)) is not None
        return weights == "DEFAULT" and is_cached
    return _is_in_torchvision(model, weights if has_name else None)


def _is_in_timm(name: str, weights: str | None) -> bool:
    """Return True if timm has an architecture, and its weights, if they have a name, are here."""
    architecture, _, tag = name.partition(".")
    if f"\ndef {architecture}(" not in _read_source("timm"):
        return False
    if weights is None:
        return True
    if weights == "DEFAULT":
        # only timm knows which tag is an architecture's first
        return hub_files.is_any_cached(f"timm/{architecture}.{tag or '*'}")
    # a tag in the name leaves no choice
    return not tag and hub_files.is_any_cached(f"timm/{architecture}.{weights}")


def _is_in_torchvision(model: str, weights: str | None) -> bool:
    """Return True if torchvision or this package has a classifier with weights of this name."""
    source = _read_source("torchvision") + _read_source("bioimg")
    builder = re.search(rf"\ndef {re.escape(model)}\([^)]*?(\w+_Weights|\w+Weights)\b", source)
    if builder is None:
        return False
    if weights in (None, "DEFAULT"):
        return True
    _, _, entries = source.partition(f"\nclass {builder[1]}(")
    # the class ends where a line isn't indented
    entries = re.split(r"\n(?=\S)", entries, maxsplit=1)[0]
    return f"\n    {weights} = " in entries


@functools.cache
def _read_source(package: str) -> str:
    """Return the source of the modules in which a package defines models, without running it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    files = sorted(Path(spec.origin).parent.glob("models/*.py"))
    return "\n".join(file.read_text(encoding="utf-8") for file in files)
