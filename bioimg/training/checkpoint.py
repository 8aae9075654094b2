"""A trial's tensors on disk: where it stands, and the weights of its best epoch. Reading them runs no code.

resume.pt            all that going on needs, after the newest epoch; resume.previous.pt after the one before
best.safetensors     the model at its best epoch
"""

import io
import json
import logging
import zipfile
from typing import Any

import safetensors.torch
import torch

from bioimg.results.folder import Folder
from bioimg.training.run import Run

RESUME, PREVIOUS, BEST = "resume.pt", "resume.previous.pt", "best.safetensors"

log = logging.getLogger("bioimg")


def save(run: Run, files: Folder, under: str) -> None:
    """Write all that going on needs, keeping what was there as the previous state.

    Nothing waits for the disk here: what a power failure spoils is found by its checksum, and the previous state is used.
    """
    state, content = run.state_dict(), io.BytesIO()
    if all(run.history[-1].val_loss < epoch.val_loss for epoch in run.history[:-1]):
        state["best"] = state["learner"]  # the same tensors, which are then written once
    torch.save(state, content)
    if files.size(f"{under}/{RESUME}") is not None:
        files.move(f"{under}/{RESUME}", f"{under}/{PREVIOUS}")
    files.write(f"{under}/{RESUME}", content.getbuffer(), flush=False)


def load(run: Run, files: Folder, under: str) -> None:
    """Go on where `save` left off; from the state before if the newest is damaged; from the beginning if there is none."""
    for name in (RESUME, PREVIOUS):
        try:
            content = files.read(f"{under}/{name}")
        except FileNotFoundError:
            continue
        if _whole(content):
            return run.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
        log.warning("%s/%s/%s is damaged: the trial goes on from what was saved before it.", files, under, name)
        files.delete(f"{under}/{name}")


def finish(run: Run, files: Folder, under: str, keep: str = "best") -> None:
    """Write the model as it is, with what predicting needs to know, and drop what going on needed: if `keep` says so.

    The model is whole, also where only its head was trained: it can then be used without the file its backbone came from.
    """
    if keep != "none":
        _export(run, files, under)
    if keep != "all":
        drop(files, under)


def stop(run: Run, files: Folder, under: str, keep: str = "best") -> None:
    """Keep the state that a stopped trial can be finished from, once, and flushed; with `all` its best epoch too."""
    if keep == "none":
        drop(files, under)
    elif keep == "all":
        run.restore_best()
        _export(run, files, under)
    elif files.size(f"{under}/{RESUME}") is not None and _whole(content := files.read(f"{under}/{RESUME}")):
        files.write(f"{under}/{RESUME}", content)
        files.delete(f"{under}/{PREVIOUS}")


def drop(files: Folder, under: str) -> None:
    """Delete what going on needed."""
    files.delete(f"{under}/{RESUME}")
    files.delete(f"{under}/{PREVIOUS}")


def _export(run: Run, files: Folder, under: str) -> None:
    about: dict[str, Any] = {
        "model": run.trial.model,
        "image_size": run.trial.image_size,
        "classes": list(run.images.classes),
        "normalisation": run.normalisation,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in run.classifier.model.state_dict().items()}
    files.write(f"{under}/{BEST}", safetensors.torch.save(tensors, metadata={"bioimg": json.dumps(about)}))


def _whole(content: bytes) -> bool:
    """Whether the bytes are those that `torch.save` wrote: its format is ZIP, with a checksum for each tensor."""
    try:
        return zipfile.ZipFile(io.BytesIO(content)).testzip() is None
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError):
        return False
