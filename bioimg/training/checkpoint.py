"""A trial's tensors on disk: where it stands, and the weights of its best epoch. Reading them runs no code."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from bioimg.results.store import replace
from bioimg.training.run import Run

RESUME, BEST = "resume.pt", "best.safetensors"


def save(run: Run, folder: Path) -> None:
    """Write all that going on needs."""
    folder.mkdir(parents=True, exist_ok=True)
    state = run.state_dict()
    replace(folder / RESUME, lambda path: torch.save(state, path))


def load(run: Run, folder: Path) -> None:
    """Go on where `save` left off; from the beginning if it never did."""
    if (folder / RESUME).exists():
        run.load_state_dict(torch.load(folder / RESUME, map_location="cpu", weights_only=True))


def finish(run: Run, folder: Path) -> None:
    """Write the model as it is, with what predicting needs to know, and drop what going on needed."""
    about: dict[str, Any] = {
        "model": run.trial.model,
        "image_size": run.trial.image_size,
        "classes": list(run.images.classes),
        "normalisation": run.normalisation,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in run.classifier.model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / BEST, lambda path: safetensors.torch.save_file(tensors, path, metadata={"bioimg": json.dumps(about)}))
    (folder / RESUME).unlink(missing_ok=True)
